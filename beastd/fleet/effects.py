"""What the fleet orders from the world; the pool makes it real, tests record it."""

from __future__ import annotations

from typing import Protocol

from beastd.errors import BeastError
from beastd.fleet.entry import Shape, Ticket
from beastd.fleet.journal import Decision
from beastd.fleet.spec import WorkerSpec


class Effects(Protocol):
    """What the fleet orders. None of these may call the fleet back before it returns."""

    def start(self, id: int, spec: WorkerSpec) -> None:  # noqa: A002 - what the number is
        """Start a worker; answered by on_ready or on_load_failed."""

    def reshape(self, id: int, shape: Shape) -> None:  # noqa: A002
        """Change a loaded worker in place; answered by one of on_reshaped, on_reshape_failed and on_died."""

    def stop(self, id: int) -> None:  # noqa: A002
        """Stop a worker, whatever it is doing; answered by one of on_stopped, on_load_failed and on_died."""

    def grant(self, ticket: Ticket, id: int) -> None:  # noqa: A002
        """The request may use the worker, until on_release."""

    def refuse(self, ticket: Ticket, error: BeastError) -> None:
        """The request will get no worker, for this reason."""

    def note(self, decision: Decision) -> None:
        """Something was decided that people may want to know."""
