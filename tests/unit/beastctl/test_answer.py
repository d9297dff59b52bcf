"""Following an answer from lines to what is kept."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any, cast

import pytest

from beastctl.answer import Answer, follow, warnings
from beastctl.client import NoAnswer, Reply
from beastd.errors import WorkerDied


class ScriptedReply:
    """Plays lines; an exception among them is raised, a callable is called."""

    def __init__(self, *script: Any) -> None:
        self._script = script
        self.is_cancelled = False

    def __enter__(self) -> ScriptedReply:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def cancel(self) -> None:
        self.is_cancelled = True

    def lines(self) -> Iterator[dict[str, Any] | None]:
        for step in self._script:
            if self.is_cancelled:
                return
            if isinstance(step, Exception):
                raise step
            yield step() if callable(step) else step


class RecordingScreen:
    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []

    def on_loading(self, fraction: float) -> None:
        self.events.append(("loading", fraction))

    def on_thinking(self, text: str) -> None:
        self.events.append(("thinking", text))

    def on_text(self, text: str) -> None:
        self.events.append(("text", text))

    def on_tick(self) -> None:
        self.events.append(("tick", None))

    def on_end(self) -> None:
        self.events.append(("end", None))


def followed(*script: Any) -> tuple[Answer, list[tuple[str, Any]]]:
    screen = RecordingScreen()
    return follow(cast(Reply, ScriptedReply(*script)), screen), screen.events


def test_generate_and_chat_lines_are_read_alike() -> None:
    """Both shapes give text and thinking."""
    answer, events = followed(
        {"response": "", "status": "loading", "load_progress": 0.5, "done": False},
        None,
        {"message": {"content": "", "thinking": "hm"}, "done": False},
        {"message": {"content": "a"}, "done": False},
        {"response": "b", "done": False},
        {"response": "", "done": True, "done_reason": "stop"},
    )
    assert (answer.text, answer.thinking, answer.final["done_reason"]) == ("ab", "hm", "stop")
    expected = [("loading", 0.5), ("tick", None), ("thinking", "hm"), ("text", "a"), ("text", "b"), ("end", None)]
    assert events == expected


def test_a_stream_without_an_ending_is_an_error() -> None:
    """What was cut off must not pass as an answer."""
    with pytest.raises(NoAnswer):
        followed({"response": "half", "done": False})


def test_the_screen_ends_once_even_on_an_error() -> None:
    """The terminal is left in order, then the error goes on."""
    screen = RecordingScreen()
    with pytest.raises(WorkerDied):
        follow(cast(Reply, ScriptedReply({"response": "half"}, WorkerDied("gone"))), screen)
    assert screen.events == [("text", "half"), ("end", None)]


def test_ctrl_c_keeps_what_came_and_gives_the_signal_back() -> None:
    """The answer ends there; afterwards Ctrl-C means what it meant before."""
    before = signal.getsignal(signal.SIGINT)
    answer, _ = followed({"response": "so far"}, lambda: os.kill(os.getpid(), signal.SIGINT), {"response": "not seen"})
    assert answer.is_interrupted
    assert answer.text == "so far"
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("final", "is_cut"),
    [
        ({"done_reason": "length", "prompt_eval_count": 30, "eval_count": 10, "n_ctx": 40}, True),
        ({"done_reason": "length", "prompt_eval_count": 30, "eval_count": 10, "n_ctx": 41}, False),
        ({"done_reason": "stop", "prompt_eval_count": 30, "eval_count": 10, "n_ctx": 40}, False),
        ({"done_reason": "load"}, False),
        ({}, False),
    ],
)
def test_only_a_full_context_is_a_cut(final: dict[str, Any], is_cut: bool) -> None:
    """A length that the request or the model sets is a proper end."""
    assert Answer(final=final).is_cut is is_cut


def test_what_was_left_out_is_said() -> None:
    """Truncation is never silent."""
    assert warnings({"truncated": False}) == []
    assert "3 oldest messages" in warnings({"truncated": True, "dropped_messages": 3, "n_ctx": 512})[0]
