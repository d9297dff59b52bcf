"""One file from a server into a partial: from where it is, again after every cut, until all of it is here."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING

from beastd.errors import BeastError, Cancelled, DigestMismatch, DownloadFailed
from beastd.fetch.choose import size_text
from beastd.fetch.web import Again, Patience, opened

if TYPE_CHECKING:
    import httpx2

    from beastd.fetch.job import Job
    from beastd.fetch.listing import RemoteFile
    from beastd.fetch.partial import Partial
    from beastd.fetch.web import Address

_CONTENT_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,15})-[0-9]{1,15}/(?P<total>[0-9]{1,15})")
_LENGTH = re.compile(r"[0-9]{1,15}")


class Download:
    """A file on its way. Its partial is claimed, and belongs to it."""

    def __init__(self, file: RemoteFile, address: Address, partial: Partial, job: Job) -> None:
        self._file = file
        self._address = address
        self._partial = partial
        self._job = job
        self._patience = Patience(file.name, job.manners)
        self._furthest = partial.position
        """The most that was ever here: coming this far again is no progress."""

    @property
    def size_bytes(self) -> int | None:
        """Of the whole file; None until the server was asked."""
        return self._file.size_bytes if self._file.size_bytes is not None else self._partial.mark.size_bytes

    def reach(self, end: int | None = None) -> None:
        """Load until so many bytes are here, or all.

        Raises DownloadFailed, DigestMismatch for more or fewer bytes than announced, AccessDenied, ModelNotFound,
        DiskFull, Cancelled; what came is kept, and durable, except after DigestMismatch.
        """
        try:
            while not self._has(end):
                try:
                    self._load(end)
                except Again as again:
                    self._patience.wait(again)
        except DigestMismatch:
            self._partial.discard()
            raise
        except BeastError:
            with suppress(BeastError):
                self._partial.sync()
            raise

    def finish(self) -> str:
        """Load the rest, check all of it, and make it a blob: its digest. Raises as ``reach``."""
        self.reach()
        came = self._partial.digest
        if self._file.digest not in {None, came}:
            self._partial.discard()
            raise DigestMismatch(
                f"{self._file.name} came with the sha256 {came}, not {self._file.digest} as announced, and was thrown "
                "away: pull again; if it stays so, the server or something on the way changes files"
            )
        return self._partial.keep()

    def _has(self, end: int | None) -> bool:
        size = self.size_bytes
        return size is not None and self._partial.position >= (size if end is None else min(end, size))

    def _load(self, end: int | None) -> None:
        """One request."""
        with opened(self._address, self._job.manners, self._range(end)) as response:
            self._begin(response)
            for data in response.iter_raw():
                self._take(data)
        if not self._has(end):
            raise Again(f"{self._address_host} ended {self._file.name} too early")

    def _range(self, end: int | None) -> dict[str, str]:
        start = self._partial.position
        if start and not self._is_same_for_sure:
            self._partial.restart()
            start = 0
        last = "" if end is None else str(end - 1)
        headers = {"Range": f"bytes={start}-{last}"}
        return headers | ({"If-Range": self._partial.mark.etag} if start and self._file.digest is None else {})

    @property
    def _is_same_for_sure(self) -> bool:
        """Whether what comes now goes on what is here: the digest will tell, or the server does (``If-Range``)."""
        return self._file.digest is not None or bool(self._partial.mark.etag)

    def _begin(self, response: httpx2.Response) -> None:
        """Check that the answer's body begins where the partial ends, or start over."""
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise DownloadFailed(f"{self._address_host} compresses {self._file.name} on the way; it was told not to")
        if response.status_code == 416:
            self._partial.restart()
            raise Again(f"{self._address_host} has less of {self._file.name} than before")
        first, total = _place(response)
        if total is None:
            raise DownloadFailed(
                f"{self._address_host} does not say how large {self._file.name} is; load it with another program and "
                "take it in with `beast import`"
            )
        if first == 0 and self._partial.position:
            self._partial.restart()
        if first != self._partial.position:
            raise DownloadFailed(f"{self._address_host} sent another part of {self._file.name} than it was asked for")
        self._agree(total, response)

    def _agree(self, total: int, response: httpx2.Response) -> None:
        announced = self._file.size_bytes
        if announced not in {None, total}:
            raise DigestMismatch(f"{self._file.name} has {total} bytes on the server, {announced} were announced")
        etag = response.headers.get("ETag", "")
        validator = response.headers.get("Last-Modified", "") if not etag or etag.startswith("W/") else etag
        mark = self._partial.mark
        if self._partial.position and self._file.digest is None and (mark.size_bytes, mark.etag) != (total, validator):
            self._partial.restart()
            raise Again(f"{self._file.name} has changed on the server")
        self._partial.learn(total, validator)

    def _take(self, data: bytes) -> None:
        if self._job.manners.stop.is_set():
            raise Cancelled("the download was stopped")
        size = self.size_bytes or 0
        if self._partial.position + len(data) > size:
            raise DigestMismatch(f"{self._file.name} goes on after the {size_text(size)} that were announced")
        self._partial.append(data)
        if self._partial.position > self._furthest:
            self._furthest = self._partial.position
            self._patience.progressed()
        self._job.tell("pulling", self._file, self._partial.position, size)

    @property
    def _address_host(self) -> str:
        return self._address.url.split("/")[2]


def _place(response: httpx2.Response) -> tuple[int, int | None]:
    """The first byte that comes, and how large the whole is, where the server says it."""
    if response.status_code == 206:
        match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        return (int(match["first"]), int(match["total"])) if match else (0, None)
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if _LENGTH.fullmatch(length) else None
