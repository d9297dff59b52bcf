"""One entry of the KV disk tier as a file: its name, header and checksums.

What is read may be anything: no length is believed before it is checked against the file's size, and nothing is used
whose checksum does not hold.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import struct
import zlib
from dataclasses import dataclass
from io import RawIOBase

import msgspec

VERSION = 1
MAX_META_BYTES = 64 * 2**10
"""Far above what names and adapters take."""
MAX_TOKENS = 2**24
"""Far above what contexts hold."""
NAME = re.compile(r"[0-9a-f]{16}-[0-9a-f]{32}\.kv")
"""Every file of ours is called so."""

_MAGIC = b"BEASTKV\n"
_FIXED = struct.Struct("<8sIIIQII")
"""Magic, version, bytes of the description, tokens, bytes of the state, crc32 of the state, crc32 of the rest."""
_TOKEN_BYTES = 4
_CHUNK_BYTES = 2**20
"""Read and checked while it is in the processor's cache: so the crc32 costs less than the read."""


class BadFile(Exception):
    """The file is no entry, or not whole; the message says why."""


class AdapterFile(msgspec.Struct, frozen=True, array_like=True):
    """A LoRA adapter as it was when KV was computed with it: another file is another adapter."""

    path: str
    scale: float
    size_bytes: int
    mtime_ns: int


class Meta(msgspec.Struct, frozen=True, kw_only=True):
    """What the KV was computed with."""

    identity: str
    """Of the model file and of all else that makes KV worthless to another context, in hex."""
    label: str
    """The model, for people."""
    adapters: tuple[AdapterFile, ...] = ()
    start: int = 0
    """The state holds the KV of the tokens from here on."""


@dataclass(frozen=True, slots=True)
class Header:
    """All of the file but its state."""

    meta: Meta
    tokens: bytes
    """Ids of 32 bits, big-endian: they sort as the tokens do."""
    state_bytes: int
    state_crc: int

    @property
    def n_tokens(self) -> int:
        """Tokens of the whole prefix."""
        return len(self.tokens) // _TOKEN_BYTES


def file_name(meta: Meta, tokens: bytes) -> str:
    """The same KV always has the same name. It begins with 16 digits of the identity."""
    what = hashlib.blake2b(digest_size=16)
    for part in (meta.identity.encode(), msgspec.json.encode((meta.adapters, meta.start)), tokens):
        what.update(len(part).to_bytes(8, "little") + part)
    return f"{meta.identity[:16]}-{what.hexdigest()}.kv"


def size_bytes(meta: Meta, tokens: bytes, state_bytes: int) -> int:
    """Of the file with these."""
    return _FIXED.size + len(msgspec.json.encode(meta)) + len(tokens) + state_bytes


def write(file: RawIOBase, meta: Meta, tokens: bytes, state: memoryview) -> None:
    """Write an entry. Raises OSError."""
    described = msgspec.json.encode(meta)
    fixed = (_MAGIC, VERSION, len(described), len(tokens) // _TOKEN_BYTES, len(state), zlib.crc32(state))
    head_crc = _head_crc(fixed, described, tokens)
    for part in (_FIXED.pack(*fixed, head_crc) + described + tokens, state):
        view = memoryview(part)
        while view:
            view = view[file.write(view) or 0 :]


def read_header(file: RawIOBase) -> Header:
    """Read all but the state, before which the file then stands. Raises BadFile, OSError."""
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise BadFile("it is no regular file")
    magic, version, n_meta, n_tokens, n_state, state_crc, head_crc = _FIXED.unpack(_exactly(file, _FIXED.size))
    if magic != _MAGIC or version != VERSION:
        raise BadFile("it is none of this version's")
    if n_meta > MAX_META_BYTES or n_tokens > MAX_TOKENS:
        raise BadFile("its lengths are none of ours")
    if _FIXED.size + n_meta + n_tokens * _TOKEN_BYTES + n_state != found.st_size:
        raise BadFile("its lengths are not the file's")
    described, tokens = _exactly(file, n_meta), _exactly(file, n_tokens * _TOKEN_BYTES)
    if _head_crc((magic, version, n_meta, n_tokens, n_state, state_crc), described, tokens) != head_crc:
        raise BadFile("its header is damaged")
    try:
        meta = msgspec.json.decode(described, type=Meta)
    except msgspec.MsgspecError as error:
        raise BadFile("its description makes no sense") from error
    if not 0 <= meta.start < n_tokens:
        raise BadFile("it holds no tokens")
    return Header(meta, tokens, n_state, state_crc)


def read_state(file: RawIOBase, header: Header, into: memoryview) -> None:
    """Read the state after its header into memory of its size. Raises BadFile, OSError."""
    crc = 0
    view = into
    while view:
        n = file.readinto(view[:_CHUNK_BYTES]) or 0
        if not n:
            raise BadFile("it is cut short")
        crc = zlib.crc32(view[:n], crc)
        view = view[n:]
    if crc != header.state_crc:
        raise BadFile("its state is damaged")


def _head_crc(fixed: tuple[bytes | int, ...], described: bytes, tokens: bytes) -> int:
    return zlib.crc32(tokens, zlib.crc32(described, zlib.crc32(_FIXED.pack(*fixed, 0))))


def _exactly(file: RawIOBase, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        part = file.read(n - len(data))
        if not part:
            raise BadFile("it is cut short")
        data += part
    return bytes(data)
