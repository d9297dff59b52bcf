"""The fleet's orders made real: processes started and stopped, their fates reported back, one timer for keep-alive."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from beastd import ipc
from beastd.errors import BeastError, LoadFailed, ShuttingDown
from beastd.fleet.entry import Entry, Ticket
from beastd.fleet.fleet import Fleet
from beastd.fleet.lease import Lease
from beastd.fleet.process import log_path
from beastd.fleet.spec import WorkerSpec
from beastd.fleet.worker import Worker

_FOR_EVER_S = 100 * 365 * 86400.0
"""A worker that stays longer than this is said to stay for ever; dates end somewhere."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker as people and the API see it."""

    key: str
    name: str
    variant: str
    state: str
    """loading, ready or stopping."""
    n_ctx: int
    """Tokens one request may hold."""
    n_parallel: int
    """Requests answered at once."""
    n_bytes: int
    """Memory it holds; while it loads, what it is expected to take."""
    gpu_bytes: int
    n_leases: int
    """Requests that use it now."""
    expires_at: datetime | None
    """When it stops if nobody comes, in UTC; None: never. While it is in use: as if all its answers ended now."""
    load_s: float
    """Seconds its load took, 0 while it loads."""
    pid: int | None


@dataclass(slots=True)
class _Life:
    """A worker, the task that follows it, and once it is loaded what it said and took."""

    worker: Worker
    task: asyncio.Task[None]
    ready: ipc.Ready | None = None
    load_s: float = 0.0


