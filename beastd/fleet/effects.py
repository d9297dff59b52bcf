"""What the fleet orders from the world; the pool makes it real, tests record it."""

from __future__ import annotations

from typing import Protocol

from beastd.errors import BeastError
from beastd.fleet.entry import Ticket
from beastd.fleet.spec import WorkerSpec


class Effects(Protocol):
    """What the fleet orders. None of these may call the fleet back before it returns."""

    def start(self, spec: WorkerSpec, need_bytes: int) -> None:
        """Start a worker; answered by on_ready or on_load_failed."""

    def stop(self, key: str) -> None:
        """Stop a worker, loading or loaded; answered by one of on_stopped, on_load_failed and on_died."""

    def grant(self, ticket: Ticket, key: str) -> None:
        """The request may use the worker, until on_release."""

    def refuse(self, ticket: Ticket, error: BeastError) -> None:
        """The request will get no worker, for this reason."""
