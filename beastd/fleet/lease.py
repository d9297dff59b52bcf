"""A request's hold on a worker, from asking to letting go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from beastd.errors import BeastError
from beastd.fleet.entry import Ticket
from beastd.fleet.spec import WorkerSpec
from beastd.fleet.worker import Worker

_PROGRESS_EVERY_S = 0.25


class Lease:
    """``async with pool.lease(…) as lease``: wait in ``loading()``, then use ``lease.worker``.

    Entering asks for the worker; leaving the block, for any reason, lets it go or withdraws the question.
    """

    asked_at: float = 0.0
    """When the block was entered, in the pool's clock."""
    load_s: float = 0.0
    """Seconds the request waited for its worker."""

    def __init__(
        self,
        ticket: Ticket,
        spec: WorkerSpec,
        keep_alive_s: float,
        on_enter: Callable[[Lease], None],
        on_leave: Callable[[Lease], None],
    ) -> None:
        self.ticket = ticket
        self.spec = spec
        self.keep_alive_s = keep_alive_s
        self._on_enter = on_enter
        self._on_leave = on_leave
        self._worker: Worker | None = None
        self._error: BeastError | None = None
        self._fraction = 0.0
        self._has_news = asyncio.Event()
        self._is_settled = asyncio.Event()

    @property
    def worker(self) -> Worker:
        """The granted worker; only after loading() has ended."""
        assert self._worker is not None, "loading() has not ended"
        return self._worker

    @property
    def is_granted(self) -> bool:
        """There is a worker, so that leaving is a release."""
        return self._worker is not None

    @property
    def is_waiting(self) -> bool:
        """Neither granted nor refused yet."""
        return not self._is_settled.is_set()

    async def loading(self) -> AsyncGenerator[float, None]:
        """Wait for the worker, yielding the newest fraction of its load, at most every quarter of a second.

        Yields nothing when the worker is there already. Raises what the request is refused with.
        """
        while True:
            await self._has_news.wait()
            self._has_news.clear()
            if not self.is_waiting:
                break
            yield self._fraction
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_EVERY_S):
                    await self._is_settled.wait()
        if self._error is not None:
            raise self._error

    def on_progress(self, fraction: float) -> None:
        """The load this request waits for has come this far."""
        self._fraction = fraction
        self._has_news.set()

    def on_grant(self, worker: Worker, now: float) -> None:
        """The worker may be used."""
        self._worker = worker
        self.load_s = now - self.asked_at
        self._settle()

    def on_refuse(self, error: BeastError) -> None:
        """There will be no worker."""
        self._error = error
        self._settle()

    def _settle(self) -> None:
        self._is_settled.set()
        self._has_news.set()

    async def __aenter__(self) -> Self:
        self._on_enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._on_leave(self)