class Pool:
    """All workers of the daemon, and the door to them: ``lease``."""

    def __init__(
        self,
        *,
        budget_bytes: int,
        max_queue: int,
        load_timeout_s: float,
        logs_dir: Path,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_timeout_s = load_timeout_s
        self._logs_dir = logs_dir
        self._clock = clock
        self._fleet = Fleet(self, budget_bytes=budget_bytes, max_queue=max_queue)
        self._tickets = itertools.count()
        self._leases: dict[Ticket, Lease] = {}
        self._lives: dict[str, _Life] = {}
        self._timer: asyncio.TimerHandle | None = None

    # --- for the service ---

    def lease(self, spec: WorkerSpec, keep_alive_s: float) -> Lease:
        """A hold on the worker for this spec, which stays keep_alive_s seconds after it (inf: for ever, 0: not)."""
        return Lease(next(self._tickets), spec, keep_alive_s, self._enter, self._leave)

    async def unload(self, key: str) -> bool:
        """Stop this worker: now if it is idle (it is gone on return), else as soon as its answers end.

        False: there is no such worker.
        """
        is_known = self._fleet.on_unload(key)
        if is_known and self._lives[key].worker.is_stopping:
            await asyncio.wait([self._lives[key].task])
        return is_known

    def snapshot(self) -> list[WorkerStatus]:
        """Every worker there is, oldest load first."""
        return [self._status(entry) for entry in self._fleet.entries()]

    async def close(self) -> None:
        """Refuse who waits and who comes, stop every worker, and return when all their processes are gone."""
        self._fleet.on_close(ShuttingDown("Beast is shutting down. Try again when it is back."))
        self._arm()
        await asyncio.gather(*[life.task for life in self._lives.values()])

    # --- Effects, for the fleet ---

    def start(self, spec: WorkerSpec, need_bytes: int) -> None:
        """Start a worker and follow its life."""
        _log.info("loading %s, about %.2f GB", spec.label, need_bytes / 1e9)
        worker = Worker(spec, log_path(self._logs_dir, spec.label, spec.key), self._load_timeout_s)
        task = asyncio.create_task(self._live(worker), name=f"worker of {spec.label}")
        self._lives[spec.key] = _Life(worker, task)

    def stop(self, key: str) -> None:
        """Tell a worker to end."""
        self._lives[key].worker.stop()

    def grant(self, ticket: Ticket, key: str) -> None:
        """Give a request its worker."""
        self._leases[ticket].on_grant(self._lives[key].worker, self._clock())

    def refuse(self, ticket: Ticket, error: BeastError) -> None:
        """Tell a request that it gets none."""
        self._leases[ticket].on_refuse(error)

    # --- a request's way ---

    def _enter(self, lease: Lease) -> None:
        self._leases[lease.ticket] = lease
        lease.asked_at = self._clock()
        self._fleet.on_request(lease.ticket, lease.spec)
        self._arm()
        life = self._lives.get(lease.spec.key)
        if lease.is_waiting and life is not None and not life.worker.is_stopping:
            lease.on_progress(life.worker.fraction)

    def _leave(self, lease: Lease) -> None:
        del self._leases[lease.ticket]
        if lease.is_granted:
            self._fleet.on_release(lease.ticket, lease.keep_alive_s, self._clock())
        else:
            self._fleet.on_cancel(lease.ticket)
        self._arm()

    # --- a worker's life ---

    async def _live(self, worker: Worker) -> None:
        """From start to end, reporting both, whatever happens."""
        key = worker.spec.key
        try:
            ready = await self._load(worker)
        except Exception as error:
            del self._lives[key]  # first: the fleet may start the next worker of this key at once
            self._fleet.on_load_failed(key, _load_error(worker.spec, error))
        else:
            self._fleet.on_ready(key, ready.resident_bytes, ready.n_ctx)
            self._arm()
            await self._serve(worker)
        finally:
            self._arm()

    async def _load(self, worker: Worker) -> ipc.Ready:
        key = worker.spec.key
        started_at = self._clock()
        ready = await worker.load(lambda fraction: self._tell_progress(key, fraction))
        life = self._lives[key]
        life.ready, life.load_s = ready, self._clock() - started_at
        return ready

    async def _serve(self, worker: Worker) -> None:
        try:
            await worker.serve()
        except Exception:
            _log.exception("unexpected error while %s answered", worker.spec.label)
        finally:
            del self._lives[worker.spec.key]
            (self._fleet.on_stopped if worker.is_stopping else self._fleet.on_died)(worker.spec.key)

    def _tell_progress(self, key: str, fraction: float) -> None:
        for lease in self._leases.values():
            if lease.is_waiting and lease.spec.key == key:
                lease.on_progress(fraction)

    # --- time ---

    def _arm(self) -> None:
        """Set the one timer to the fleet's next deadline; after every event, since each may have moved it."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        deadline = self._fleet.next_deadline()
        if deadline is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, deadline - self._clock()), self._tick)

    def _tick(self) -> None:
        self._fleet.on_tick(self._clock())
        self._arm()

    # --- for people ---

    def _status(self, entry: Entry) -> WorkerStatus:
        spec, life = entry.spec, self._lives[entry.spec.key]
        ready = life.ready
        return WorkerStatus(
            key=spec.key,
            name=spec.name,
            variant=spec.variant,
            state=entry.state.value,
            n_ctx=ready.n_ctx if ready else entry.n_ctx,
            n_parallel=ready.n_parallel if ready else spec.settings.n_parallel,
            n_bytes=entry.n_bytes,
            gpu_bytes=sum(ready.gpu_bytes.values()) if ready else 0,
            n_leases=len(entry.leases),
            expires_at=_wall_time(self._stays_s(entry)),
            load_s=life.load_s,
            pid=life.worker.pid,
        )

    def _stays_s(self, entry: Entry) -> float:
        """Seconds until it would stop if nobody came any more."""
        if entry.is_idle:
            return entry.expires_at - self._clock()
        tickets = (*entry.waiters, *entry.leases)
        return max((self._leases[ticket].keep_alive_s for ticket in tickets), default=0.0)


def _load_error(spec: WorkerSpec, error: Exception) -> BeastError:
    if isinstance(error, BeastError):
        return error
    _log.error("unexpected error while loading %s", spec.label, exc_info=error)
    return LoadFailed(f"{spec.label} failed to load: Beast has a bug, and the error is in the daemon's log")


def _wall_time(from_now_s: float) -> datetime | None:
    if from_now_s > _FOR_EVER_S:
        return None
    return datetime.now(UTC) + timedelta(seconds=max(0.0, from_now_s))
