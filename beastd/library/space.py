"""What models take on disk, and what can be removed because nothing needs it."""

from __future__ import annotations

import fcntl
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from typing import Literal

from msgspec import Struct

from beastd.durable import translated
from beastd.library.copying import free_bytes
from beastd.registry.locate import digest_of
from beastd.registry.models import Model
from beastd.registry.store import Store

TEMPORARY_AGE_S = 3600.0
"""An atomic write takes less than a second: its temporary file is a dead process's when it is so old."""

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]+\.tmp")
"""As ``durable.write_atomically`` names them."""
_SIDECAR = ".json"
"""Beside a partial lies ``KEY.json``, which says how much of it is durable (``fetch.partial``)."""


class ModelUsage(Struct, frozen=True, kw_only=True):
    """What one model takes. A file that several of its parts name counts once, one that is missing not at all."""

    name: str
    own_bytes: int
    """Blobs that no other model names: removing the model frees them."""
    shared_bytes: int
    """Blobs that other models name too."""
    outside_bytes: int
    """Files that are no blobs of this folder: registered where they are, built in, or in a shared folder."""


class Usage(Struct, frozen=True, kw_only=True):
    """What the models folder takes of its disk."""

    folder: str
    models: list[ModelUsage]
    blob_bytes: int
    """All blobs, each counted once."""
    unused_bytes: int
    """Blobs that no description names; work under way may be about to name them."""
    partial_bytes: int
    """Unfinished downloads and conversions."""
    free_bytes: int
    """What this user may yet write to that disk."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A file that nothing needs."""

    path: Path
    n_bytes: int
    """What removing it frees: nothing while the file has another name (``is_linked``)."""
    kind: Literal["blob", "partial", "temporary"]
    is_linked: bool
    """Whether a hard link elsewhere keeps its content on the disk."""
    changed_ns: int
    """Its inode's last change: it stays when that is another by the time it would be removed."""


def usage(models: Iterable[Model], store: Store, references: set[str]) -> Usage:
    """Who takes how much. ``references``: digests that descriptions mention, sound or broken. Raises BeastError."""
    blobs = store.blobs()
    paths = {model.name.short: {path for _, files in model.description.files() for path in files} for model in models}
    users = Counter(path for named in paths.values() for path in named)
    try:
        return Usage(
            folder=str(store.root),
            models=[_usage_of(name, named, users, store, blobs) for name, named in paths.items()],
            blob_bytes=sum(blobs.values()),
            unused_bytes=sum(n_bytes for digest, n_bytes in blobs.items() if digest not in references),
            partial_bytes=sum(map(_size, store.partials())),
            free_bytes=free_bytes(store.root),
        )
    except OSError as e:
        raise translated(e, f"cannot look at {store.root}") from e


def prunable(
    store: Store, references: set[str], *, older_than_s: float, partial_age_s: float, now: float
) -> list[Removal]:
    """What nothing needs: blobs without a reference, partials that nobody goes on with, temporaries of dead writes.

    ``older_than_s``: wall time at which the oldest job under way began; what was made or claimed since may be its.
    ``partial_age_s``: partials stay until nothing was written to them for so long. Removes nothing.
    """
    return [
        *(it for it in _unused_blobs(store, references) if it.changed_ns < older_than_s * 1e9),
        *_old_partials(store.partials(), min(older_than_s, now - partial_age_s)),
        *_old_temporaries(store.root, now - TEMPORARY_AGE_S),
    ]


def prune(removals: Iterable[Removal], store: Store, references: Callable[[], set[str]]) -> int:
    """Remove what ``prunable`` found and still nobody wants; returns the bytes really freed.

    Models are not written meanwhile, and ``references`` is asked again: a blob that got its model since it was found
    stays. Raises ReadOnly, BeastError.
    """
    with store.writing():
        used = references()
        return sum(_remove(it) for it in removals if digest_of(it.path) not in used)


def _usage_of(name: str, paths: set[Path], users: Counter[Path], store: Store, blobs: dict[str, int]) -> ModelUsage:
    own = shared = outside = 0
    for path in paths:
        digest = digest_of(path)
        if digest is None or path != store.blob(digest):
            outside += _size(path)
        elif users[path] > 1:
            shared += blobs.get(digest, 0)
        else:
            own += blobs.get(digest, 0)
    return ModelUsage(name=name, own_bytes=own, shared_bytes=shared, outside_bytes=outside)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _unused_blobs(store: Store, references: set[str]) -> Iterator[Removal]:
    for digest in sorted(store.blobs().keys() - references):
        with suppress(FileNotFoundError):
            yield _removal(store.blob(digest), "blob")


def _old_partials(paths: list[Path], touched_before_s: float) -> Iterator[Removal]:
    """A partial and its sidecar go, or stay, together."""
    names = {path.name for path in paths}
    for path in paths:
        is_sidecar = path.name.endswith(_SIDECAR) and path.name.removesuffix(_SIDECAR) in names
        if is_sidecar or _TEMPORARY.fullmatch(path.name):
            continue
        group = [path, _sidecar(path)] if _sidecar(path).name in names else [path]
        with suppress(FileNotFoundError):
            found = [it.lstat() for it in group]
            is_plain = all(S_ISREG(it.st_mode) or S_ISLNK(it.st_mode) for it in found)
            if is_plain and max(max(it.st_mtime, it.st_ctime) for it in found) < touched_before_s:
                with _claimed(path) as is_free:
                    if is_free:
                        yield from (_removal(it, "partial") for it in group)


def _old_temporaries(root: Path, touched_before_s: float) -> Iterator[Removal]:
    for folder, _, names in os.walk(root):
        for name in filter(_TEMPORARY.fullmatch, names):
            path = Path(folder, name)
            with suppress(FileNotFoundError):
                if path.lstat().st_mtime < touched_before_s:
                    yield _removal(path, "temporary")


def _sidecar(partial: Path) -> Path:
    return partial.with_name(partial.name + _SIDECAR)


def _removal(path: Path, kind: Literal["blob", "partial", "temporary"]) -> Removal:
    found = path.lstat()
    is_linked = found.st_nlink > 1
    return Removal(path, 0 if is_linked else found.st_size, kind, is_linked, found.st_ctime_ns)


def _remove(it: Removal) -> int:
    """Remove one file; the bytes that this freed."""
    partial = it.path.with_name(it.path.name.removesuffix(_SIDECAR))
    try:
        with _claimed(partial) if it.kind == "partial" else nullcontext(True) as is_free:
            now = _removal(it.path, it.kind)
            if not is_free or now.changed_ns != it.changed_ns:
                return 0
            it.path.unlink()
            return now.n_bytes
    except FileNotFoundError:
        return 0
    except OSError as e:
        raise translated(e, f"cannot remove {it.path}") from e


@contextmanager
def _claimed(partial: Path) -> Iterator[bool]:
    """Whether no process works on a partial (``fetch.partial`` locks it while it does); none will meanwhile."""
    try:
        descriptor = os.open(partial, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # nobody can work on what is gone, nor on a link
        yield partial.is_symlink() or not partial.exists()
        return
    try:
        yield _is_locked(descriptor)
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    """Whether we have the lock now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another has it, or this file system cannot tell
        return False
    return True
