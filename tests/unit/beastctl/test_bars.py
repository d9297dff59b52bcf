"""Screens of long work."""

from __future__ import annotations

import io
import re

import pytest

from beastctl.bars import BarScreen, LineScreen, screen_for
from beastctl.progress import Board


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def line(item: str, completed: int) -> dict[str, object]:
    return {"status": f"pulling {item}", "item": item, "completed": completed, "total": 100}


def drawn(text: str, columns: int = 40) -> list[str]:
    """The rows a terminal shows after ``text``, as far as bars need one: CR, LF, up, clear the row."""
    rows, row, column = [""], 0, 0
    for part in re.findall(r"\r|\n|\x1b\[1A|\x1b\[2K|[^\r\n\x1b]", text):
        if part == "\r":
            column = 0
        elif part == "\n":
            row, column = row + 1, 0
        elif part == "\x1b[1A":
            row -= 1
        elif part == "\x1b[2K":
            rows[row] = ""
        else:
            if column == columns:
                row, column = row + 1, 0
            rows += [""] * (row + 1 - len(rows))
            rows[row] = rows[row][:column].ljust(column) + part
            column += 1
        rows += [""] * (row + 1 - len(rows))
    return [text for text in rows if text]


def test_bars_wait_a_second_are_redrawn_in_place_and_leave_no_trace() -> None:
    """However many there are by then."""
    out, clock, board = Terminal(), Clock(), Board()
    screen = BarScreen(out, clock, lambda _: (40, 10))
    board.take("m", line("a", 1))
    screen.update(board)
    assert out.getvalue() == ""
    clock.now += 1.5
    screen.update(board)
    assert [row.split()[1] for row in drawn(out.getvalue())] == ["a"]
    board.take("m", line("b", 50))
    clock.now += 1
    screen.update(board)
    rows = drawn(out.getvalue())
    assert [row.split()[1] for row in rows] == ["a", "b"]
    assert "50%" in rows[1]
    screen.clear()
    assert drawn(out.getvalue()) == []


def test_frames_are_bounded() -> None:
    """A thousand lines of news in one moment are one frame."""
    out, clock, board = Terminal(), Clock(), Board()
    screen = BarScreen(out, clock, lambda _: (40, 10))
    clock.now += 2
    for n in range(1000):
        board.take("m", line("a", n % 100))
        screen.update(board)
    assert out.getvalue().count("pulling") == 1


def test_a_window_made_narrower_is_cleaned_up() -> None:
    """Rows that the terminal has wrapped are all erased."""
    out, clock, board = Terminal(), Clock(), Board()
    sizes = [(80, 10), (20, 10)]
    screen = BarScreen(out, clock, lambda _: sizes[0])
    board.take("m", line("a", 1))
    clock.now += 2
    screen.update(board)
    n_rows = -(-len(drawn(out.getvalue(), 80)[0]) // 20)
    before = len(out.getvalue())
    sizes.pop(0)
    screen.clear()
    assert out.getvalue()[before:].count("\x1b[2K") == n_rows > 1


def test_a_log_gets_a_line_now_and_then() -> None:
    """After a second, then each few seconds, only where there is news, and without control codes."""
    out, clock, board = io.StringIO(), Clock(), Board()
    screen = LineScreen(out, clock)
    for n in range(1200):
        board.take("m", line("a", n // 12))
        screen.update(board)
        clock.now += 0.01
    clock.now += 100
    screen.update(board)
    screen.update(board)
    screen.clear()
    lines = out.getvalue().splitlines()
    assert lines == [f"beast: pulling a: {n}% of 100 B" for n in (8, 50, 91, 99)]


@pytest.mark.parametrize(
    ("term", "out", "kind"),
    [("xterm", Terminal(), BarScreen), ("dumb", Terminal(), LineScreen), ("xterm", io.StringIO(), LineScreen)],
)
def test_bars_are_for_terminals_that_can_show_them(
    monkeypatch: pytest.MonkeyPatch, term: str, out: io.StringIO, kind: type
) -> None:
    """Pipes and dumb terminals get lines."""
    monkeypatch.setenv("TERM", term)
    assert isinstance(screen_for(out), kind)
