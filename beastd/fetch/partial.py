"""One unfinished file of the store: who may write it, how much of it is here and durable, and its sha256 so far.

Beside the data lies a small JSON file that says how many bytes were synced to the disk, written after each sync. What
is beyond them after a power cut may be garbage, so a new process begins there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta, Struct

from beastd.durable import translated, write_atomically

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from beastd.registry.store import Store

READ_BYTES = 2**20
SYNC_S = 5.0
"""What came is made durable at least so often: on a slow line a chunk takes minutes."""
POLL_S = 0.2
"""How often a process looks whether another is done with the file it wants."""


class Mark(Struct, frozen=True, kw_only=True):
    """What is known of a partial's bytes."""

    url: str
    size_bytes: int | None = None
    """Of the whole file."""
    etag: str = ""
    """The server's strong ETag, or its Last-Modified: what came is still part of the file as long as it holds."""
    synced: Annotated[int, Meta(ge=0)] = 0
    """Bytes that a power cut cannot take."""


class Partial:
    """An unfinished file, locked for this process. ``position`` bytes of it are here."""

    def __init__(self, store: Store, path: Path, descriptor: int, chunk_bytes: int, mark: Mark) -> None:
        self._store = store
        self._path = path
        self._descriptor = descriptor
        self._chunk_bytes = chunk_bytes
        self._hash = hashlib.sha256()
        self._synced_at = time.monotonic()
        self.mark = mark
        self.position = 0

    def resume(self, on_read: Callable[[int], None]) -> None:
        """Keep what is durable from another process, reading it again for its digest. Raises as ``append``."""
        try:
            os.ftruncate(self._descriptor, min(self.mark.synced, os.fstat(self._descriptor).st_size))
            while data := os.pread(self._descriptor, READ_BYTES, self.position):
                self._hash.update(data)
                self.position += len(data)
                on_read(self.position)
        except OSError as e:
            raise translated(e, f"cannot read {self._path}") from e
        self.mark = msgspec.structs.replace(self.mark, synced=self.position)

    def append(self, data: bytes) -> None:
        """Write what came next, durable after each chunk or ``SYNC_S``. Raises DiskFull, ReadOnly, BeastError."""
        view = memoryview(data)
        while view:
            n = self._write(view[: self._chunk_bytes - (self.position - self.mark.synced)])
            self._hash.update(view[:n])
            self.position += n
            view = view[n:]
            if self.position - self.mark.synced >= self._chunk_bytes:
                self.sync()
        if self.position > self.mark.synced and time.monotonic() - self._synced_at >= SYNC_S:
            self.sync()

    def _write(self, data: memoryview) -> int:
        try:
            return os.pwrite(self._descriptor, data, self.position)
        except OSError as e:
            raise translated(e, f"cannot write {self._path}") from e

    def read(self, position: int, n_bytes: int) -> bytes:
        """Some of what is here."""
        try:
            return os.pread(self._descriptor, n_bytes, position)
        except OSError as e:
            raise translated(e, f"cannot read {self._path}") from e

    def learn(self, size_bytes: int, etag: str) -> None:
        """What the server says of the file."""
        self.mark = msgspec.structs.replace(self.mark, size_bytes=size_bytes, etag=etag)

    def sync(self) -> None:
        """Make what is here durable. Raises as ``append``."""
        try:
            os.fsync(self._descriptor)
        except OSError as e:
            raise translated(e, f"cannot write {self._path}") from e
        self._synced_at = time.monotonic()
        self.mark = msgspec.structs.replace(self.mark, synced=self.position)
        write_atomically(_mark_path(self._path), msgspec.json.encode(self.mark))

    def restart(self) -> None:
        """Forget all that came. Raises as ``append``."""
        self.mark = Mark(url=self.mark.url)
        self.position = 0
        self._hash = hashlib.sha256()
        self._forget_mark()
        try:
            os.ftruncate(self._descriptor, 0)
        except OSError as e:
            raise translated(e, f"cannot write {self._path}") from e

    @property
    def digest(self) -> str:
        """sha256 of what is here."""
        return self._hash.hexdigest()

    def keep(self) -> str:
        """The file is whole and right: make it a blob; its digest. Ends the partial."""
        self._store.keep(self._path, self.digest)
        self._forget_mark()
        self.close()
        return self.digest

    def discard(self) -> None:
        """Remove it, unless it ended already."""
        if self._descriptor < 0:
            return
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self._forget_mark()
        self.close()

    def close(self) -> None:
        """Let others have it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _forget_mark(self) -> None:
        with suppress(OSError):
            _mark_path(self._path).unlink(missing_ok=True)


def claim(store: Store, key: str, url: str, chunk_bytes: int, while_waiting: Callable[[int], None]) -> Partial:
    """The partial of this key, once no other process has it; meanwhile ``while_waiting`` hears how large it is.

    Whoever had it may have finished: look for the blob before going on. Raises DiskFull, ReadOnly, BeastError.
    """
    path = store.partial(key)
    try:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if _is_locked(descriptor) and _is_same(descriptor, path):
                _sweep(path)
                return Partial(store, path, descriptor, chunk_bytes, _read_mark(path, url))
            size_bytes = os.fstat(descriptor).st_size
            os.close(descriptor)
            while_waiting(size_bytes)
            time.sleep(POLL_S)
    except OSError as e:
        raise translated(e, f"cannot write {path}") from e


def present_bytes(store: Store, key: str) -> int:
    """How much of this partial a pull would not load again."""
    path = store.partial(key)
    with suppress(OSError):
        return min(path.stat().st_size, _read_mark(path, "").synced)
    return 0


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_same(descriptor: int, path: Path) -> bool:
    """Whether the name still is this file: the one before us may have moved or removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _mark_path(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def _sweep(path: Path) -> None:
    """Remove what a killed process left of writing its mark."""
    for temporary in path.parent.glob(f".{path.name}.json.*.tmp"):
        temporary.unlink(missing_ok=True)


def _read_mark(path: Path, url: str) -> Mark:
    """The mark, or an empty one where it is missing or broken: then nothing counts as durable."""
    try:
        return msgspec.json.decode(_mark_path(path).read_bytes(), type=Mark)
    except (OSError, msgspec.DecodeError):
        return Mark(url=url)
