"""Screens for long work: bars that are redrawn on a terminal, a line now and then on a pipe."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol, TextIO

from beastctl import render
from beastctl.progress import Board
from beastctl.screen import PATIENCE_S

FRAME_S = 0.1
LINE_S = 5.0
"""A log gets one line in so long."""


class BoardScreen(Protocol):
    """Where a board is shown."""

    def update(self, board: Board) -> None:
        """There is news, or a moment passed."""

    def clear(self) -> None:
        """Something else is to be written, or nothing more comes."""


def screen_for(out: TextIO) -> BoardScreen:
    """Bars for a terminal that can move its cursor, lines for everything else."""
    return BarScreen(out) if out.isatty() and os.environ.get("TERM") != "dumb" else LineScreen(out)


class BarScreen:
    """A line for each thing under way, redrawn in place; leaves no trace."""

    def __init__(
        self,
        out: TextIO,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[TextIO], tuple[int, int]] | None = None,
    ) -> None:
        self._out = out
        self._clock = clock
        self._size = size or _terminal_size
        self._next_frame = clock() + PATIENCE_S
        self._n_frames = 0
        self._widths: list[int] = []
        """Cells of each line on the screen; the cursor stands after the last."""

    def update(self, board: Board) -> None:
        """Draw, if the last time was long enough ago."""
        if self._clock() < self._next_frame:
            return
        self._next_frame = self._clock() + FRAME_S
        self._n_frames += 1
        columns, n_rows = self._size(self._out)
        # A column stays free: a line that fills the last one may or may not wrap, by the terminal.
        rows = board.rows(max(columns - 1, 1), max(n_rows - 1, 1), self._n_frames)
        self._write(self._erasing(columns, n_rows) + "\n".join(rows))
        self._widths = [render.cells(row) for row in rows]

    def clear(self) -> None:
        """Take the bars off the screen."""
        self._write(self._erasing(*self._size(self._out)))
        self._widths = []

    def _erasing(self, columns: int, n_rows: int) -> str:
        """Clear the bars row by row, up to the first. A narrower window has wrapped them by now."""
        if not self._widths:
            return ""
        n_used = sum(max(-(-cells // columns), 1) for cells in self._widths)
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (min(n_used, n_rows) - 1)

    def _write(self, text: str) -> None:
        if text:
            self._out.write(text)
            self._out.flush()


class LineScreen:
    """The latest news, each few seconds, where it is another than the last time."""

    def __init__(self, out: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._out = out
        self._clock = clock
        self._next_line = clock() + PATIENCE_S
        self._last = ""

    def update(self, board: Board) -> None:
        """Write a line, if it is time."""
        text = board.sentence()
        if self._clock() < self._next_line or text in {"", self._last}:
            return
        self._next_line, self._last = self._clock() + LINE_S, text
        self._out.write(f"beast: {text}\n")
        self._out.flush()

    def clear(self) -> None:
        """What was written stays."""


def _terminal_size(out: TextIO) -> tuple[int, int]:
    """Columns and rows; a terminal that does not tell has 80 and 24."""
    try:
        found = os.get_terminal_size(out.fileno())
    except OSError:
        return 80, 24
    return found.columns or 80, found.lines or 24
