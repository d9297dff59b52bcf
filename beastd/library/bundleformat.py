"""The bytes of a bundle: one file that holds a model with everything it is made of.

It is a plain tar, which any tar lists and extracts:

    beast-bundle.json    format, the model's name, the description's bytes, sha256 and bytes of each file, and the
                         sha256 of everything before the first file (taken while its own digits are 0)
    model.yaml           the description; it names its files as sha256:HEX
    blobs/sha256-HEX     the files, in the index's order

The index comes first, so that a reader knows everything before the large part. Its length, and the description's, are
known before any digest is, so both are written again at the end, and each file is read once. Index and description fix
every byte but the files' contents: a reader does not interpret tar headers, it compares them with what they must be, so
there is no link, odd name or other trick to look out for.
"""

from __future__ import annotations

from hashlib import sha256
from tarfile import BLOCKSIZE, GNU_FORMAT, TarInfo
from typing import Annotated

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from beastd.yamlfile import MAX_FILE_BYTES

FORMAT = 1
INDEX = "beast-bundle.json"
DESCRIPTION = "model.yaml"
MAX_INDEX_BYTES = 2**20
END = bytes(2 * BLOCKSIZE)
"""What closes a tar."""

_SIZE_FIELD = slice(124, 135)
"""Of a tar header: octal digits (POSIX.1-1988, ustar)."""


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the model."""

    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    bytes: Annotated[int, Meta(ge=0, lt=2**62)]


class Index(Struct, frozen=True, forbid_unknown_fields=True):
    """What is in a bundle."""

    format: int
    model: str
    """Its name where it was exported."""
    description_bytes: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]
    files: list[Entry]
    sha256: str = "0" * 64
    """Of the head."""

    def encoded(self) -> bytes:
        """As it is written."""
        return msgspec.json.encode(self)


def header(name: str, n_bytes: int) -> bytes:
    """The tar header of a member. Sizes from 8 GiB on are written in base 256, as GNU tar does."""
    info = TarInfo(name)
    info.size = n_bytes
    return info.tobuf(GNU_FORMAT)


def index_bytes(block: bytes) -> int | None:
    """The index's length, from a bundle's first block; None if no bundle begins so."""
    try:
        n_bytes = int(block[_SIZE_FIELD], 8)
    except ValueError:
        return None
    return n_bytes if 0 < n_bytes <= MAX_INDEX_BYTES and block == header(INDEX, n_bytes) else None


def blob_header(entry: Entry) -> bytes:
    """The header of a file."""
    return header(f"blobs/sha256-{entry.sha256}", entry.bytes)


def padding(n_bytes: int) -> bytes:
    """What fills a member's last block."""
    return bytes(-n_bytes % BLOCKSIZE)


def head(index: Index, description: bytes) -> bytes:
    """Everything before the first file. The index's own sha256 is filled in, whatever it is."""
    blank = _head(replace(index, sha256="0" * 64), description)
    return _head(replace(index, sha256=sha256(blank).hexdigest()), description)


def description_at(index: Index) -> int:
    """Where the description begins."""
    n_bytes = len(index.encoded())
    return BLOCKSIZE + n_bytes + len(padding(n_bytes)) + BLOCKSIZE


def _head(index: Index, description: bytes) -> bytes:
    members = ((INDEX, index.encoded()), (DESCRIPTION, description))
    return b"".join(header(name, len(data)) + data + padding(len(data)) for name, data in members)
