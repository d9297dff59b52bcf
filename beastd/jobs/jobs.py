"""All long work of the daemon: started or joined, listed, cancelled."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Any

from beastd.errors import ModelNotFound, Overloaded, ShuttingDown
from beastd.jobs.job import Job

MAX_RUNNING = 32
MAX_SUBJECT_CHARS = 200
N_REMEMBERED = 50
"""Ended jobs that can still be looked at."""

Work = Callable[[Job], Awaitable[dict[str, Any]]]

_log = logging.getLogger(__name__)


class Jobs:
    """Owns every job, so that none depends on the client who asked for it."""

    def __init__(self) -> None:
        self._running: dict[str, Job] = {}
        self._ended: deque[Job] = deque(maxlen=N_REMEMBERED)
        self._ids = itertools.count(1)
        self._is_closed = False

    def start(self, kind: str, subject: str, key: str, work: Work) -> Job:
        """Begin the work, or join that of the same kind and key which is under way.

        Raises Overloaded, ShuttingDown.
        """
        key = sha256(f"{kind} {key}".encode()).hexdigest()
        known = self._running.get(key)
        if known and not known.is_ending:
            return known
        if self._is_closed:
            raise ShuttingDown("Beast is shutting down. Try again when it is back.")
        if len(self._running) >= MAX_RUNNING:
            raise Overloaded(f"{MAX_RUNNING} jobs are under way; wait for one to end, or cancel one (`beast jobs`)")
        job = Job(f"{kind}-{next(self._ids)}", kind, subject[:MAX_SUBJECT_CHARS], key)
        self._running[key] = job
        _log.info("%s: %s of %s begins", job.id, kind, subject)
        job.start(work, self._on_end)
        return job

    def all(self) -> list[Job]:
        """Ended ones first, then those under way, in the order they began."""
        return [*self._ended, *self._running.values()]

    @property
    def running(self) -> list[Job]:
        """Those under way."""
        return list(self._running.values())

    def get(self, id_: str) -> Job:
        """The job of this id. Raises ModelNotFound when there is none (any more)."""
        found = next((job for job in self.all() if job.id == id_), None)
        if found is None:
            raise ModelNotFound(f"there is no job '{id_[:80]}'; `beast jobs` shows those there are")
        return found

    @property
    def oldest_s(self) -> float:
        """Wall time at which the oldest job under way began; now, without any.

        Blobs younger than this may be a running job's, which no description names yet.
        """
        return min((job.started_at.timestamp() for job in self._running.values()), default=time.time())

    async def close(self) -> None:
        """Cancel everything and wait until it has stopped."""
        self._is_closed = True
        running = list(self._running.values())
        for job in running:
            job.cancel()
        await asyncio.gather(*(job.ended() for job in running))

    def _on_end(self, job: Job) -> None:
        if self._running[job.key] is job:  # else a new one has taken its place
            del self._running[job.key]
        self._ended.append(job)
        _log.info("%s: %s of %s: %s%s", job.id, job.kind, job.subject, job.state, f": {job.error}" if job.error else "")
