"""Kills a process of Beast just before its Nth change below the models folder; Python imports it by its name.

With this folder on PYTHONPATH, TEST_KILL="MODULE:N:FOLDER" concerns the process that runs ``-m MODULE`` alone. What
changes names, modes and sizes is seen by Python's audit events, which come before the system call; writing and syncing,
which have none, by functions put before those of os. N=0 never kills. How many changes there were is in the file that
TEST_KILL_COUNT names, one byte a change.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import RLock
from typing import Any

_CHANGES = {
    "os.rename": 2,
    "os.link": 2,
    "os.symlink": 2,
    "os.remove": 1,
    "os.mkdir": 1,
    "os.rmdir": 1,
    "os.chmod": 1,
    "os.truncate": 1,
    "os.utime": 1,
}
"""Audit event → how many of its first arguments are paths or descriptors. replace is a rename, ftruncate a truncate."""
_WRITES = ("write", "pwrite", "writev", "fsync", "fdatasync", "copy_file_range", "sendfile")


class _Killer:
    def __init__(self, nth: int, folder: str, count: str) -> None:
        self._n_left = nth
        self._folder = Path(folder).resolve()
        self._lock = RLock()
        self._count = os.open(count, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._tell = os.write

    def on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(flags, int) and flags & (os.O_CREAT | os.O_TRUNC):
                self._on_change(path)
        elif event in _CHANGES:
            for place in arguments[: _CHANGES[event]]:
                if self._on_change(place):
                    break

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def change(descriptor: int, *arguments: Any, **named: Any) -> Any:
            self._on_change(descriptor)
            return real(descriptor, *arguments, **named)

        return change

    def _on_change(self, place: Any) -> bool:
        """Count a change, if it is in the folder."""
        if not self._is_inside(place):
            return False
        with self._lock:  # threads change files too
            self._tell(self._count, b".")
            self._n_left -= 1
            if self._n_left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()
        return True

    def _is_inside(self, place: Any) -> bool:
        try:
            path = Path(f"/proc/self/fd/{place}").readlink() if isinstance(place, int) else Path(os.fsdecode(place))
        except (OSError, TypeError, ValueError):
            return False
        return path.is_relative_to(self._folder)


def _arm() -> None:
    module, nth, folder = os.environ["TEST_KILL"].split(":", 2)
    if not any(pair == ("-m", module) for pair in zip(sys.orig_argv, sys.orig_argv[1:], strict=False)):
        return
    killer = _Killer(int(nth), folder, os.environ["TEST_KILL_COUNT"])
    sys.addaudithook(killer.on_event)
    for name in _WRITES:
        setattr(os, name, killer.before(getattr(os, name)))


if "TEST_KILL" in os.environ:
    _arm()
