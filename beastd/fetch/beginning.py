"""The beginning of a file on a server, loaded by ranged requests as far as it is read. Leaves nothing on the disk."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from beastd.errors import BadModel, DownloadFailed
from beastd.fetch.web import Again, Patience, opened

if TYPE_CHECKING:
    from beastd.fetch.listing import RemoteFile
    from beastd.fetch.web import Address, Manners

FIRST_BYTES = 2**20
MAX_BYTES = 64 * 2**20
"""Headers end before: the largest known, with 256,000 tokens and their merges, takes 16 MB."""

_CONTENT_RANGE = re.compile(r"bytes (?P<first>[0-9]{1,15})-[0-9]{1,15}/(?P<total>[0-9]{1,15})")


class Beginning:
    """A readable, seekable stream over it. ``data`` is what has come."""

    def __init__(self, file: RemoteFile, address: Address, manners: Manners) -> None:
        """Load the first piece. Raises what ``read`` raises."""
        self.data = bytearray()
        self.size_bytes = 0
        """Of the whole file."""
        self._file = file
        self._address = address
        self._manners = manners
        self._position = 0
        self._reach(FIRST_BYTES)

    def seek(self, position: int) -> None:
        """Go on reading there."""
        self._position = position

    def read(self, n_bytes: int) -> bytes:
        """What comes next.

        Raises BadModel far behind where a header could end, and DownloadFailed, also for a server that sends whole
        files only, AccessDenied, ModelNotFound.
        """
        end = min(self.size_bytes, self._position + n_bytes)
        if end > MAX_BYTES:
            raise BadModel(f"{self._file.name} claims a header of more than {MAX_BYTES} bytes: it is broken")
        if end > len(self.data):
            self._reach(min(MAX_BYTES, max(end, 2 * len(self.data))))
        found = bytes(self.data[self._position : end])
        self._position += len(found)
        return found

    def _reach(self, end: int) -> None:
        patience = Patience(self._file.name, self._manners)
        while not self.size_bytes or len(self.data) < min(end, self.size_bytes):
            try:
                self._load(end)
            except Again as again:
                patience.wait(again)

    def _load(self, end: int) -> None:
        """One request."""
        start, host = len(self.data), self._address.url.split("/")[2]
        with opened(self._address, self._manners, {"Range": f"bytes={start}-{end - 1}"}) as response:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if response.status_code != 206 or match is None or int(match["first"]) != start:
                raise DownloadFailed(
                    f"{host} gives no part of {self._file.name}, only the whole: pull the model to see whether it fits"
                )
            total = int(match["total"])
            if total != (self.size_bytes or self._file.size_bytes or total):
                raise DownloadFailed(f"{self._file.name} changes its size on {host}; try again later")
            self.size_bytes = total
            for data in response.iter_raw():
                self.data += data[: end - len(self.data)]
        if len(self.data) == start:
            raise Again(f"{host} sent nothing of {self._file.name}")
