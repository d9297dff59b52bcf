"""A request's hold on a worker, from asking to letting go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from beastd.contract import Loading, Priority, Waiting
from beastd.errors import BeastError
from beastd.fleet.entry import Ticket
from beastd.fleet.spec import Want
from beastd.fleet.worker import Worker

_LOOK_EVERY_S = 0.25

News = Loading | Waiting
"""What a request that waits is told."""


@dataclass(frozen=True, slots=True)
class Door:
    """What a lease needs of the pool."""

    enter: Callable[[Lease], None]
    leave: Callable[[Lease], None]
    look: Callable[[Lease], News | None]
    """What the lease waits for now."""


class Lease:
    """``async with pool.lease(…) as lease``: wait in ``waiting()``, then use ``lease.worker``.

    Entering asks for the worker; leaving the block, for any reason, lets it go or withdraws the question.
    """

    asked_at: float = 0.0
    """When the block was entered, in the pool's clock."""
    load_s: float = 0.0
    """Seconds the request waited for its worker."""

    def __init__(self, ticket: Ticket, want: Want, keep_alive_s: float, door: Door, priority: Priority) -> None:
        self.ticket = ticket
        self.priority = priority
        self.want = want
        self.keep_alive_s = keep_alive_s
        self._door = door
        self._worker: Worker | None = None
        self._error: BeastError | None = None
        self._is_settled = asyncio.Event()

    @property
    def worker(self) -> Worker:
        """The granted worker; only after waiting() has ended."""
        assert self._worker is not None, "waiting() has not ended"
        return self._worker

    @property
    def is_granted(self) -> bool:
        """There is a worker, so that leaving is a release."""
        return self._worker is not None

    async def waiting(self) -> AsyncGenerator[News, None]:
        """Wait for the worker, yielding what it waits for when that changes, at most every quarter of a second.

        Yields nothing when the worker is there already. Raises what the request is refused with.
        """
        told: News | None = None
        while not self._is_settled.is_set():
            news = self._door.look(self)
            if news is not None and news != told:
                told = news
                yield news
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._is_settled.wait()
        if self._error is not None:
            raise self._error

    def on_grant(self, worker: Worker, now: float) -> None:
        """The worker may be used."""
        self._worker = worker
        self.load_s = now - self.asked_at
        self._is_settled.set()

    def on_refuse(self, error: BeastError) -> None:
        """There will be no worker."""
        self._error = error
        self._is_settled.set()

    async def __aenter__(self) -> Self:
        self._door.enter(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._door.leave(self)
