"""How much memory a model takes before it is loaded, and how much this machine has.

The estimate is only used until the worker says what it really holds (``ipc.Ready.resident_bytes``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from beastd.contract import ModelShape
from beastd.ipc import LoadSettings

PROCESS_BYTES = 80 * 2**20
"""Interpreter, numpy and llama.cpp's libraries, before any model."""

_KV_BYTES_PER_ELEMENT = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
_KV_BYTES_PER_ELEMENT |= {"q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}

_ACTIVATIONS_PER_TOKEN = 16
"""f32 rows of n_embd alive at once while a token is computed. Measured: 12 to 14, on Cub and on Qwen3-0.6B's shape."""

_CTX_STEP = 256
"""llama.cpp rounds the cells of a sequence up to this (``llama-context.cpp``)."""


def kv_bytes(shape: ModelShape, settings: LoadSettings) -> int:
    """Bytes of the KV cache: llama.cpp allocates all of it at load.

    Raises KeyError for a kv_type llama.cpp does not have; the configuration has checked it before.
    """
    cells = -(-settings.n_ctx // _CTX_STEP) * _CTX_STEP * settings.n_parallel
    return round(cells * shape.kv_elements_per_token * _KV_BYTES_PER_ELEMENT[settings.kv_type])


def compute_bytes(shape: ModelShape, settings: LoadSettings) -> int:
    """Bytes of the buffers a step computes in, with flash attention: activations, attention mask, logits twice."""
    n_tokens = min(settings.n_ubatch, settings.n_batch)
    activations = n_tokens * shape.n_embd * _ACTIVATIONS_PER_TOKEN * 4
    mask = n_tokens * settings.n_ctx * 2
    logits = settings.n_parallel * shape.n_vocab * 4 * 2
    return activations + mask + logits


def need_bytes(shape: ModelShape, settings: LoadSettings) -> int:
    """Bytes of memory a worker with these settings is expected to take, a tenth of margin on all but the weights.

    The weights count once. llama.cpp repacks some quantizations (Q4_K, for one) into a second copy for the CPU's
    vector units, but the mapped pages it was made from are clean then, and the system drops them when it is short.
    """
    overhead = kv_bytes(shape, settings) + compute_bytes(shape, settings) + PROCESS_BYTES
    return shape.weights_bytes + overhead * 11 // 10


def auto_parallel(shape: ModelShape, n_ctx: int, kv_type: str, limit_bytes: int, most: int = 16) -> int:
    """The most sequences of n_ctx tokens, 1 to ``most``, with which the model stays within limit_bytes; at least 1."""
    for n_parallel in range(most, 1, -1):
        settings = LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel, kv_type=kv_type)
        if need_bytes(shape, settings) <= limit_bytes:
            return n_parallel
    return 1


def total_ram_bytes(root: Path = Path("/")) -> int:
    """Memory this process may use: the machine's, or its control group's limit where that is less (containers)."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *_cgroup_limits(root)])


def _cgroup_limits(root: Path) -> Iterator[int]:
    """Every limit on the way from this process's control group up to the root; none outside Linux."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _limits_upward(root / "sys/fs/cgroup", group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits_upward(root / "sys/fs/cgroup/memory", group, "memory.limit_in_bytes")


def _limits_upward(mount: Path, group: str, file: str) -> Iterator[int]:
    here = mount / group.lstrip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(mount):
            return
        try:
            text = (folder / file).read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            yield int(text)


def available_ram_bytes(root: Path = Path("/")) -> int:
    """TEMPORARY."""
    for line in (root / "proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return total_ram_bytes(root)


def n_oom_kills(root: Path = Path("/")) -> int:
    """How many processes the system has killed for lack of memory since it started; 0 where it does not tell."""
    try:
        lines = (root / "proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    counts = (line.removeprefix("oom_kill ") for line in lines if line.startswith("oom_kill "))
    return next((int(count) for count in counts if count.isdecimal()), 0)


def anon_bytes(pid: int, root: Path = Path("/")) -> int:
    """Memory of a process that no file backs, so that nobody else can have it; 0 where the system does not tell."""
    try:
        fields = (root / f"proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
