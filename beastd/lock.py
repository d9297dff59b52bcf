"""One daemon a run directory: an flock that dies with its process, so that no lock is ever stale."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from beastd.errors import ConfigError


class Lock:
    """Held from acquire() until the process ends. The file says who holds it, and stays."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock and write our pid. Raises ``ConfigError`` naming the daemon that has it."""
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise ConfigError(
                f"beastd already runs here (pid {holder}, lock {self._path}); "
                "use it, end it with `beast shutdown`, or set BEAST_HOME to another folder"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
