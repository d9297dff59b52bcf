"""The last lines of a log file, and those that come: across rotation, truncation, and its not being there yet."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK_BYTES = 1 << 16
MAX_LINE_BYTES = 1 << 20
"""A line that has not ended by then is given in pieces."""


class LogTail:
    """Reads ``path`` and the older files ``path.1``, ``path.2`` … that a rotation makes of it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._pending = b""

    def __enter__(self) -> LogTail:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def last(self, n_lines: int) -> list[bytes]:
        """The last ``n_lines`` whole lines there are now; ``fresh`` goes on behind them."""
        files = _generations(self._path)
        ends = [_end_of_lines(file) for file in files]
        if files:
            self._file = files[0]
            self._file.seek(ends[0])
        found: list[bytes] = []
        for file, end in zip(files, ends, strict=True):
            if len(found) >= n_lines:
                break
            found = _last_lines(file, end, n_lines - len(found)) + found
        if files:
            files[0].seek(ends[0])
        for file in files[1:]:
            file.close()
        return found

    def fresh(self) -> Iterator[bytes]:
        """Whole lines that came since the last call, oldest first; none when nothing did."""
        yield from self._rest()
        if self._file is not None and _is_same(self._file, self._path):
            return
        newer = self._newer()
        if not newer:
            return  # between a rotation and the first line after it, or before the very first
        yield from self._rest()  # what was written to the old file before it was put aside
        yield from self._flushed()
        for file in newer:
            self._close()
            self._file = file
            yield from self._rest()
            if file is not newer[-1]:
                yield from self._flushed()

    def unfinished(self) -> list[bytes]:
        """What follows the last whole line; once nobody writes, it is a line as well."""
        return [*self._rest(), *self._flushed()]

    def _newer(self) -> list[BinaryIO]:
        """The files that came after ours, oldest first; all of them when ours is gone."""
        files = _generations(self._path)
        own = next((i for i, file in enumerate(files) if self._file and _is_one(file, self._file)), len(files))
        for file in files[own:]:
            file.close()
        return files[:own][::-1]

    def _rest(self) -> Iterator[bytes]:
        if self._file is None:
            return
        if os.fstat(self._file.fileno()).st_size < self._file.tell():  # emptied, to be written anew
            yield from self._flushed()
            self._file.seek(0)
        while block := self._file.read(BLOCK_BYTES):
            *lines, self._pending = (self._pending + block).split(b"\n")
            yield from lines
            if len(self._pending) > MAX_LINE_BYTES:
                yield from self._flushed()

    def _flushed(self) -> Iterator[bytes]:
        if self._pending:
            line, self._pending = self._pending, b""
            yield line

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()


def worker_logs(folder: Path) -> dict[Path, str]:
    """The logs that workers have left there, each with its worker's label as file names spell it."""
    return {path: path.stem.removeprefix("worker-").rpartition("-")[0] for path in folder.glob("worker-*.log")}


def _generations(path: Path) -> list[BinaryIO]:
    """The log and its older files, newest first.

    A rotation under way only moves files towards higher numbers, so this order may meet one twice but misses none.
    """
    found: list[BinaryIO] = []
    for name in (path, *(path.with_name(f"{path.name}.{n}") for n in range(1, 10))):
        try:
            file = name.open("rb", buffering=0)
        except FileNotFoundError:
            if name == path:
                continue
            break
        if any(_is_one(file, other) for other in found):
            file.close()
        else:
            found.append(file)
    return found


def _is_one(a: BinaryIO, b: BinaryIO) -> bool:
    return os.path.sameopenfile(a.fileno(), b.fileno())


def _is_same(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _end_of_lines(file: BinaryIO) -> int:
    """The offset behind the last line feed."""
    end = file.seek(0, os.SEEK_END)
    while end:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _last_lines(file: BinaryIO, end: int, n_lines: int) -> list[bytes]:
    """The last ``n_lines`` of the lines that end at ``end``."""
    data, start = b"", end
    while start and data.count(b"\n") <= n_lines:
        start, stop = max(0, start - BLOCK_BYTES), start
        file.seek(start)
        data = file.read(stop - start) + data
    return data.split(b"\n")[:-1][-n_lines:] if n_lines else []
