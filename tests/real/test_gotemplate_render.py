"""Ollama's chat templates, translated: each renders in the engine's sandbox, to the byte, as Go renders it in Ollama.

``expected.json`` holds what a Go program made of the templates that lie beside it, with Go's ``text/template`` and the
steps of Ollama's ``template/template.go``: messages collated, then all at once or turn by turn. The templates follow
the formats that the models were published with; "language" goes through the rest of the template language.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beastd.contract import Message
from beastd.engine.prompt import ChatTemplate
from beastd.errors import BadRequest
from beastd.registry.gotemplate import to_jinja

FOLDER = Path(__file__).parents[1] / "unit" / "registry" / "gotemplates"
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EXPECTED = json.loads((FOLDER / "expected.json").read_text("utf-8"))
CASES = [(template, chat) for template, prompts in EXPECTED["prompts"].items() for chat in prompts]


def source(name: str) -> str:
    with (FOLDER / f"{name}.gotmpl").open(encoding="utf-8", newline="") as file:
        return file.read()


def compiled(text: str) -> ChatTemplate:
    return ChatTemplate(to_jinja(text), bos="<s>", eos="</s>")


def render(text: str, *messages: dict[str, Any], think: bool | str | None = None) -> str:
    return compiled(text).render(msgspec.convert(list(messages), list[Message]), think=think, now=NOW)


def test_every_template_has_its_prompts() -> None:
    """None was left out of the comparison."""
    assert sorted(EXPECTED["prompts"]) == sorted(file.stem for file in FOLDER.glob("*.gotmpl"))
    assert len(EXPECTED["prompts"]) >= 25
    assert len(CASES) > 300


@pytest.mark.parametrize(("template", "chat"), CASES, ids=[f"{template}-{chat}" for template, chat in CASES])
def test_the_prompt_is_ollamas(template: str, chat: str) -> None:
    """Byte for byte; an answer that was begun is left open where it ends, whatever the template puts after it."""
    text, expected = source(template), EXPECTED["prompts"][template][chat]
    messages, think = EXPECTED["chats"][chat]["messages"], EXPECTED["chats"][chat].get("think")
    if ".Messages" not in text and chat.startswith("tool"):
        with pytest.raises(BadRequest, match="no place for calls of tools"):
            render(text, *messages, think=think)
        return
    prompt = render(text, *messages, think=think)
    if messages[-1]["role"] == "assistant":
        expected = expected[: expected.rindex(messages[-1]["content"]) + len(messages[-1]["content"])]
    assert prompt == expected


@pytest.mark.parametrize(("template", "knows"), [("qwen3-thinking", True), ("harmony", True), ("qwen2.5-tools", False)])
def test_the_engine_sees_which_templates_know_thinking(template: str, knows: bool) -> None:
    """The translation mentions the switch only if the template does."""
    assert compiled(source(template)).knows_thinking is knows


def test_braces_of_jinja_are_only_text() -> None:
    """Nothing in the template's text, or in a chat, is run."""
    text = "{% raw %}{# x #}\\n'{{ \"{{ 7 * 7 }}'\\n\" }}\x00\u2028{{ .Prompt }}"
    assert render(text, {"role": "user", "content": "{{ 7 }}"}) == "{% raw %}{# x #}\\n'{{ 7 * 7 }}'\n\x00\u2028{{ 7 }}"


def test_an_argument_that_go_prints_otherwise_is_refused() -> None:
    """A nested one, or a number that Go would write with an exponent: not printed as Python does."""
    text = "{{ range .Messages }}{{ range .ToolCalls }}{{ .Function.Arguments.x }}{{ end }}{{ end }}"
    for value, printed in [(999_999, "999999"), ("a", "a"), (False, "false"), (None, "<no value>")]:
        call = {"function": {"name": "f", "arguments": {"x": value}}}
        assert render(text, {"role": "assistant", "tool_calls": [call]}, {"role": "user"}) == printed
    for value in (1_000_000, 1.5, [1], {"a": 1}):
        call = {"function": {"name": "f", "arguments": {"x": value}}}
        with pytest.raises(BadRequest, match="cannot print"):
            render(text, {"role": "assistant", "tool_calls": [call]}, {"role": "user"})


def test_long_chats_are_within_the_engines_limits() -> None:
    """Thousands of messages, also when two of them must become one."""
    turn = [{"role": "user", "content": "Hello there?"}, {"role": "assistant", "content": "Yes."}]
    for template in ("qwen2.5-tools", "chatml", "harmony"):
        prompt = render(source(template), *turn * 2_000, {"role": "user", "content": "END"})
        assert prompt.count("Hello there?") == 2_000
    prompt = render(source("phi-4"), *turn * 200, turn[1], {"role": "user", "content": "END"})
    assert prompt.count("Yes.\n\nYes.") == 1
