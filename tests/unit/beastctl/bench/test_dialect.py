"""Asking and reading in each API."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from beastctl.bench.dialect import Ask, Event, OllamaDialect, OpenAIChatDialect, OpenAIDialect

ASK = Ask("m", "a prompt", n_answer=8, seed=3, temperature=0.5, n_ctx=9000)


def test_ollama_gets_a_raw_prompt_and_full_length_answers() -> None:
    """No template adds tokens, and no end of text shortens the answer."""
    body = OllamaDialect().body(ASK)
    assert body["raw"] is True
    options = {"num_predict": 8, "temperature": 0.5, "seed": 3, "num_ctx": 9000, "ignore_eos": True}
    assert body["options"] == options


def test_a_priority_is_asked_for_where_there_is_one() -> None:
    """Other servers refuse or pass over a field they do not know."""
    assert OllamaDialect().body(replace(ASK, priority="low"))["priority"] == "low"
    assert "priority" not in OllamaDialect().body(ASK)
    assert "priority" not in OpenAIDialect().body(replace(ASK, priority="low"))


def test_openai_is_asked_for_its_counts() -> None:
    """Usage comes in the stream; extensions can be left out."""
    body = OpenAIDialect().body(ASK)
    assert (body["prompt"], body["max_tokens"], body["ignore_eos"]) == ("a prompt", 8, True)
    assert body["stream_options"] == {"include_usage": True}
    plain = OpenAIChatDialect().body(Ask("m", "hi", 8, 3, 0.5, is_eos_ignored=False))
    assert plain["messages"] == [{"role": "user", "content": "hi"}]
    assert "ignore_eos" not in plain


def data(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode()


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (b'{"response":"x","done":false}', Event(has_text=True)),
        (b'{"response":"","done":false,"status":"loading"}', Event()),
        (b'{"response":"","done":true,"prompt_eval_count":5,"eval_count":8}', Event(n_prompt=5, n_answer=8)),
        (b'{"error":"no"}', Event(error="no")),
    ],
)
def test_reading_ollama(line: bytes, event: Event) -> None:
    """Pieces, loads, endings and errors."""
    assert OllamaDialect().read(line) == event


@pytest.mark.parametrize(
    ("line", "event"),
    [
        (data({"choices": [{"text": "x"}]}), Event(has_text=True)),
        (data({"choices": [{"text": ""}]}), Event()),
        (data({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 8}}), Event(n_prompt=5, n_answer=8)),
        (data({"error": {"message": "no"}}), Event(error="{'message': 'no'}")),
        (b'{"error": "no"}', Event(error='{"error": "no"}')),
        (b"data: [DONE]", None),
        (b": ping", None),
        (b"event: x", None),
    ],
)
def test_reading_openai(line: bytes, event: Event | None) -> None:
    """Server-sent events, usage in a chunk of its own, and errors in any form."""
    assert OpenAIDialect().read(line) == event


def test_reading_openai_chat() -> None:
    """The first chunk, which only names the role, is no text."""
    dialect = OpenAIChatDialect()
    assert dialect.read(data({"choices": [{"delta": {"role": "assistant"}}]})) == Event()
    assert dialect.read(data({"choices": [{"delta": {"content": "x"}}]})) == Event(has_text=True)
