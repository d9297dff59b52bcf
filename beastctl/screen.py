"""Screens without Markdown: the text alone for pipes, and a bar for what takes over a second."""

from __future__ import annotations

import time
from typing import TextIO

from beastctl.render import visible

BAR_AFTER_S = 1.0
BAR_WIDTH = 30


class LoadBar:
    """A line on standard error that shows a load's progress once it takes over a second, and leaves no trace."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started: float | None = None
        self._is_shown = False

    def update(self, fraction: float) -> None:
        """``fraction`` of the load is done, 0 to 1."""
        now = time.monotonic()
        self._started = now if self._started is None else self._started
        if self._out.isatty() and now - self._started >= BAR_AFTER_S:
            n_full = round(min(max(fraction, 0.0), 1.0) * BAR_WIDTH)
            self._out.write(f"\rloading {'━' * n_full}{'─' * (BAR_WIDTH - n_full)} {fraction:4.0%}\x1b[K")
            self._out.flush()
            self._is_shown = True

    def clear(self) -> None:
        """Take the bar off the screen."""
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._is_shown = False


class PlainScreen:
    """The answer as it comes, each piece at once; ends with a line feed. Thinking is left to those who ask for JSON."""

    def __init__(self, out: TextIO, bar: LoadBar) -> None:
        self._out = out
        self._bar = bar
        self._clean = visible if out.isatty() else str
        self._last = "\n"

    def on_loading(self, fraction: float) -> None:
        """Show the bar."""
        self._bar.update(fraction)

    def on_thinking(self, text: str) -> None:
        """Keep it off a pipe."""

    def on_text(self, text: str) -> None:
        """Write the piece and flush it."""
        self._bar.clear()
        self._out.write(self._clean(text))
        self._out.flush()
        self._last = text

    def on_tick(self) -> None:
        """Text needs no animation."""

    def on_end(self) -> None:
        """End the last line."""
        self._bar.clear()
        if not self._last.endswith("\n"):
            self._out.write("\n")
            self._out.flush()


class SilentScreen:
    """Shows the load and nothing of the answer: for ``--json``, and to load a model."""

    def __init__(self, bar: LoadBar) -> None:
        self._bar = bar

    def on_loading(self, fraction: float) -> None:
        """Show the bar."""
        self._bar.update(fraction)

    def on_thinking(self, text: str) -> None:
        """Not shown."""

    def on_text(self, text: str) -> None:
        """Not shown."""

    def on_tick(self) -> None:
        """Nothing to move."""

    def on_end(self) -> None:
        """Remove the bar."""
        self._bar.clear()
