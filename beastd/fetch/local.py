"""Files of this machine into the store: copied, or linked from huggingface_hub's cache."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from typing import TYPE_CHECKING

from beastd.durable import translated
from beastd.errors import Cancelled, DigestMismatch
from beastd.fetch.listing import RemoteFile
from beastd.fetch.order import Part
from beastd.fetch.partial import READ_BYTES, claim
from beastd.registry.gguf import parse_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from beastd.fetch.job import Job
    from beastd.registry.header import Header


class LocalArrival:
    """A file of this machine, on its way into the store."""

    def __init__(self, path: Path, digest: str | None, job: Job) -> None:
        self.path = path
        self._job = job
        self.file = RemoteFile(path.name, path.stat().st_size, digest)

    def header(self) -> Header:
        """Its GGUF header. Raises BadModel."""
        return header_of(self.path, self.file.name)

    def size_bytes(self) -> int:
        """Of the file."""
        return self.file.size_bytes or 0

    def missing_bytes(self) -> int:
        """What the disk must have room for."""
        return self.size_bytes()

    def finish(self) -> Part:
        """Copy it, and check the digest if one was given. Raises DigestMismatch, DiskFull, BeastError."""
        return copy(self.path, self.file, self._job)

    def release(self, *, is_unwanted: bool = False) -> None:
        """Nothing is held."""


def header_of(path: Path, name: str) -> Header:
    """The header of a file of this machine, called ``name`` in messages. Raises BadModel."""
    try:
        with path.open("rb") as stream:
            return parse_header(stream, path.stat().st_size, name)
    except OSError as e:
        raise translated(e, f"cannot read {path}") from e


def copy(source: Path, file: RemoteFile, job: Job) -> Part:
    """Copy a file of this machine into the store. Raises DigestMismatch for one with another digest than announced."""
    key = f"file-{hashlib.sha256(os.fsencode(source)).hexdigest()}"
    partial = claim(job.store, key, str(source), job.chunk_bytes, lambda n: job.tell("copying", file, n, None))
    partial.restart()
    try:
        for data in _pieces(source, job):
            partial.append(data)
            job.tell("copying", file, partial.position, file.size_bytes)
        if file.digest not in {None, partial.digest}:
            raise DigestMismatch(f"{source} has the sha256 {partial.digest}, not {file.digest}: is it the right file?")
        return Part(partial.keep(), partial.position)
    finally:
        partial.discard()


def adopt(source: Path, file: RemoteFile, digest: str, job: Job) -> Part | None:
    """Take a file of huggingface_hub's cache, by a hard link where that works; None if its bytes are not right."""
    real = source.resolve()
    if _digest(real, file, job) != digest:
        return None
    link = job.store.partial(f"link-{digest}.{os.getpid()}")
    try:
        if real.stat().st_uid != os.geteuid():
            raise PermissionError(f"{real} is another user's, who could change it later")
        link.hardlink_to(real)
        job.store.keep(link, digest)
    except OSError:
        return copy(real, file, job)
    finally:
        with suppress(OSError):
            link.unlink(missing_ok=True)
    return Part(digest, real.stat().st_size)


def _digest(path: Path, file: RemoteFile, job: Job) -> str:
    found, n_bytes = hashlib.sha256(), 0
    for data in _pieces(path, job):
        found.update(data)
        n_bytes += len(data)
        job.tell("verifying", file, n_bytes, file.size_bytes)
    return found.hexdigest()


def _pieces(path: Path, job: Job) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            while data := stream.read(READ_BYTES):
                if job.manners.stop.is_set():
                    raise Cancelled("the copy was stopped")
                yield data
    except OSError as e:
        raise translated(e, f"cannot read {path}") from e
