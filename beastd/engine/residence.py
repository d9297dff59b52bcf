"""How much memory this process holds."""

from __future__ import annotations

import resource
import sys


def resident_bytes() -> int:
    """Memory this process holds now, mapped model included (the peak, where /proc is missing)."""
    try:
        with open("/proc/self/statm") as statm:  # noqa: PTH123
            return int(statm.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
