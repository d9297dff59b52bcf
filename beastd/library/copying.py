"""Large files read and written piece by piece: hashed, told as they go, and cancellable between two pieces."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from beastd.errors import Cancelled, DiskFull
from beastd.fetch.choose import size_text
from beastd.tool import Progress, Report

PIECE_BYTES = 4 * 2**20


class Copying:
    """The copying that one job does: its progress is that of all its files together."""

    def __init__(self, report: Report, is_cancelled: Callable[[], bool], total_bytes: int) -> None:
        self._report = report
        self._is_cancelled = is_cancelled
        self._total_bytes = total_bytes
        self._n_done = 0

    def copy(self, source: int, target: int, n_bytes: int, status: str) -> str:
        """Copy so many bytes from where one open file stands to where another does; returns their sha256.

        Raises Cancelled, OSError, EOFError when the source has fewer.
        """
        running, n_left = hashlib.sha256(), n_bytes
        while n_left:
            self.check()
            data = os.read(source, min(n_left, PIECE_BYTES))
            if not data:
                raise EOFError
            running.update(data)
            write_all(target, data)
            n_left -= len(data)
            self.count(len(data), status)
        return running.hexdigest()

    def count(self, n_bytes: int, status: str) -> None:
        """So many bytes more are done."""
        self._n_done += n_bytes
        self._report(Progress(status=status, completed=self._n_done, total=max(self._total_bytes, self._n_done)))

    def check(self) -> None:
        """Raises Cancelled when nobody wants it any more."""
        if self._is_cancelled():
            raise Cancelled("it was cancelled; nothing has changed")


def hash_file(path: Path, copying: Copying, status: str) -> str:
    """The sha256 of a file, 64 hex digits. Raises Cancelled, OSError."""
    running = hashlib.sha256()
    with path.open("rb") as stream:
        while data := stream.read(PIECE_BYTES):
            copying.check()
            running.update(data)
            copying.count(len(data), status)
    return running.hexdigest()


def write_all(target: int, data: bytes) -> None:
    """Write where the open file stands. Raises OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]


def free_bytes(folder: Path) -> int:
    """What this user may yet write to the disk of a folder, which need not be there. Raises OSError."""
    disk = os.statvfs(next(it for it in (folder, *folder.parents) if it.exists()))
    return disk.f_bavail * disk.f_frsize


def check_room(folder: Path, n_bytes: int, what: str) -> None:
    """Raises DiskFull when the disk of a folder cannot hold so much more; ``what`` needs it. Raises OSError."""
    free = free_bytes(folder)
    if n_bytes > free:
        raise DiskFull(
            f"{what} needs {size_text(n_bytes)} on the disk of {folder}, which has {size_text(free)} free; "
            "free some space (`beast du`, `beast prune`) or choose another disk"
        )
