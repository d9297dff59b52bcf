"""What this process holds of the machine's memory, and how to give back what was freed."""

from __future__ import annotations

import ctypes
import os
import resource
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_MADV_DONTNEED = 4


@dataclass(frozen=True, slots=True)
class Held:
    """Bytes this process holds now."""

    resident_bytes: int
    """In main memory, mapped files included (the peak, where /proc is missing)."""
    anon_bytes: int
    """Of these, what no file backs."""


def held() -> Held:
    """Ask the system."""
    try:
        with open("/proc/self/statm") as statm:  # noqa: PTH123
            _, resident, shared, *_ = (int(field) * resource.getpagesize() for field in statm.read().split())
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        peak = peak if sys.platform == "darwin" else peak * 1024
        return Held(peak, peak)
    return Held(resident, resident - shared)


def give_back() -> None:
    """Return freed memory to the system: glibc keeps what lies between blocks still in use."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def unmap_unused(files: Iterable[str]) -> None:
    """Let go of the pages of mapped files; those that are still used come back, from the system's cache, when touched.

    llama.cpp copies many tensors into buffers of another layout, and keeps what it copied from mapped.
    """
    if sys.platform != "linux":
        return
    with suppress(OSError):  # without /proc they stay
        for start, end in _mappings({os.path.realpath(file) for file in files}):
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def _mappings(files: set[str]) -> Iterator[tuple[int, int]]:
    """Where these files are mapped: first address, and the one after the last."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, name = line.partition(" ")
        if len(fields := name.split(maxsplit=4)) == 5 and fields[4] in files:
            start, end = (int(address, 16) for address in addresses.split("-"))
            yield start, end
