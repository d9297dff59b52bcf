"""The folder of the KV disk tier, shared by all workers: bounded, the least recently used files leave first."""

from __future__ import annotations

import fcntl
import io
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from beastd import kvfile
from beastd.kvfile import BadFile, Header

_LOCK = "lock"
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
"""Nothing that lies there in a file's place can make the one who opens it wait."""
_TEMPORARY = ".tmp"
LOCK_LIMIT_S = 5.0
"""A write takes far less; who takes longer is stopped."""
_LOCK_RETRY_S = 0.01


@dataclass(frozen=True, slots=True)
class File:
    """An entry's file as the folder lists it."""

    name: str
    size_bytes: int
    used_s: float
    """When it was last written or read, as the system's clock has it."""


class KVFolder:
    """Any number of processes may use one folder. Raises OSError where not said otherwise."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> list[File]:
        """Every entry, least recently used first; empty if there is no folder."""
        try:
            with os.scandir(self._path) as found:
                return sorted((it for it in map(_file, found) if it), key=lambda it: it.used_s)
        except FileNotFoundError:
            return []

    def open(self, name: str) -> io.FileIO:
        """For reading."""
        return io.FileIO(os.open(self._path / name, _READ))

    def header(self, name: str) -> Header:
        """Of an entry. Raises BadFile as well."""
        with self.open(name) as file:
            header = kvfile.read_header(file)
        if kvfile.file_name(header.meta, header.tokens) != name:
            raise BadFile("it is another entry's")
        return header

    def touch(self, name: str) -> None:
        """The entry is used now."""
        os.utime(self._path / name)

    def remove(self, name: str) -> None:
        """Remove an entry, if it is there."""
        (self._path / name).unlink(missing_ok=True)

    def write(self, meta: kvfile.Meta, tokens: bytes, state: memoryview, *, most_bytes: int) -> str | None:
        """Write an entry and return its name; others leave, so that all together take ``most_bytes`` at most.

        None when it alone would take more, or with what cannot be removed. Raises TimeoutError when another process
        does not come to an end.
        """
        name = kvfile.file_name(meta, tokens)
        self._path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._locked():
            if not self._make_room(kvfile.size_bytes(meta, tokens, len(state)), most_bytes):
                return None
            temporary = self._path / f"{name}{_TEMPORARY}"
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
                with io.FileIO(os.open(temporary, flags, 0o600), "wb") as file:
                    kvfile.write(file, meta, tokens, state)
                temporary.replace(self._path / name)  # no fsync: what a power cut leaves is found by its checksum
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        return name

    def _make_room(self, n_bytes: int, most_bytes: int) -> bool:
        """Remove entries until so many bytes more are allowed; False where they are not, none removed if never."""
        if n_bytes > most_bytes:
            return False
        for rest in self._path.glob(f"*{_TEMPORARY}"):  # who wrote it held the lock, and is dead
            with suppress(OSError):
                rest.unlink()
        files = self.files()
        n_over = sum(file.size_bytes for file in files) + n_bytes - most_bytes
        for file in files:
            if n_over <= 0:
                break
            with suppress(OSError):  # it stays, and another one leaves
                self.remove(file.name)
                n_over -= file.size_bytes
        return n_over <= 0

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes that write here; a lock dies with its process."""
        descriptor = os.open(self._path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline_s = time.monotonic() + LOCK_LIMIT_S
            while not _has_locked(descriptor):
                if time.monotonic() > deadline_s:
                    raise TimeoutError(f"another process has held {self._path / _LOCK} for {LOCK_LIMIT_S:g} s")
                time.sleep(_LOCK_RETRY_S)
            yield
        finally:
            os.close(descriptor)


def _has_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _file(entry: os.DirEntry[str]) -> File | None:
    if not kvfile.NAME.fullmatch(entry.name):
        return None
    try:
        found = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # another process has just removed it
        return None
    return File(entry.name, found.st_size, found.st_mtime) if stat.S_ISREG(found.st_mode) else None
