"""Pages of mapped files: what is no longer needed in memory is given back to the system."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

_MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4


def unload_pages(paths: Sequence[str]) -> None:
    """Take the pages of these files, mapped for reading, out of this process.

    They stay in the system's cache, from where a page that is read again comes back by itself. llama.cpp maps whole
    files and copies many weights out of them, which without this would be held twice. Does nothing outside Linux.
    """
    libc = ctypes.CDLL(None)
    for start, length in _mappings({os.path.realpath(path) for path in paths}):
        libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_DONTNEED)


def _mappings(files: set[str]) -> Iterator[tuple[int, int]]:
    """Address and length of each mapping of the files that is only read."""
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and fields[5] in files and fields[1].startswith("r--"):
            start, end = (int(text, 16) for text in fields[0].split("-"))
            yield start, end - start
