"""How much memory a model takes before it is loaded, and how much this machine has.

The estimate decides how many sequences a model gets, and stands in where llama.cpp cannot simulate a load
(``fit.ledger``).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from beastd.contract import RAM, DeviceNeed, MemoryNeed, ModelShape
from beastd.ipc import LoadSettings

PROCESS_BYTES = 80 * 2**20
"""Interpreter, numpy and llama.cpp's libraries, before any model."""

_KV_BYTES_PER_ELEMENT = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32}
_KV_BYTES_PER_ELEMENT |= {"q4_1": 20 / 32, "q4_0": 18 / 32, "iq4_nl": 18 / 32}

_ACTIVATIONS_PER_TOKEN = 16
"""f32 rows of n_embd alive at once while a token is computed. Measured: 12 to 14, on Cub and on Qwen3-0.6B's shape."""

_CTX_STEP = 256
"""llama.cpp rounds the cells of a sequence up to this (``llama-context.cpp``)."""


def padded_ctx(n_ctx: int) -> int:
    """Cells of a sequence of so many tokens."""
    return -(-n_ctx // _CTX_STEP) * _CTX_STEP


def kv_bytes(shape: ModelShape, settings: LoadSettings) -> int:
    """Bytes of the KV cache: llama.cpp allocates all of it at load.

    Raises KeyError for a kv_type llama.cpp does not have; the configuration has checked it before.
    """
    cells = padded_ctx(settings.n_ctx) * settings.n_parallel
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


def estimated_need(shape: ModelShape, settings: LoadSettings) -> MemoryNeed:
    """``need_bytes`` by what it is for, all of it in main memory."""
    kv, compute = kv_bytes(shape, settings), compute_bytes(shape, settings)
    ram = DeviceNeed(device=RAM, weights_bytes=shape.weights_bytes, kv_bytes=kv, compute_bytes=compute)
    return MemoryNeed(devices=[ram], process_bytes=need_bytes(shape, settings) - ram.total_bytes, is_exact=False)


def auto_parallel(shape: ModelShape, n_ctx: int, kv_type: str, limit_bytes: int, most: int = 16) -> int:
    """The most sequences of n_ctx tokens, 1 to ``most``, with which the model stays within limit_bytes; at least 1."""
    for n_parallel in range(most, 1, -1):
        settings = LoadSettings(n_ctx=n_ctx, n_parallel=n_parallel, kv_type=kv_type)
        if need_bytes(shape, settings) <= limit_bytes:
            return n_parallel
    return 1


def total_ram_bytes(root: Path = Path("/")) -> int:
    """Memory this process may use: the machine's, or its control group's limit where that is less (containers)."""
    return min([_physical_bytes(), *(group.limit_bytes for group in _groups(root))])


def available_ram_bytes(root: Path = Path("/")) -> int:
    """Memory the system could give now without swapping: what is free, and caches it would drop.

    Or what is left of a control group's limit, where that is less. Outside Linux, where nothing tells: all there is.
    """
    return max(0, min([_system_available_bytes(root), *(group.available_bytes for group in _groups(root))]))


def _physical_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _system_available_bytes(root: Path) -> int:
    kib = _fields(root / "proc/meminfo").get("MemAvailable:")
    return _physical_bytes() if kib is None else kib * 1024


@dataclass(frozen=True, slots=True)
class _Group:
    """A control group that limits memory."""

    folder: Path
    limit_bytes: int
    usage_file: str
    cache_fields: tuple[str, str]
    """In its memory.stat: file pages the kernel can drop, with those of its children."""

    @property
    def available_bytes(self) -> int:
        """What its members could still take; everything, where it does not tell what they have."""
        used_bytes = _number(self.folder / self.usage_file) or 0
        stat = _fields(self.folder / "memory.stat")
        return self.limit_bytes - used_bytes + sum(stat.get(field, 0) for field in self.cache_fields)


_V2 = ("memory.max", "memory.current", ("inactive_file", "active_file"))
_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))


def _groups(root: Path) -> Iterator[_Group]:
    """Every limit on the way from this process's control group up to the root; none outside Linux."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield from _limits_upward(root / "sys/fs/cgroup", group, *_V2)
        elif "memory" in controllers.split(","):
            yield from _limits_upward(root / "sys/fs/cgroup/memory", group, *_V1)


def _limits_upward(
    mount: Path, group: str, limit_file: str, usage_file: str, cache_fields: tuple[str, str]
) -> Iterator[_Group]:
    here = mount / group.lstrip("/")
    for folder in (here, *here.parents):
        if not folder.is_relative_to(mount):
            return
        limit_bytes = _number(folder / limit_file)
        if limit_bytes is not None:
            yield _Group(folder, limit_bytes, usage_file, cache_fields)


def _number(file: Path) -> int | None:
    """The number that is all a file holds; None for "max", and where there is no file."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _fields(file: Path) -> dict[str, int]:
    """First word → number after it, of each line; empty where there is no file."""
    try:
        rows = [line.split() for line in file.read_text().splitlines()]
    except OSError:
        return {}
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdecimal()}


def n_oom_kills(root: Path = Path("/")) -> int:
    """How many processes the system has killed for lack of memory since it started; 0 where it does not tell."""
    return _fields(root / "proc/vmstat").get("oom_kill", 0)


def anon_bytes(pid: int, root: Path = Path("/")) -> int:
    """Memory of a process that no file backs, so that nobody else can have it; 0 where the system does not tell."""
    try:
        fields = (root / f"proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * os.sysconf("SC_PAGE_SIZE")
