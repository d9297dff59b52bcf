"""What `beast run` makes of its words."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest

from beastctl.commands.run import answer_format, split_words, with_stdin
from beastd.errors import BadRequest


@pytest.mark.parametrize(
    ("words", "model", "prompt"),
    [
        ([], "", ""),
        (["cub"], "cub", ""),
        (["cub", "tell", "me"], "cub", "tell me"),
        (["cub@q4_k_m+pirate*0.5", "hi there"], "cub@q4_k_m+pirate*0.5", "hi there"),
        (["tell me a story"], "", "tell me a story"),
        (["¿qué?", "más"], "", "¿qué? más"),
    ],
)
def test_the_first_word_is_a_model_if_it_can_be_a_name(words: list[str], model: str, prompt: str) -> None:
    """A quoted sentence alone goes to the built-in model."""
    assert split_words(words) == (model, prompt)


class Piped:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize(
    ("piped", "prompt", "joined"),
    [
        (b"notes\n", "summarize", "notes\n\nsummarize"),
        (b"notes\n", "", "notes"),
        (b"", "hi", "hi"),
        (b" \n", "hi", "hi"),
        (b"\xffx", "", "\ufffdx"),
    ],
)
def test_piped_text_goes_before_the_prompt(
    monkeypatch: pytest.MonkeyPatch, piped: bytes, prompt: str, joined: str
) -> None:
    """A blank line sets them apart; nothing is added to one alone."""
    monkeypatch.setattr(sys, "stdin", Piped(piped))
    assert with_stdin(prompt) == joined


def test_format_is_json_or_a_schema_from_a_file(tmp_path: Path) -> None:
    """Anything else is refused with what was wrong."""
    schema = tmp_path / "s.json"
    schema.write_text(json.dumps({"type": "object"}))
    assert answer_format(None) is None
    assert answer_format("json") == "json"
    assert answer_format(str(schema)) == {"type": "object"}
    with pytest.raises(BadRequest, match="No such file"):
        answer_format(str(tmp_path / "none.json"))
    schema.write_text("[1]")
    with pytest.raises(BadRequest, match="no JSON Schema"):
        answer_format(str(schema))
