"""Completion and many-line input of the chat."""

from __future__ import annotations

from pathlib import Path

import pytest
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from beastctl.chat import repl
from beastctl.chat.conversation import ChatFolder, Conversation
from beastctl.chat.repl import SlashCompleter, is_open


@pytest.fixture
def completer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SlashCompleter:
    monkeypatch.setattr(repl, "model_names", lambda word: [name for name in ("cub", "bear") if name.startswith(word)])
    folder = ChatFolder(tmp_path)
    folder.save("cave", Conversation("cub"))
    return SlashCompleter(folder)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("/s", ["/set", "/show", "/save"]),
        ("/set parameter temp", ["temperature"]),
        ("/set format ", ["json", "none"]),
        ("/show li", ["license"]),
        ("/load c", ["cave", "cub"]),
        ("/save c", ["cave"]),
        ("/clear ", []),
        ("tell me /s", []),
    ],
)
def test_tab_offers_what_may_come_next(completer: SlashCompleter, text: str, words: list[str]) -> None:
    """Only in slash commands."""
    assert [c.text for c in completer.get_completions(Document(text), CompleteEvent())] == words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hello", False),
        ('"""', True),
        ('"""first\nsecond', True),
        ('"""first\nsecond"""', False),
        ('he said """', False),
        ('/set system """a', True),
        ('/set system """a"""', False),
    ],
)
def test_triple_quotes_keep_the_input_open(text: str, expected: bool) -> None:
    """Enter ends a line, or only a line of a block."""
    assert is_open(text) is expected
