"""A file of a server on its way into the store: from the store itself, huggingface_hub's cache, or by download."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, BinaryIO, cast

from beastd.errors import BadModel, Cancelled
from beastd.fetch.download import Download
from beastd.fetch.local import adopt, header_of
from beastd.fetch.order import Part
from beastd.fetch.partial import claim, present_bytes
from beastd.registry.gguf import parse_header

if TYPE_CHECKING:
    from pathlib import Path

    from beastd.fetch.job import Job
    from beastd.fetch.listing import RemoteFile
    from beastd.fetch.partial import Partial
    from beastd.fetch.web import Address
    from beastd.registry.header import Header

FIRST_BLOCK_BYTES = 256 * 1024
MAX_BLOCK_BYTES = 4 * 2**20
MAX_HEADER_BYTES = 128 * 2**20
"""The largest known, with a vocabulary of 256,000 tokens and its merges, take 16 MB."""


class RemoteArrival:
    """A file of a server, on its way into the store."""

    def __init__(self, file: RemoteFile, address: Address, cached: Path | None, job: Job) -> None:
        self.file = file
        self.address = address
        """Where it is."""
        self._cached = cached
        self._job = job
        self._partial: Partial | None = None
        self._was_new = False

    def header(self) -> Header:
        """Its GGUF header, for which no more than the beginning is loaded; that is part of the download.

        Raises BadModel, and what ``Download.reach`` raises.
        """
        here = self._blob() or self._cached
        download = None if here else self._claim()
        if download is None:
            return header_of(here or self._known_blob(), self.file.name)
        self._job.tell("reading the header of", self.file, 0, self.file.size_bytes)
        download.reach(FIRST_BLOCK_BYTES)
        assert self._partial is not None
        size = download.size_bytes or 0
        ahead = _Ahead(download, self._partial, size, self.file.name)
        return parse_header(cast("BinaryIO", ahead), size, self.file.name)

    def size_bytes(self) -> int:
        """Of the whole file; the server is asked where nobody has said it. Raises what ``Download.reach`` raises."""
        if self.file.size_bytes is not None:
            return self.file.size_bytes
        download = None if self._blob() else self._claim()
        if download is None:
            return self._known_blob().stat().st_size
        if download.size_bytes is None:
            download.reach(FIRST_BLOCK_BYTES)
        return download.size_bytes or 0

    def missing_bytes(self) -> int:
        """What the disk must have room for."""
        if self._blob() or self._is_cached_beside():
            return 0
        here = self._partial.position if self._partial else present_bytes(self._job.store, self._key)
        return max(0, self.size_bytes() - here)

    def finish(self) -> Part:
        """Bring all of it. Raises what ``Download.reach`` raises."""
        if self._cached and self.file.digest and not self._blob():
            part = adopt(self._cached, self.file, self.file.digest, self._job)
            if part is not None:
                return part
        download = None if self._blob() else self._claim()
        if download is None:
            size = self._known_blob().stat().st_size
            self._job.tell("pulling", self.file, size, size)
            return Part(self.file.digest or "", size)
        digest = download.finish()
        return Part(digest, download.size_bytes or 0)

    def release(self, *, is_unwanted: bool = False) -> None:
        """Let others have the partial; remove it if nothing came, or only the header of an unwanted file was read."""
        if self._partial and (self._partial.position == 0 or (is_unwanted and self._was_new)):
            self._partial.discard()
        elif self._partial:
            self._partial.close()
        self._partial = None

    @property
    def _key(self) -> str:
        if self.file.digest:
            return f"sha256-{self.file.digest}"
        return f"url-{hashlib.sha256(self.address.url.encode()).hexdigest()}"

    def _claim(self) -> Download | None:
        """The download; None if another process has finished it in the meantime."""
        if self._partial is None:
            url = self.address.url.partition("?")[0]
            self._partial = claim(self._job.store, self._key, url, self._job.chunk_bytes, self._watch)
            if self._blob():
                self._partial.discard()
                self._partial = None
                return None
            self._partial.resume(lambda n: self._job.tell("verifying", self.file, n, self.file.size_bytes))
            self._was_new = self._partial.position == 0
        return Download(self.file, self.address, self._partial, self._job)

    def _watch(self, n_bytes: int) -> None:
        """Another process loads the same file."""
        if self._job.manners.stop.is_set():
            raise Cancelled("the download was stopped")
        self._job.tell("pulling", self.file, n_bytes, self.file.size_bytes)

    def _blob(self) -> Path | None:
        path = self._known_blob() if self.file.digest else None
        return path if path and path.exists() else None

    def _known_blob(self) -> Path:
        return self._job.store.blob(self.file.digest or "")

    def _is_cached_beside(self) -> bool:
        """Whether a link to the cache will do."""
        store = self._job.store.partial("").stat()
        return self._cached is not None and self._cached.stat().st_dev == store.st_dev


class _Ahead:
    """The beginning of a file being downloaded, to read its header from: loads as far as is read, in growing blocks."""

    def __init__(self, download: Download, partial: Partial, size_bytes: int, what: str) -> None:
        self._download = download
        self._partial = partial
        self._size_bytes = size_bytes
        self._what = what
        self._position = 0
        self._block_bytes = FIRST_BLOCK_BYTES

    def seek(self, position: int) -> None:
        """Go on reading there."""
        self._position = position

    def read(self, n_bytes: int) -> bytes:
        """What comes next. Raises BadModel far behind where a header could end."""
        end = min(self._size_bytes, self._position + n_bytes)
        if end > MAX_HEADER_BYTES:
            raise BadModel(f"{self._what} claims a header of more than {MAX_HEADER_BYTES} bytes: it is broken")
        if end > self._partial.position:
            self._block_bytes = min(2 * self._block_bytes, MAX_BLOCK_BYTES)
            self._download.reach(min(self._size_bytes, max(end, self._partial.position + self._block_bytes)))
        found = self._partial.read(self._position, end - self._position)
        self._position += len(found)
        return found
