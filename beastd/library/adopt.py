"""Files of this machine taken into the store: copied, or given a second name in it."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from beastd.durable import translated
from beastd.errors import BadModel
from beastd.library.copying import Copying, check_room, hash_file
from beastd.registry.store import Store
from beastd.tool import Report


def adopt(
    store: Store, paths: list[Path], is_linked: bool, report: Report, is_cancelled: Callable[[], bool]
) -> list[str]:
    """Take files into the store; returns what descriptions call them, in order.

    A linked one stays the same file as the original: it is not made read-only, and its later change is noticed.
    Raises BadModel for what is no file or became shorter, DiskFull, ReadOnly, Cancelled, BeastError.
    """
    try:
        paths = [path.resolve(strict=True) for path in paths]  # a link to a link would break with the link
        total_bytes = sum(path.stat().st_size for path in paths)
        if not is_linked:
            check_room(store.root, total_bytes, f"a copy of {paths[0].name}")
        copying = Copying(report, is_cancelled, total_bytes)
        return [f"sha256:{_adopt(store, path, is_linked, copying)}" for path in paths]
    except OSError as e:
        hint = "; --copy copies it instead" if is_linked else ""
        raise translated(e, f"cannot take {e.filename or paths[0]} into {store.root}{hint}") from e


def _adopt(store: Store, path: Path, is_linked: bool, copying: Copying) -> str:
    partial = store.partial(f"adopt-{uuid.uuid4().hex}")
    try:
        if is_linked:
            os.link(path, partial)
            digest = hash_file(partial, copying, f"reading {path.name}")
        else:
            digest = _copy(path, partial, copying)
        store.keep(partial, digest)
    except EOFError as e:
        raise BadModel(f"{path} became shorter while it was read; try again when it is whole") from e
    finally:
        with suppress(FileNotFoundError):
            partial.unlink()
    return digest


def _copy(path: Path, partial: Path, copying: Copying) -> str:
    source = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise BadModel(f"{path} is not a file")
        target = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            return copying.copy(source, target, found.st_size, f"copying {path.name}")
        finally:
            os.close(target)
    finally:
        os.close(source)
