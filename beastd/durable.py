"""Writing files so that a crash or a power cut leaves the old state or the new one, never something between.

Every write below a models folder goes through here or through ``registry.store``.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from beastd.errors import BeastError, DiskFull, ReadOnly

_NO_ROOM = frozenset({28, 122, 27})
"""ENOSPC, EDQUOT, EFBIG."""
_NO_RIGHT = frozenset({1, 13, 30})
"""EPERM, EACCES, EROFS."""


def write_atomically(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a small file whole: a hidden temporary beside it, fsync, rename, fsync of the folder.

    Raises DiskFull, ReadOnly or BeastError; the old file is intact then.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        move(temporary, path)
    except OSError as e:
        with suppress(OSError):
            temporary.unlink()
        raise translated(e, f"cannot write {path}") from e


def move(source: Path, target: Path) -> None:
    """Rename within one file system, for good. What ``source`` holds must have been synced. Raises OSError."""
    os.replace(source, target)  # noqa: PTH105
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make the folder's entries survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_writable(folder: Path) -> bool:
    """Whether this user may change the folder (or make it, where it is missing)."""
    existing = next(it for it in (folder, *folder.parents) if os.access(it, os.F_OK))
    return os.access(existing, os.W_OK | os.X_OK)


def translated(error: OSError, what: str) -> BeastError:
    """The error a person is told for one of the system's. ``what`` begins it: "cannot write /x/y"."""
    if error.errno in _NO_ROOM:
        return DiskFull(f"{what}: the disk is full; free some space (`beast du`, `beast prune`) and try again")
    if error.errno in _NO_RIGHT:
        return ReadOnly(f"{what}: {error.strerror}; choose a folder you may write, or change its permissions")
    return BeastError(f"{what}: {error.strerror}")
