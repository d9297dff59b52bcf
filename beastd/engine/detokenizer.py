"""Turns an answer's bytes into text as they come: whole characters, cut at stop strings, thoughts apart."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from enum import Enum, auto

THINK_START = "<think>"
THINK_END = "</think>"


class Detokenizer:
    """The text of one answer, released as early as it is certain.

    Text is certain when no stop string can begin in it any more. The stop string that is complete first ends the
    text, and among several complete at once the longest: so the split into pieces never changes the result.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False
        """A stop string was met; it and all after it are never released."""

    def push(self, piece: bytes) -> str:
        """Take a token's bytes; return the text that is certain now. Invalid bytes become U+FFFD."""
        return self._release(self._decoder.decode(piece))

    def flush(self) -> str:
        """The end of the answer: what was held back, an unfinished character as U+FFFD."""
        released = self._release(self._decoder.decode(b"", final=True))
        rest, self._held = self._held, ""
        return released + rest

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stop:
            return text
        text = self._held + text
        starts = [(start + len(stop), start) for stop in self._stop if (start := text.find(stop)) >= 0]
        if starts:
            self.stopped = True
            self._held = ""
            return text[: min(starts)[1]]
        n_held = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]


def overlap(text: str, mark: str) -> int:
    """Length of the longest end of ``text`` that ``mark`` begins with, but is not complete in."""
    start = text.find(mark[0], max(len(text) - len(mark) + 1, 0))
    while start >= 0 and not mark.startswith(text[start:]):
        start = text.find(mark[0], start + 1)
    return len(text) - start if start >= 0 else 0


class _Part(Enum):
    BEFORE = auto()
    THOUGHT_START = auto()
    THOUGHT = auto()
    ANSWER_START = auto()
    ANSWER = auto()


class ThinkingSplitter:
    """Divides ``<think>…</think>`` at an answer's beginning from the answer itself, while it streams.

    The rules are Ollama's (``thinking/parser.go``): only whitespace may come before the opening tag, a later one is
    text like any other; whitespace after either tag goes, without a tag everything stays.
    """

    def __init__(self, *, start_inside: bool) -> None:
        """``start_inside``: the prompt already ends with the opening tag."""
        self._part = _Part.THOUGHT_START if start_inside else _Part.BEFORE
        self._held = ""

    def push(self, text: str) -> tuple[str, str]:
        """Take more text; return the thinking and the answer that are certain now."""
        self._held += text
        if self._part is _Part.BEFORE:
            self._look_for_start()
        if self._part is _Part.THOUGHT_START:
            self._skip_whitespace(_Part.THOUGHT)
        thinking = self._take_thought() if self._part is _Part.THOUGHT else ""
        if self._part is _Part.ANSWER_START:
            self._skip_whitespace(_Part.ANSWER)
        answer = self._take_all() if self._part is _Part.ANSWER else ""
        return thinking, answer

    def flush(self) -> tuple[str, str]:
        """The end of the text: what was held back, unfinished tags as the text they are."""
        rest = self._take_all()
        return (rest, "") if self._part is _Part.THOUGHT else ("", rest)

    def _look_for_start(self) -> None:
        text = self._held.lstrip()
        if text.startswith(THINK_START):
            self._held = text.removeprefix(THINK_START)
            self._part = _Part.THOUGHT_START
        elif not THINK_START.startswith(text):
            self._part = _Part.ANSWER

    def _skip_whitespace(self, then: _Part) -> None:
        self._held = self._held.lstrip()
        if self._held:
            self._part = then

    def _take_thought(self) -> str:
        thought, end, rest = self._held.partition(THINK_END)
        if end:
            self._held = rest
            self._part = _Part.ANSWER_START
            return thought
        n_held = overlap(thought, THINK_END)
        self._held = thought[len(thought) - n_held :]
        return thought[: len(thought) - n_held]

    def _take_all(self) -> str:
        text, self._held = self._held, ""
        return text
