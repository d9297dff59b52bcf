"""Screens without Markdown: the text alone for pipes, and progress for what takes over a second."""

from __future__ import annotations

import time
from typing import TextIO

from beastctl.render import clip, terminal_width, visible

PATIENCE_S = 1.0
"""What takes less needs no progress."""
BAR_WIDTH = 30
SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class Progress:
    """A line on standard error for what takes over a second; on a terminal it leaves no trace."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._started = time.monotonic()
        self._n_turns = 0
        self._is_shown = False
        self._has_told = False
        self._reason = ""

    def load(self, fraction: float) -> None:
        """``fraction`` of the model is loaded, 0 to 1."""
        self._reason = ""
        n_full = round(min(max(fraction, 0.0), 1.0) * BAR_WIDTH)
        self._show(f"loading {'━' * n_full}{'─' * (BAR_WIDTH - n_full)} {fraction:4.0%}")

    def wait_for(self, reason: str) -> None:
        """What has to happen first, shown beside the spinner until something else is."""
        self._reason = f" {visible(reason)}"
        self.wait()

    def wait(self) -> None:
        """Time passes, and how much remains is not known."""
        self._n_turns += 1
        self._show(SPINNER[self._n_turns % len(SPINNER)] + self._reason)

    def clear(self) -> None:
        """Take the line off the screen; the next one waits its second again."""
        self._started = time.monotonic()
        self._reason = ""
        if self._is_shown:
            self._out.write("\r\x1b[K")
            self._out.flush()
            self._is_shown = False

    def _show(self, text: str) -> None:
        if time.monotonic() - self._started < PATIENCE_S:
            return
        if self._out.isatty():
            self._out.write(f"\r{clip(text, terminal_width(self._out) or len(text))}\x1b[K")
            self._out.flush()
            self._is_shown = True
        elif self._reason and not self._has_told:  # a script that waits should know why; once
            print(f"beast:{self._reason}", file=self._out, flush=True)
            self._has_told = True


class PlainScreen:
    """The answer as it comes, each piece at once; ends with a line feed. Thinking is left to those who ask for JSON."""

    def __init__(self, out: TextIO, progress: Progress) -> None:
        self._out = out
        self._progress = progress
        self._clean = visible if out.isatty() else str
        self._last = ""

    def on_loading(self, fraction: float) -> None:
        """Show the bar."""
        self._progress.load(fraction)

    def on_waiting(self, reason: str) -> None:
        """Tell it."""
        self._progress.wait_for(reason)

    def on_thinking(self, text: str) -> None:  # noqa: ARG002
        """Keep it off a pipe."""
        self.on_tick()

    def on_text(self, text: str) -> None:
        """Write the piece and flush it."""
        self._progress.clear()
        self._out.write(self._clean(text))
        self._out.flush()
        self._last = text

    def on_tick(self) -> None:
        """Until there is text to look at, show that something is being done."""
        if not self._last:
            self._progress.wait()

    def on_end(self) -> None:
        """End the last line."""
        self._progress.clear()
        if self._last and not self._last.endswith("\n"):
            self._out.write("\n")
            self._out.flush()


class SilentScreen:
    """Shows nothing of the answer but that it is being made: for ``--json``, and to load a model."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_loading(self, fraction: float) -> None:
        """Show the bar."""
        self._progress.load(fraction)

    def on_waiting(self, reason: str) -> None:
        """Tell it."""
        self._progress.wait_for(reason)

    def on_thinking(self, text: str) -> None:  # noqa: ARG002
        """Not shown."""
        self._progress.wait()

    def on_text(self, text: str) -> None:  # noqa: ARG002
        """Not shown."""
        self._progress.wait()

    def on_tick(self) -> None:
        """Turn the spinner."""
        self._progress.wait()

    def on_end(self) -> None:
        """Leave no trace."""
        self._progress.clear()
