"""A model written into one file with everything it is made of (``bundleformat``), each of its files read once."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tarfile import BLOCKSIZE

from msgspec.structs import replace

from beastd.durable import move, translated
from beastd.errors import BadModel, Conflict
from beastd.library.bundleformat import END, FORMAT, Entry, Index, blob_header, head, padding
from beastd.library.copying import Copying, check_room, write_all
from beastd.registry.keeper import portable
from beastd.registry.locate import digest_of
from beastd.registry.modelfile import dump
from beastd.registry.models import Model
from beastd.tool import Report


def write_bundle(
    model: Model, variant: str | None, target: Path, report: Report, is_cancelled: Callable[[], bool]
) -> int:
    """Write a model, or one variant of it, with all its files, adapters, draft and projector; returns the bytes.

    Wherever its files are: in the store, registered in place, built in. Raises Conflict if the target is there
    already, BadModel for a file that is missing or damaged, DiskFull, ReadOnly, Cancelled; nothing is left then.
    """
    _check_free(target)
    files = _files(model, variant)
    temporary = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex}.tmp")
    try:
        n_bytes = sum(it.st_size for it in files.values())
        check_room(target.parent, n_bytes, target.name)
        bundle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            _Writer(bundle, model, variant, Copying(report, is_cancelled, n_bytes)).write(files)
            os.fsync(bundle)
            size = os.fstat(bundle).st_size
        finally:
            os.close(bundle)
        _check_free(target)
        move(temporary, target)
    except OSError as e:
        raise translated(e, f"cannot write {target}") from e
    finally:
        with suppress(OSError):
            temporary.unlink()
    return size


class _Writer:
    """Writes one bundle from its beginning to its end."""

    def __init__(self, bundle: int, model: Model, variant: str | None, copying: Copying) -> None:
        self._bundle = bundle
        self._model = model
        self._variant = variant
        self._copying = copying

    def write(self, files: dict[Path, os.stat_result]) -> None:
        """All of it; the digests of its head are filled in last."""
        entries = {path: Entry(f"{n:064x}", stat.st_size) for n, (path, stat) in enumerate(files.items())}
        stand_in = self._head(entries)
        write_all(self._bundle, stand_in)
        for path, stat in files.items():
            entries[path] = self._add(path, stat)
        write_all(self._bundle, END)
        final = self._head(entries)
        assert len(final) == len(stand_in)
        os.lseek(self._bundle, 0, os.SEEK_SET)
        write_all(self._bundle, final)

    def _head(self, entries: dict[Path, Entry]) -> bytes:
        fields = portable(self._model, lambda path: f"sha256:{entries[path].sha256}" if path in entries else "")
        fields = replace(fields, sha256={}, registered={})  # the names say it all
        if self._variant is not None:
            chosen = {self._variant: fields.variants[self._variant]}
            fields = replace(fields, variants=chosen, default=self._variant)
        description = dump(fields).encode()
        return head(Index(FORMAT, self._model.name.base, len(description), list(entries.values())), description)

    def _add(self, path: Path, was: os.stat_result) -> Entry:
        """One file; returns what it turned out to be. Raises BadModel when it is not what it should be."""
        begin = os.lseek(self._bundle, 0, os.SEEK_END)
        write_all(self._bundle, bytes(BLOCKSIZE))
        entry = Entry(self._copied(path, was), was.st_size)
        write_all(self._bundle, padding(entry.bytes))
        os.lseek(self._bundle, begin, os.SEEK_SET)
        write_all(self._bundle, blob_header(entry))
        os.lseek(self._bundle, 0, os.SEEK_END)
        return entry

    def _copied(self, path: Path, was: os.stat_result) -> str:
        try:
            with path.open("rb", buffering=0) as source:
                digest = self._copying.copy(source.fileno(), self._bundle, was.st_size, f"writing {path.name[:40]}")
                now = os.fstat(source.fileno())
        except EOFError as e:
            raise BadModel(f"{path} was changed while it was read; try again") from e
        if (now.st_size, now.st_mtime_ns) != (was.st_size, was.st_mtime_ns):
            raise BadModel(f"{path} was changed while it was read; try again")
        expected = digest_of(path) or self._model.description.sha256.get(path)
        if expected not in {None, digest}:
            raise BadModel(f"{path} is damaged: its sha256 is {digest}, not {expected}; get the model again")
        return digest


def _files(model: Model, variant: str | None) -> dict[Path, os.stat_result]:
    """The files to write, each once. Raises BadModel for one that is missing or is not what was registered."""
    it = model.description
    groups = [(trail, files) for trail, files in it.files() if variant in {None, trail[-1]} or trail[0] != "variants"]
    found = {}
    for trail, path in ((trail, path) for trail, files in groups for path in files):
        try:
            found[path] = stat = path.stat()
        except OSError as e:
            raise BadModel(f"{it.places.where(trail)}: cannot read {path}: {e.strerror}; get the file") from e
        was = it.registered.get(path)
        if was and (was.bytes, was.modified_ns) != (stat.st_size, stat.st_mtime_ns):
            raise BadModel(f"{path} has changed since it was registered; `beast import` it again to take it as it is")
    return found


def _check_free(target: Path) -> None:
    if target.exists() or target.is_symlink():
        raise Conflict(f"{target} is there already; remove it, or choose another name")
