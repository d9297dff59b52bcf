"""Answers on screens without Markdown."""

from __future__ import annotations

import io

import pytest

from beastctl import screen
from beastctl.screen import PlainScreen, Progress, SilentScreen


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_the_text_and_a_line_feed() -> None:
    """Data goes to a pipe as it is, control characters and all; only the last line is ended."""
    out, err = io.StringIO(), io.StringIO()
    shown = PlainScreen(out, Progress(err))
    shown.on_loading(0.5)
    shown.on_thinking("hm")
    shown.on_text("a\x1b[0m")
    shown.on_text("b")
    shown.on_end()
    assert (out.getvalue(), err.getvalue()) == ("a\x1b[0mb\n", "")


def test_an_ended_line_is_not_ended_twice() -> None:
    """No empty line is added, and nothing at all to an empty answer."""
    for pieces in (["a\n"], []):
        out = io.StringIO()
        shown = PlainScreen(out, Progress(io.StringIO()))
        for piece in pieces:
            shown.on_text(piece)
        shown.on_end()
        assert out.getvalue() == "".join(pieces)


def test_a_terminal_gets_no_escape_codes_of_the_model() -> None:
    """They are made visible."""
    out = Terminal()
    shown = PlainScreen(out, Progress(Terminal()))
    shown.on_text("\x1b]0;title\x07\n")
    shown.on_end()
    assert out.getvalue() == "␛]0;title␇\n"


def test_the_bar_waits_a_second_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quick load shows nothing; a slow one shows how far it is, and is erased before the answer."""
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    err = Terminal()
    shown = SilentScreen(Progress(err))
    shown.on_loading(0.1)
    shown.on_tick()
    assert err.getvalue() == ""
    now += 1.5
    shown.on_loading(0.5)
    assert "50%" in err.getvalue()
    shown.on_end()
    assert err.getvalue().endswith("\r\x1b[K")


def test_a_spinner_turns_until_there_is_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never stands in the middle of the answer."""
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    out, err = Terminal(), Terminal()
    shown = PlainScreen(out, Progress(err))
    now += 1.5
    shown.on_tick()
    assert err.getvalue() != ""
    shown.on_text("text")
    n_written = len(err.getvalue())
    now += 5
    shown.on_tick()
    assert len(err.getvalue()) == n_written
    assert out.getvalue() == "text"


def test_a_script_is_told_once_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second, as a line on standard error, with nothing that only a terminal understands."""
    now = 100.0
    monkeypatch.setattr(screen.time, "monotonic", lambda: now)
    err = io.StringIO()
    shown = PlainScreen(io.StringIO(), Progress(err))
    shown.on_waiting("place 1 in line, waiting for memory")
    assert err.getvalue() == ""
    now += 1.5
    shown.on_tick()
    shown.on_waiting("place 1 in line, waiting for answers")
    shown.on_end()
    assert err.getvalue() == "beast: place 1 in line, waiting for memory\n"
