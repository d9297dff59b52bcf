"""A screen for terminals: Markdown that renders while it streams.

Finished blocks are printed once, for good. Only the unfinished tail is redrawn, in a region no taller than the
terminal that is erased before anything else is printed, so the scrollback holds each line exactly once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.segment import Segment, SegmentLines
from rich.text import Text

from beastctl.markdown import drawing, split
from beastctl.render import visible
from beastctl.screen import PATIENCE_S, SPINNER, Progress

FRAME_S = 0.08
"""Shortest time between two frames."""
BUSY_SHARE = 0.15
"""Most of the time drawing may take: the model may need the processor."""


class Region:
    """The lines at the bottom of the terminal that can be taken back."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._widths: list[int] = []
        """Cells of each line on the screen; the cursor stands after the last."""

    def draw(self, content: RenderableType, *, is_spaced: bool) -> None:
        """Replace the region by the last lines of ``content`` that fit the terminal, after a free line if asked."""
        lines = self._lines(content, is_spaced)[-max(self._console.size.height - 1, 1) :]
        self._write(self._erasing() + self._encoded(lines).removesuffix("\n"))
        self._widths = [Segment.get_line_length(line) for line in lines]

    def settle(self, content: RenderableType, *, is_spaced: bool) -> None:
        """Replace the region by ``content``, for good; the region is empty then."""
        self._write(self._erasing() + self._encoded(self._lines(content, is_spaced)))
        self._widths = []

    def erase(self) -> None:
        """Take the region off the screen; the cursor is where it began."""
        self._write(self._erasing())
        self._widths = []

    def _lines(self, content: RenderableType, is_spaced: bool) -> list[list[Segment]]:
        # A column stays free: a line that fills the last one may or may not wrap, by the terminal.
        options = self._console.options.update(width=max(self._console.size.width - 1, 1), height=None)
        lines = [_trimmed(line) for line in self._console.render_lines(content, options, pad=False)]
        while lines and not lines[-1]:
            lines.pop()
        n_blank = next((n for n, line in enumerate(lines) if line), 0)
        return [[]] * is_spaced + lines[n_blank:]

    def _encoded(self, lines: list[list[Segment]]) -> str:
        with self._console.capture() as drawn:
            self._console.print(SegmentLines(lines, new_lines=True), end="")
        return drawn.get()

    def _erasing(self) -> str:
        """Clear the region row by row, up to its first. A narrower window has wrapped its lines by now.

        Some terminals move a screen that is cleared at once into their scrollback.
        """
        if not self._widths:
            return ""
        width = max(self._console.size.width, 1)
        n_rows = sum(max(-(-cells // width), 1) for cells in self._widths)
        n_up = min(n_rows, self._console.size.height) - 1
        return "\r\x1b[2K" + "\x1b[1A\x1b[2K" * n_up

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


class LiveScreen:
    """Shows an answer as Markdown on a terminal. ``clock`` gives seconds."""

    def __init__(self, console: Console, progress: Progress, clock: Callable[[], float] = time.monotonic) -> None:
        self._progress = progress
        self._clock = clock
        self._region = Region(console)
        self._tail = ""
        self._thinking = ""
        self._reason = ""
        self._next_frame = clock() + PATIENCE_S
        self._n_frames = 0
        self._has_printed = False

    def on_loading(self, fraction: float) -> None:
        """Show the bar instead of the spinner."""
        self._reason = ""
        self._region.erase()
        self._progress.load(fraction)
        self._next_frame = self._clock() + PATIENCE_S

    def on_waiting(self, reason: str) -> None:
        """Tell it beside the spinner, until there is other news."""
        self._reason = f" {visible(reason)}"
        self._frame()

    def on_thinking(self, text: str) -> None:
        """Collect thinking; it is shown dim until the answer begins."""
        self._reason = ""
        self._thinking += visible(text)
        self._frame()

    def on_text(self, text: str) -> None:
        """Collect the piece; print what it finishes."""
        self._end_thinking()
        if not self._tail and not self._has_printed:
            self._next_frame = self._clock()
        self._tail += visible(text)
        self._frame()

    def on_tick(self) -> None:
        """Draw what was held back by the frame rate, or turn the spinner."""
        self._frame()

    def on_end(self) -> None:
        """Print all that is left."""
        self._end_thinking()
        self._region.erase()
        self._progress.clear()
        finished, rest = split(self._tail + "\n")
        self._settle([*finished, rest])
        self._tail = ""

    def _frame(self) -> None:
        started = self._clock()
        if started < self._next_frame:
            return
        self._progress.clear()
        finished, self._tail = split(self._tail)
        self._settle(finished)
        self._region.draw(self._unfinished(), is_spaced=self._has_printed)
        ended = self._clock()
        self._next_frame = ended + max(FRAME_S, (ended - started) / BUSY_SHARE)

    def _unfinished(self) -> RenderableType:
        self._n_frames += 1
        if self._tail.strip():
            return drawing(self._tail)
        return Text(f"{self._thinking}{SPINNER[self._n_frames % len(SPINNER)]}{self._reason}", style="dim")

    def _end_thinking(self) -> None:
        if self._thinking:
            self._region.settle(Text(self._thinking.strip(), style="dim italic"), is_spaced=self._has_printed)
            self._thinking = ""
            self._has_printed = True

    def _settle(self, blocks: list[str]) -> None:
        for block in blocks:
            if block.strip():
                self._region.settle(drawing(block), is_spaced=self._has_printed)
                self._has_printed = True


def _trimmed(line: list[Segment]) -> list[Segment]:
    """``line`` without the blanks rich pads it with: they would wrap when the window gets narrower, and copy badly."""
    kept = list(line)
    while kept and not kept[-1].text.strip() and not (kept[-1].style and kept[-1].style.bgcolor):
        kept.pop()
    if kept and not (kept[-1].style and kept[-1].style.bgcolor):
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


@contextmanager
def quiet_keyboard() -> Iterator[None]:
    """Keys pressed while an answer streams do not show up in it; they wait for the next prompt. Ctrl-C still works."""
    import termios

    if not sys.stdin.isatty():
        yield
        return
    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(number, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)
