"""How many threads a worker should compute with: physical cores, within what this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_TOPOLOGY = Path("/sys/devices/system/cpu")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def default_threads() -> int:
    """Physical cores this process may run on, at most its cgroup's CPU quota, at least 1.

    Two hyper-threads of a core share its vector units, so the second one only adds barrier time to a
    memory-bound decode.
    """
    cores = _physical_cores()
    quota = _quota_cpus()
    return max(1, min(cores, quota) if quota else cores)


def _physical_cores() -> int:
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_siblings(cpu) for cpu in allowed}
    return len(siblings)


def _siblings(cpu: int) -> str:
    try:
        return (_TOPOLOGY / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota_cpus() -> int | None:
    try:
        quota, period = _CPU_QUOTA.read_text().split()
        return max(1, int(quota) // int(period))
    except (OSError, ValueError):
        return None
