"""Reads the header of a GGUF file without trusting it: whatever the bytes, the end is a Header or BadModel.

The format is ``ggml/include/gguf.h`` of llama.cpp; the rules for tensors (offsets without gaps, whole blocks in a row,
unique names) are those its loader enforces, so what passes here is not refused there for its layout.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, BinaryIO

from beastd.errors import BadModel
from beastd.registry.cursor import MOST, Cursor
from beastd.registry.ggml import TENSOR_TYPES
from beastd.registry.header import Header, Tensor
from beastd.registry.metadata import read_metadata

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from beastd.registry.cursor import Resource
    from beastd.registry.header import Value

MAX_TENSOR_NAME_BYTES = 63
MAX_ALIGNMENT = 2**20
MAX_SPLITS = 1000
DEFAULT_ALIGNMENT = 32

_LEAST_TENSOR_BYTES = 8 + 1 + 4 + 8 + 4 + 8
_REST_OF_TENSOR = {n_dims: Struct(f"<{n_dims}QIQ") for n_dims in range(1, 5)}
"""Dimensions → the layout of a tensor's shape, type and offset."""
_SPLIT_NAME = re.compile(r"(?P<stem>.*)-(?P<no>[0-9]{5})-of-(?P<n>[0-9]{5})\.gguf", re.DOTALL)


def read_header(path: Path) -> Header:
    """The header of a model file; of a split one, named by its first shard, all shards together.

    Raises BadModel, also for a missing file or shard.
    """
    return read_shards(shard_paths(path))


def read_shards(paths: Sequence[Path]) -> Header:
    """The header of a model whose files, whatever their names, are these, in order. Raises as ``read_header``."""
    allowance = MOST.copy()
    shards = [_read(path, allowance) for path in paths]
    first = shards[0]
    if len(shards) != first.n_splits:
        raise BadModel(
            f"{paths[0]} is one of {first.n_splits} files of a split model; "
            f"keep their names as they were made: NAME-00001-of-{first.n_splits:05d}.gguf"
        )
    return first if len(shards) == 1 else _joined(shards)


def shard_paths(path: Path) -> list[Path]:
    """The files of a model: itself, or every shard when it is named as a first shard. Touches no file.

    Raises BadModel when another shard than the first is named.
    """
    match = _SPLIT_NAME.fullmatch(path.name)
    if match is None:
        return [path]
    n, stem = int(match["n"]), match["stem"]
    if int(match["no"]) != 1 or not 1 <= n <= MAX_SPLITS:
        raise BadModel(f"{path} is not the first of a split model's files; name {stem}-00001-of-{match['n']}.gguf")
    return [path.with_name(f"{stem}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]


def parse_header(stream: BinaryIO, size_bytes: int, what: str, allowance: dict[Resource, int] | None = None) -> Header:
    """The header of one file of this size, read from its start. ``what`` names it in errors: BadModel alone.

    What reading it costs is taken from the allowance, by default a whole one.
    """
    cursor = Cursor(stream, size_bytes, what, MOST.copy() if allowance is None else allowance)
    version = _version(cursor)
    n_tensors, n_pairs = cursor.u64(), cursor.u64()
    cursor.check_fit("tensors", n_tensors, _LEAST_TENSOR_BYTES)
    cursor.spend("tensors", n_tensors)
    metadata = read_metadata(cursor, n_pairs)
    tensors = _tensors(cursor, n_tensors, _alignment(cursor, metadata))
    return Header(what, version, metadata, tensors, size_bytes)


def _read(path: Path, allowance: dict[Resource, int]) -> Header:
    try:
        if not path.is_file():  # opening a pipe would wait for ever
            raise BadModel(f"{path} does not exist or is not a file; check the model's description")
        with path.open("rb") as stream:
            return parse_header(stream, path.stat().st_size, str(path), allowance)
    except OSError as e:
        raise BadModel(f"cannot read {path}: {e.strerror}") from e


def _joined(shards: list[Header]) -> Header:
    first = shards[0]
    for i, shard in enumerate(shards):
        if shard.metadata.get("split.no") != i or shard.n_splits != len(shards):
            raise BadModel(f"{shard.what} is not shard {i + 1} of {len(shards)}, though its name says so")
    tensors = tuple(tensor for shard in shards for tensor in shard.tensors)
    if len({tensor.name for tensor in tensors}) < len(tensors):
        raise BadModel(f"{first.what}: two of the shards hold the same tensor; get the shards again")
    if first.metadata.get("split.tensors.count") != len(tensors):
        raise BadModel(f"{first.what}: the shards hold {len(tensors)} tensors, not as many as the first says")
    return Header(first.what, first.version, first.metadata, tensors, sum(shard.size_bytes for shard in shards))


def _version(cursor: Cursor) -> int:
    if cursor.size_bytes < 24 or cursor.take(4) != b"GGUF":
        raise BadModel(f"{cursor.what} is not a GGUF file; convert the model to GGUF, or download it again")
    version = cursor.u32()
    if version & 0xFFFF == 0:
        raise BadModel(f"{cursor.what} is a big-endian GGUF; convert it with llama.cpp's gguf_convert_endian.py")
    if version not in {2, 3}:
        raise BadModel(f"{cursor.what} is GGUF version {version}, Beast reads 2 and 3; convert the model again")
    return version


def _alignment(cursor: Cursor, metadata: dict[str, Value]) -> int:
    value = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise cursor.broken(f"general.alignment is {value}, not a power of two up to {MAX_ALIGNMENT}")
    return value


def _tensors(cursor: Cursor, n: int, alignment: int) -> tuple[Tensor, ...]:
    found: dict[str, Tensor] = {}
    end = 0  # of the last tensor's data, from the start of all data
    for _ in range(n):
        tensor, offset = _tensor(cursor)
        if tensor.name in found:
            raise cursor.broken(f"tensor '{tensor.name}' is given twice")
        if offset != _padded(end, alignment):
            raise cursor.broken(f"tensor '{tensor.name}' is at {offset}, overlapping or apart from the one before it")
        end = offset + tensor.n_bytes
        found[tensor.name] = tensor
    n_claimed = _padded(cursor.position, alignment) + end if n else 0
    if n_claimed > cursor.size_bytes:
        raise cursor.broken(f"the tensors need {n_claimed} bytes, the file has {cursor.size_bytes}: it was cut short")
    return tuple(found.values())


def _tensor(cursor: Cursor) -> tuple[Tensor, int]:
    name = cursor.text(MAX_TENSOR_NAME_BYTES, "a tensor's name")
    n_dims = cursor.u32()
    if not name or n_dims not in _REST_OF_TENSOR:
        raise cursor.broken(f"tensor '{name}' has no name or {n_dims} dimensions")
    *dims, type_number, offset = cursor.unpack(_REST_OF_TENSOR[n_dims])
    shape, kind = tuple(dims), TENSOR_TYPES.get(type_number)
    if kind is None:
        raise cursor.broken(f"tensor '{name}' has type {type_number}, which this llama.cpp does not know")
    tensor = Tensor(name, shape, kind)
    if min(shape) < 1 or shape[0] % kind.n_block or tensor.n_bytes > cursor.size_bytes:
        raise cursor.broken(f"tensor '{name}' can not have the shape {shape} in {kind.name}")
    return tensor, offset


def _padded(n_bytes: int, alignment: int) -> int:
    return -(-n_bytes // alignment) * alignment
