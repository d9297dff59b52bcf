"""A blob that a client sends: written aside, verified, then kept."""

from __future__ import annotations

import fcntl
import hashlib
import os
import uuid
from contextlib import suppress
from threading import Lock
from types import TracebackType
from typing import Self

from beastd.durable import translated
from beastd.errors import BadRequest
from beastd.fetch.order import KEEP_FREE_BYTES
from beastd.library.copying import check_room, write_all
from beastd.registry.store import Store


class Upload:
    """Use as a context: what was not finished is removed when it is left."""

    def __init__(self, store: Store, digest: str, n_bytes: int) -> None:
        """``n_bytes``: what the client announced, 0 if nothing. Raises DiskFull, ReadOnly."""
        self._store = store
        self._digest = digest
        self._path = store.partial(f"upload-{uuid.uuid4().hex}")
        self._running = hashlib.sha256()
        self._lock = Lock()
        self._file: int | None = None
        try:
            check_room(store.root, n_bytes + KEEP_FREE_BYTES, "the blob")
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)  # so that prune sees that somebody is at work
        except OSError as e:
            raise translated(e, f"cannot write {self._path}") from e

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:  # a write in another thread must not go to whoever gets this number next
            if self._file is not None:
                os.close(self._file)
            self._file = None
        with suppress(FileNotFoundError):
            self._path.unlink()

    def write(self, data: bytes) -> None:
        """Add to it, from any thread. Blocks for the disk. Raises DiskFull, BeastError."""
        with self._lock:
            if self._file is None:
                return  # its client has left
            self._running.update(data)
            try:
                write_all(self._file, data)
            except OSError as e:
                raise translated(e, "cannot write the blob") from e

    def keep(self) -> None:
        """Make it a blob. Raises BadRequest when it is not what its digest says."""
        found = self._running.hexdigest()
        if found != self._digest:
            raise BadRequest(f"the blob's sha256 is {found}, not {self._digest} as its address says; send it again")
        self._store.keep(self._path, self._digest)
