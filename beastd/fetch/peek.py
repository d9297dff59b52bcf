"""Looks at what a fetch would bring, without bringing it: ``python -P -m beastd.fetch.peek`` (``beastd.tool``).

A PeekOrder in, a Peeked out. llama.cpp can simulate a load from a stand-in that has a file's header and size.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import msgspec

from beastd.durable import translated
from beastd.errors import BadRequest
from beastd.fetch.beginning import Beginning
from beastd.fetch.hub import cached, read_repository
from beastd.fetch.job import job_of
from beastd.fetch.listing import models, stem
from beastd.fetch.local import LocalArrival
from beastd.fetch.order import FileSource, HubSource, Peeked, PeekOrder
from beastd.fetch.plain import candidate_of_path, candidate_of_url, local_arrivals, url_arrivals
from beastd.fetch.pull import chosen, likely_of, name_of, offers, role_of
from beastd.fetch.remote import RemoteArrival
from beastd.registry.gguf import parse_header, read_shards
from beastd.tool import Progress, serve

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from beastd.fetch.choose import Choice
    from beastd.fetch.delivery import Arrival
    from beastd.fetch.job import Job
    from beastd.fetch.listing import Candidate
    from beastd.tool import Report

    Arrivals = Callable[[Candidate], Sequence[Arrival]]


MAX_TRIES = 2
"""A look is soon asked for again, and somebody waits for it."""


def peek(order: PeekOrder, report: Report) -> Peeked:
    """Look. Raises BadRequest for what is no model, AccessDenied, ModelNotFound, BadModel, DiskFull, DownloadFailed."""
    job = job_of(order.fetch, report)
    job = replace(job, manners=replace(job.manners, max_tries=MAX_TRIES))
    report(Progress(status="reading the header"))
    try:
        return _peeked(order, job, *_source(order, job))
    finally:
        job.manners.stop.set()


def work(order: PeekOrder, report: Report) -> dict[str, Any]:
    """Carry out one order."""
    result: dict[str, Any] = msgspec.to_builtins(peek(order, report))
    return result


def _source(order: PeekOrder, job: Job) -> tuple[list[Candidate], list[Candidate], Arrivals]:
    """What there is to choose from, all there is beside it, and where the parts of each are."""
    source = order.fetch.source
    if isinstance(source, FileSource):
        return [candidate_of_path(source)], [], lambda it: local_arrivals(it, source, job)
    if not isinstance(source, HubSource):
        return [candidate_of_url(source)], [], lambda it: url_arrivals(it, source, job)
    repo = read_repository(source.repo, source.revision, job.manners)

    def arrivals(candidate: Candidate) -> Sequence[Arrival]:
        return [RemoteArrival(it, repo.address(it.name), cached(repo.name, it), job) for it in candidate.parts]

    return offers(source, repo), models(repo.files), arrivals


def _peeked(
    order: PeekOrder, job: Job, offered: list[Candidate], siblings: list[Candidate], arrivals: Arrivals
) -> Peeked:
    likely = likely_of(offered, order.fetch)
    look = _Look(likely, arrivals(likely), Path(order.folder), job)
    choice = chosen([look.candidate if it is likely else it for it in offered], look.header, order.fetch)
    if choice.candidate is not look.candidate:
        look = _Look(choice.candidate, arrivals(choice.candidate), Path(order.folder), job)
    if (role := role_of(look.header)) != "variant":
        raise BadRequest(f"{look.candidate.file} is no model but made for one: {role}; ask for that one")
    return look.result(choice, [it for it in siblings if stem(it) == stem(look.candidate)])


@dataclass(frozen=True, slots=True)
class _File:
    """A part that was looked at."""

    path: Path
    """The stand-in, or the file itself."""
    size_bytes: int
    missing_bytes: int
    mark: str
    """Tells it from others: its sha256 where the source says it, else that of its beginning."""


class _Look:
    """One candidate, its header read and its stand-ins made."""

    def __init__(self, candidate: Candidate, arrivals: Sequence[Arrival], folder: Path, job: Job) -> None:
        self._job = job
        self._files = [_file(it, folder / f"{i}.gguf", job) for i, it in enumerate(arrivals)]
        sized = zip(candidate.parts, self._files, strict=True)
        parts = tuple(replace(part, size_bytes=file.size_bytes) for part, file in sized)
        self.candidate = replace(candidate, parts=parts)
        self.header = replace(read_shards([file.path for file in self._files]), what=candidate.file)

    def result(self, choice: Choice, siblings: Sequence[Candidate]) -> Peeked:
        """All of it, in the order's words."""
        taken, name = self.candidate, name_of(self.candidate, self.header)
        others = {it.label: (it.file, it.n_bytes) for it in siblings if it.file != taken.file}
        marks = [file.mark for file in self._files]
        return Peeked(
            name=name,
            file=taken.file,
            paths=[str(file.path) for file in self._files],
            digest=marks[0] if len(marks) == 1 else sha256("".join(marks).encode()).hexdigest(),
            size_bytes=taken.n_bytes,
            missing_bytes=sum(file.missing_bytes for file in self._files),
            free_bytes=_free_bytes(self._job),
            why=choice.why,
            offered=others | {name: (taken.file, taken.n_bytes)},
        )


def _file(arrival: Arrival, stand_in: Path, job: Job) -> _File:
    if isinstance(arrival, LocalArrival):
        mark = arrival.file.digest or sha256(f"{arrival.path} {arrival.path.stat().st_mtime_ns}".encode()).hexdigest()
        return _File(arrival.path, arrival.size_bytes(), arrival.missing_bytes(), mark)
    assert isinstance(arrival, RemoteArrival), "there are no others"
    beginning = Beginning(arrival.file, arrival.address, job.manners)
    parse_header(cast("BinaryIO", beginning), beginning.size_bytes, arrival.file.name)  # loads as much as it needs
    _write_stand_in(stand_in, beginning)
    missing_bytes = beginning.size_bytes if arrival.file.size_bytes is None else arrival.missing_bytes()
    mark = arrival.file.digest or sha256(beginning.data).hexdigest()
    return _File(stand_in, beginning.size_bytes, missing_bytes, mark)


def _write_stand_in(path: Path, beginning: Beginning) -> None:
    """A file of the whole size with only the beginning in it; the rest is a hole that takes no disk."""
    try:
        with path.open("wb") as stream:
            stream.write(beginning.data)
            os.ftruncate(stream.fileno(), beginning.size_bytes)
    except OSError as e:
        raise translated(e, f"cannot write {path}") from e


def _free_bytes(job: Job) -> int:
    root = job.store.root
    existing = next(it for it in (root, *root.parents) if it.exists())
    return max(0, shutil.disk_usage(existing).free - job.keep_free_bytes)


if __name__ == "__main__":
    serve(PeekOrder, work)
