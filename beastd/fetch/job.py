"""What every part of one fetch shares: the store, how servers are dealt with, and how progress is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from beastd.fetch.web import Manners
from beastd.registry.store import Store
from beastd.tool import Progress

if TYPE_CHECKING:
    from beastd.fetch.listing import RemoteFile
    from beastd.fetch.order import FetchOrder
    from beastd.tool import Report


@dataclass(frozen=True, slots=True)
class Job:
    """One order being carried out."""

    store: Store
    chunk_bytes: int
    keep_free_bytes: int
    manners: Manners

    def tell(self, doing: str, file: RemoteFile, completed: int, total: int | None) -> None:
        """Progress of one file."""
        self.manners.report(
            Progress(
                status=f"{doing} {file.name}",
                item=file.name,
                digest=f"sha256:{file.digest}" if file.digest else "",
                completed=completed,
                total=total or 0,
            )
        )


def job_of(order: FetchOrder, report: Report) -> Job:
    """The job an order asks for."""
    manners = Manners(order.stall_s, order.retry_s, report, Event())
    return Job(Store(Path(order.store)), order.chunk_bytes, order.keep_free_bytes, manners)
