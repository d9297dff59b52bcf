"""All parts of one candidate on their way: what the header says, whether the disk can hold them, then all at once."""

from __future__ import annotations

import os
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from beastd.durable import translated
from beastd.errors import DiskFull
from beastd.fetch.choose import size_text
from beastd.tool import Progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from beastd.fetch.job import Job
    from beastd.fetch.listing import Candidate, RemoteFile
    from beastd.fetch.order import Part
    from beastd.registry.header import Header

N_AT_ONCE = 4
"""Files loaded at the same time."""


class Arrival(Protocol):
    """One file on its way into the store."""

    file: RemoteFile

    def header(self) -> Header:
        """Its GGUF header."""

    def size_bytes(self) -> int:
        """Of the whole file; its server is asked where nobody has said it."""

    def missing_bytes(self) -> int:
        """What the disk must have room for."""

    def finish(self) -> Part:
        """Bring all of it."""

    def release(self, *, is_unwanted: bool = False) -> None:
        """Hold it no longer; leave nothing of an unwanted one."""


class Delivery:
    """A candidate's parts on their way."""

    def __init__(self, candidate: Candidate, arrivals: Sequence[Arrival]) -> None:
        sizes = [arrival.size_bytes() for arrival in arrivals]
        parts = (replace(part, size_bytes=size) for part, size in zip(candidate.parts, sizes, strict=True))
        self.candidate = replace(candidate, parts=tuple(parts))
        """With the sizes of all its parts."""
        self._arrivals = arrivals

    def header(self) -> Header:
        """What decides kind and memory: the first shard's header, with the size of all shards.

        A first shard may have all the metadata and no tensor (``llama-gguf-split --no-tensor-first-split``); the
        second stands in for that. Raises what ``Arrival.header`` raises.
        """
        first = self._arrivals[0].header()
        if len(self._arrivals) == 1:
            return first
        tensors = first.tensors or self._arrivals[1].header().tensors
        return replace(first, tensors=tensors, size_bytes=self.candidate.n_bytes)

    def bring(self, job: Job, why: str) -> list[Part]:
        """Everything, in the order of shards; before, ``why`` it is this candidate is told with what the disk has.

        Raises DiskFull before the first byte, or what ``finish`` raises.
        """
        self._check_disk(job, why)
        with ThreadPoolExecutor(N_AT_ONCE) as pool:
            futures = [pool.submit(arrival.finish) for arrival in self._arrivals]
            ended, _ = wait(futures, return_when=FIRST_EXCEPTION)
            failure = next((future.exception() for future in futures if future in ended and future.exception()), None)
            if failure is not None:
                job.manners.stop.set()  # the others end at their next byte
                pool.shutdown(cancel_futures=True)
                raise failure
        return [future.result() for future in futures]

    def leave(self, *, is_unwanted: bool) -> None:
        """Hold nothing any longer; of an unwanted candidate, not even the header stays."""
        for arrival in self._arrivals:
            arrival.release(is_unwanted=is_unwanted)

    def _check_disk(self, job: Job, why: str) -> None:
        missing = sum(arrival.missing_bytes() for arrival in self._arrivals)
        total = self.candidate.n_bytes
        try:
            disk = os.statvfs(job.store.partial(""))
        except OSError as e:
            raise translated(e, f"cannot look at {job.store.root}") from e
        free = max(0, disk.f_bavail * disk.f_frsize - job.keep_free_bytes)
        if missing > free:
            raise DiskFull(
                f"{self.candidate.label} needs {size_text(missing)} more in {job.store.root}, whose disk has "
                f"{size_text(free)} to give ({size_text(job.keep_free_bytes)} stay free): free some space "
                "(`beast du`, `beast prune`), or take a smaller variant"
            )
        # One status: of two in a row a watcher may see the last alone.
        status = f"{why}; {size_text(missing)} to load, {size_text(total - missing)} here, {size_text(free)} disk free"
        job.manners.report(Progress(status=status, completed=total - missing, total=total))
