"""Remembers what was read from files until they change."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

T = TypeVar("T")

Stamp = tuple[tuple[str, int, int], ...]
"""Path, size and time of last change (ns) of some files: equal stamps mean equal content."""


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """The files' stamp. Raises OSError when one is missing."""
    stats = ((path, path.stat()) for path in paths)
    return tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)


class Cache(Generic[T]):
    """The last values read, at most so many. Safe to use from several threads."""

    def __init__(self, n_most: int) -> None:
        self._n_most = n_most
        self._values: OrderedDict[Stamp, T] = OrderedDict()
        self._lock = Lock()

    def get(self, stamp: Stamp, read: Callable[[], T]) -> T:
        """The value of these files, read now unless it is known. What ``read`` raises is not remembered."""
        with self._lock:
            if stamp in self._values:
                self._values.move_to_end(stamp)
                return self._values[stamp]
        value = read()  # unlocked: one slow file must not stop the others
        with self._lock:
            self._values[stamp] = value
            if len(self._values) > self._n_most:
                self._values.popitem(last=False)
        return value
