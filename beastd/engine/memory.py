"""What this process holds of the machine's memory, and how to give back what was freed."""

from __future__ import annotations

import ctypes
import resource
import sys
from dataclasses import dataclass


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
