"""One long piece of work: its progress, its one ending, and those who watch it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from beastd.errors import BeastError, Cancelled
from beastd.tool import Progress

RATE_WINDOW_S = 5.0
"""Rates are means over about so long."""
FRAME_S = 0.1
"""A watcher hears of an item at most so often."""

_log = logging.getLogger(__name__)

State = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Line:
    """Progress of one item, with its speed."""

    progress: Progress
    rate: float = 0.0
    """Units a second; 0 while it is not known."""

    @property
    def eta_s(self) -> float | None:
        """Seconds until it is done at this rate."""
        left = self.progress.total - self.progress.completed
        return left / self.rate if self.rate > 0 and self.progress.total else None


class _Pace:
    """Mean speed of an item, from its own progress."""

    def __init__(self, completed: int, at: float) -> None:
        self._completed, self._at, self.rate = completed, at, 0.0

    def note(self, completed: int, at: float) -> None:
        passed_s = at - self._at
        if completed < self._completed:
            self._completed, self._at, self.rate = completed, at, 0.0
        elif passed_s >= 0.5:
            now = (completed - self._completed) / passed_s
            weight = min(1.0, passed_s / RATE_WINDOW_S) if self.rate else 1.0
            self.rate += (now - self.rate) * weight
            self._completed, self._at = completed, at


class Job:
    """Work under way. It belongs to ``Jobs``; clients only watch it."""

    def __init__(
        self, id_: str, kind: str, subject: str, key: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.id = id_
        self.kind = kind
        self.subject = subject
        self.key = key
        self.started_at = datetime.now(UTC)
        self.state: State = "running"
        self.is_ending = False
        """It was told to stop; nobody joins it any more."""
        self.result: dict[str, Any] = {}
        self.error: BeastError | None = None
        self.n_watchers = 0
        self._clock = clock
        self._lines: dict[str, tuple[int, Line]] = {}
        """Item → the number of the change that brought it, and the line."""
        self._paces: dict[str, _Pace] = {}
        self._n_changes = 0
        self._news = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None

    # --- for the work ---

    def report(self, progress: Progress) -> None:
        """Tell where the work stands; from the event loop's thread."""
        now = self._clock()
        pace = self._paces.setdefault(progress.item, _Pace(progress.completed, now))
        pace.note(progress.completed, now)
        self._lines.pop(progress.item, None)  # so that the latest comes last
        self._n_changes += 1
        self._lines[progress.item] = self._n_changes, Line(progress, pace.rate)
        self._wake()

    def report_from_thread(self, progress: Progress) -> None:
        """As ``report``, from any thread."""
        self._loop.call_soon_threadsafe(self.report, progress)

    def say(self, status: str) -> None:
        """Tell what is done now, where there is nothing to count."""
        self.report(Progress(status=status))

    # --- for watchers ---

    async def watch(self) -> AsyncGenerator[Line, None]:
        """Each item's latest line, then what changes, until the end. Raises the job's error."""
        self.n_watchers += 1
        n_seen = 0
        try:
            while True:
                fresh = [line for n, line in list(self._lines.values()) if n > n_seen]
                n_seen = self._n_changes
                for line in fresh:
                    yield line
                if self.state != "running" and n_seen == self._n_changes:
                    break
                if n_seen == self._n_changes:
                    await self._news.wait()
                await asyncio.sleep(FRAME_S if self.state == "running" else 0)
        finally:
            self.n_watchers -= 1
        if self.error:
            raise self.error.with_traceback(None)  # each raise would add to the one instance

    @property
    def lines(self) -> list[Line]:
        """The latest of each item, oldest change first."""
        return [line for _, line in self._lines.values()]

    # --- for Jobs ---

    def start(self, work: Callable[[Job], Awaitable[dict[str, Any]]], on_end: Callable[[Job], None]) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(work, on_end), name=f"{self.kind} {self.subject}")

    def cancel(self) -> None:
        """Ask it to stop; its watchers get Cancelled."""
        if self._task and not self.is_ending:
            self.is_ending = True
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has."""
        if self._task:
            await asyncio.wait([self._task])

    async def _run(self, work: Callable[[Job], Awaitable[dict[str, Any]]], on_end: Callable[[Job], None]) -> None:
        try:
            self.result = await work(self)
            self.state = "done"
        except asyncio.CancelledError:
            self.state = "cancelled"
            self.error = Cancelled(f"the {self.kind} of {self.subject} was cancelled; asking again goes on with it")
        except BeastError as error:
            self.state, self.error = "failed", error
        except Exception:
            _log.exception("unexpected error in %s", self.id)
            self.state, self.error = "failed", BeastError("Beast has a bug: see the daemon's log; please report it")
        finally:
            on_end(self)
            self._wake()

    def _wake(self) -> None:
        self._news.set()
        if self.state == "running":
            self._news = asyncio.Event()
