"""Follow one answer: from the daemon's JSON lines to what a screen shows and what is kept of it."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

from beastctl.client import NoAnswer, Reply


class Screen(Protocol):
    """Where an answer is shown while it comes."""

    def on_loading(self, fraction: float) -> None:
        """The model is being loaded; ``fraction`` of it, from 0 to 1, is there."""

    def on_waiting(self, reason: str) -> None:
        """Something has to happen before the answer can begin."""

    def on_thinking(self, text: str) -> None:
        """A piece of the model's thinking."""

    def on_text(self, text: str) -> None:
        """A piece of the answer."""

    def on_tick(self) -> None:
        """A moment passed without news."""

    def on_end(self) -> None:
        """Nothing more comes, whatever the reason; called exactly once."""


@dataclass(slots=True)
class Answer:
    """What came of an answer; ``final`` is the stream's last line, empty if it never came."""

    text: str = ""
    thinking: str = ""
    final: Mapping[str, Any] = field(default_factory=dict)
    is_interrupted: bool = False

    @property
    def is_cut(self) -> bool:
        """The answer ran into the context's end, and not only into a length that the request or the model sets."""
        n_tokens = int(self.final.get("prompt_eval_count") or 0) + int(self.final.get("eval_count") or 0)
        n_ctx = int(self.final.get("n_ctx") or 0)
        return self.final.get("done_reason") == "length" and 0 < n_ctx <= n_tokens


def follow(reply: Reply, screen: Screen) -> Answer:
    """Show a reply on ``screen`` to its end; Ctrl-C ends it early and keeps what came.

    Raises:
        BeastError: the daemon refused the request or failed in mid-answer.
    """
    answer = Answer()
    try:
        with on_interrupt(reply.cancel) as is_interrupted:
            for line in reply.lines():
                _take(line, answer, screen)
            answer.is_interrupted = is_interrupted() and not answer.final
    finally:
        screen.on_end()
    if not answer.final and not answer.is_interrupted:
        raise NoAnswer("beastd closed the connection before the answer ended; if it happens again, see its log")
    return answer


def _take(line: dict[str, Any] | None, answer: Answer, screen: Screen) -> None:
    if line is None:
        screen.on_tick()
        return
    if line.get("status") == "loading":
        screen.on_loading(float(line.get("load_progress") or 0.0))
    elif line.get("status") == "waiting":
        screen.on_waiting(f"place {line.get('queue_position')} in line, waiting for {line.get('waiting_for')}")
    part = line.get("message") or line
    thinking, text = part.get("thinking") or "", part.get("content") or part.get("response") or ""
    answer.thinking += thinking
    answer.text += text
    if thinking:
        screen.on_thinking(thinking)
    if text:
        screen.on_text(text)
    if line.get("done"):
        answer.final = line


@contextmanager
def on_interrupt(cancel: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Ctrl-C calls ``cancel`` instead of raising anywhere; yields the question whether it did."""
    is_interrupted = False

    def on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal is_interrupted
        is_interrupted = True
        cancel()

    previous = signal.signal(signal.SIGINT, on_signal)
    try:
        yield lambda: is_interrupted
    finally:
        signal.signal(signal.SIGINT, previous)


def warnings(final: Mapping[str, Any]) -> list[str]:
    """What a person should know about an answer that ended: parts of the prompt that were left out."""
    n_dropped = final.get("dropped_messages") or 0
    if final.get("truncated"):
        what = f"the {n_dropped} oldest messages were" if n_dropped > 1 else "the oldest part was"
        return [f"the prompt did not fit {final.get('n_ctx', 'the context')} tokens: {what} left out"]
    return []
