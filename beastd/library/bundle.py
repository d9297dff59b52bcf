"""A bundle (``bundleformat``) on a machine it was brought to: recognized, checked, unpacked into the store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISREG
from tarfile import BLOCKSIZE

import msgspec
from msgspec import Struct

from beastd.durable import translated
from beastd.errors import BadModel, BeastError
from beastd.library.bundleformat import (
    DESCRIPTION,
    END,
    FORMAT,
    INDEX,
    Entry,
    Index,
    blob_header,
    description_at,
    head,
    index_bytes,
    padding,
)
from beastd.library.copying import Copying, check_room
from beastd.registry.description import describe
from beastd.registry.locate import Locator
from beastd.registry.modelfile import Fields, file_names, parse_modelfile
from beastd.registry.names import ModelName, parse_name
from beastd.registry.store import Store
from beastd.tool import Report


@dataclass(frozen=True, slots=True)
class BundleInfo:
    """A bundle whose frame is sound; its files were not read yet."""

    name: ModelName
    fields: Fields
    """The description; its files are called ``sha256:HEX``."""
    files: tuple[tuple[Entry, int], ...]
    """The files, and where in the bundle each one begins."""


class _AnyFormat(Struct):
    """What every index has, also one of a later format."""

    format: int


def looks_like_bundle(path: Path) -> bool:
    """Whether a file begins as a bundle does."""
    with suppress(OSError, BeastError), _opened(path) as bundle:
        return index_bytes(os.pread(bundle, BLOCKSIZE, 0)) is not None
    return False


def read_bundle(path: Path) -> BundleInfo:
    """Check everything of a bundle but its files' contents. Raises BadModel."""
    with _opened(path) as bundle:
        return _read(bundle, path)


def unpack(path: Path, store: Store, report: Report, is_cancelled: Callable[[], bool]) -> Fields:
    """Bring a bundle's files into the store; returns the fields to describe the model with.

    The files become blobs only when all of them are verified. Raises BadModel, DiskFull, ReadOnly, Cancelled.
    """
    with _opened(path, "unpack") as bundle:
        info = _read(bundle, path)
        wanted = {it.sha256: (it, at) for it, at in info.files if not store.claim(it.sha256)}
        n_bytes = sum(it.bytes for it, _ in wanted.values())
        check_room(store.root, n_bytes, info.name.short)
        copying = Copying(report, is_cancelled, n_bytes)
        partials = {digest: store.partial(f"bundle-{uuid.uuid4().hex}") for digest in wanted}
        try:
            for digest, partial in partials.items():
                _extract(bundle, wanted[digest], partial, copying, path)
            for digest, partial in partials.items():
                store.keep(partial, digest)
        finally:
            for partial in partials.values():
                partial.unlink(missing_ok=True)
    return info.fields


def _extract(bundle: int, file: tuple[Entry, int], partial: Path, copying: Copying, path: Path) -> None:
    entry, at = file
    target = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.lseek(bundle, at, os.SEEK_SET)
        digest = copying.copy(bundle, target, entry.bytes, f"unpacking sha256:{entry.sha256[:12]}")
    except EOFError as e:
        raise _unsound(path, "it was cut off") from e
    finally:
        os.close(target)
    if digest != entry.sha256:
        raise _unsound(path, f"its file sha256:{entry.sha256[:12]} is damaged")


def _read(bundle: int, path: Path) -> BundleInfo:
    index = _index(bundle, path)
    description = os.pread(bundle, index.description_bytes, description_at(index))
    expected = head(index, description)
    _expect(bundle, expected, 0, path)
    files, at = [], len(expected)
    for entry in index.files:
        _expect(bundle, blob_header(entry), at, path)
        files.append((entry, at + BLOCKSIZE))
        at += BLOCKSIZE + entry.bytes
        _expect(bundle, padding(entry.bytes), at, path)
        at += len(padding(entry.bytes))
    _expect(bundle, END, at, path)
    if os.fstat(bundle).st_size != at + len(END):
        raise _unsound(path, "something follows its end")
    return BundleInfo(_name(index, path), _fields(description, index, path), tuple(files))


def _index(bundle: int, path: Path) -> Index:
    n_bytes = index_bytes(os.pread(bundle, BLOCKSIZE, 0))
    if n_bytes is None:
        raise _unsound(path, f"it does not begin with {INDEX}")
    data = os.pread(bundle, n_bytes, BLOCKSIZE)
    try:
        if msgspec.json.decode(data, type=_AnyFormat).format > FORMAT:
            raise BadModel(f"{path} was made by a newer Beast, in a form that this one does not know; update Beast")
        index = msgspec.json.decode(data, type=Index)
    except (msgspec.MsgspecError, RecursionError) as e:
        raise _unsound(path, f"{INDEX}: {e}") from e
    if index.encoded() != data or index.format != FORMAT:
        raise _unsound(path, f"{INDEX} is not as Beast writes it")
    return index


def _name(index: Index, path: Path) -> ModelName:
    try:
        name = parse_name(index.model)
    except BeastError as e:
        raise _unsound(path, e.message) from e
    if name.variant or name.adapters:
        raise _unsound(path, f"'{name}' is more than a model's name")
    return name


def _fields(raw: bytes, index: Index, path: Path) -> Fields:
    source = f"{path}: {DESCRIPTION}"
    try:
        text = raw.decode()
    except UnicodeDecodeError as e:
        raise _unsound(path, f"{DESCRIPTION} is not UTF-8 text") from e
    fields, places = parse_modelfile(text, source)
    describe(text, Path(source), Locator([Path("/")], Path("/")))  # raises for names that no model may have
    names = set(file_names(fields))
    if fields.sha256 or fields.registered or names != {f"sha256:{it.sha256}" for it in index.files}:
        raise places.refusal((), "it does not name exactly the files in the bundle; export it again")
    return fields


def _expect(bundle: int, data: bytes, at: int, path: Path) -> None:
    if os.pread(bundle, len(data), at) != data:
        raise _unsound(path, "it was cut off or changed")


@contextmanager
def _opened(path: Path, verb: str = "read") -> Iterator[int]:
    try:
        bundle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe must not hold us
        try:
            if not S_ISREG(os.fstat(bundle).st_mode):
                raise _unsound(path, "it is not a regular file")
            yield bundle
        finally:
            os.close(bundle)
    except OSError as e:
        raise translated(e, f"cannot {verb} {path}") from e


def _unsound(path: Path, why: str) -> BadModel:
    return BadModel(f"{path} is not a sound bundle: {why}; export the model again, or copy the file again")
