"""The chat templates of real models, as llama.cpp collects them: each renders in the sandbox as it does outside."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from jinja2 import FileSystemLoader, Template, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from beastd.contract import Message
from beastd.engine.prompt import ChatTemplate
from beastd.errors import BadRequest

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
CHATS = {
    "system": [("system", "SYSTEM-TEXT: be brief."), ("user", "FIRST-QUESTION, with “quotes” & <tags>?")],
    "user": [("user", "FIRST-QUESTION\nin two lines?")],
    "several turns": [("user", "FIRST-QUESTION?"), ("assistant", "FIRST-ANSWER."), ("user", "SECOND-QUESTION?")],
}
REFUSE_SYSTEM = {"google-gemma-2-2b-it"}
FAIL_OUTSIDE = {
    # written for tools, over which they loop though there are none
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
    # wants its functions and the date in variables of its own
    "fireworks-ai-llama-3-firefunction-v2",
}


def messages(chat: Sequence[tuple[str, str]]) -> list[Message]:
    return [Message(role=role, content=content) for role, content in chat]  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def templates(llama_cpp_sources: Path) -> dict[str, ChatTemplate]:
    """Every template by name, compiled."""
    files = sorted((llama_cpp_sources / "models" / "templates").glob("*.jinja"))
    return {file.stem: ChatTemplate(file.read_text("utf-8"), bos="<s>", eos="</s>") for file in files}


@pytest.mark.parametrize("chat", CHATS.values(), ids=CHATS.keys())
def test_every_template_renders_every_text(templates: dict[str, ChatTemplate], chat: list[tuple[str, str]]) -> None:
    """No message is lost; a template without a system role says so, as the request's error."""
    assert len(templates) > 50
    for name, template in templates.items():
        if name in REFUSE_SYSTEM and chat[0][0] == "system":
            with pytest.raises(BadRequest, match="System role not supported"):
                template.render(messages(chat), now=NOW)
            continue
        prompt = template.render(messages(chat), now=NOW)
        assert [content for _, content in chat if content not in prompt] == [], name


def test_every_template_continues_an_answer(templates: dict[str, ChatTemplate]) -> None:
    """The prompt ends with the unfinished answer, with its whitespace and nothing after it."""
    chat = messages([("user", "FIRST-QUESTION?"), ("assistant", "UNFINISHED-ANSWER: ")])
    for name, template in templates.items():
        prompt = template.render(chat, now=NOW)
        assert prompt.endswith("UNFINISHED-ANSWER: "), name
        assert "FIRST-QUESTION?" in prompt, name


@pytest.mark.parametrize("think", [None, True, False])
def test_the_sandbox_changes_no_prompt(
    templates: dict[str, ChatTemplate], outside: dict[str, Template], think: bool | None
) -> None:
    """Byte for byte what plain Jinja with Hugging Face's settings makes of them."""
    switches = {} if think is None else {"enable_thinking": think, "thinking": think}
    n_compared = 0
    for name, template in outside.items():
        for chat in CHATS.values():
            if name in REFUSE_SYSTEM and chat[0][0] == "system":
                continue
            dicts = [{"role": role, "content": content} for role, content in chat]
            expected = template.render(messages=dicts, add_generation_prompt=True, **switches)
            assert templates[name].render(messages(chat), think=think, now=NOW) == expected, name
            n_compared += 1
    assert n_compared > 150


class Generation(Extension):
    """Hugging Face's ``{% generation %}``, which marks text and changes none."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@pytest.fixture(scope="session")
def outside(llama_cpp_sources: Path, templates: dict[str, ChatTemplate]) -> dict[str, Template]:
    """The templates as ``apply_chat_template`` would run them, but those that fail there."""

    def to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", Generation],
        loader=FileSystemLoader(llama_cpp_sources / "models" / "templates"),
        cache_size=0,
    )
    environment.filters["tojson"] = to_json
    environment.globals |= {"strftime_now": NOW.strftime, "tools": None, "bos_token": "<s>", "eos_token": "</s>"}
    return {name: environment.get_template(f"{name}.jinja") for name in templates.keys() - FAIL_OUTSIDE}
