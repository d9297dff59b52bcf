"""Models of realistic sizes: what they take, and how long they load."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from beastd.fleet.footprint import ram
from beastd.fleet.spec import Want, WorkerSpec
from beastd.ipc import LoadSettings

GB = 10**9
DISK_BYTES_PER_S = 1.5e9
START_S = 0.8
"""Of a load: the process, and what does not depend on bytes."""
PROCESS_BYTES = 80 * 2**20
N_PARALLEL = 4
N_CTX = 4096
RUNGS = {"q8_0": 1.0, "q4_k_m": 0.597, "q2_k": 0.409}
"""Variants, and their weights against q8_0's (as Cub's)."""


@dataclass(frozen=True, slots=True)
class SimModel:
    """A model with a ladder of variants."""

    name: str
    weights_bytes: int
    """Of its best variant."""
    working_bytes: int
    """KV cache and compute buffers at N_CTX tokens."""
    slowness: float
    """Its loads take so many times what its bytes say: fragmented files, odd tensors, a cold page cache."""
    keep_alive_s: float
    """What its clients ask for."""

    def load_s(self, spec: WorkerSpec) -> float:
        """Seconds a load takes."""
        return START_S + self.slowness * spec.weights.total_bytes / DISK_BYTES_PER_S

    def want(self, n_ctx: int, variant: str | None, *, is_adaptive: bool) -> Want:
        """What a request is answered by; ``variant`` insists on one."""
        if variant:
            return Want((_spec(self, variant, n_ctx),))
        rungs = tuple(RUNGS) if is_adaptive else tuple(RUNGS)[:1]
        return _want(self, rungs, n_ctx)


@functools.cache
def _want(model: SimModel, rungs: tuple[str, ...], n_ctx: int) -> Want:
    return Want(tuple(_spec(model, rung, n_ctx) for rung in rungs))


@functools.cache
def _spec(model: SimModel, variant: str, n_ctx: int) -> WorkerSpec:
    return WorkerSpec(
        key=f"{model.name}@{variant}",
        name=model.name,
        variant=variant,
        paths=(),
        template=None,
        settings=LoadSettings(n_ctx=n_ctx, n_parallel=N_PARALLEL),
        weights=ram(round(model.weights_bytes * RUNGS[variant])),
        working=ram(model.working_bytes * n_ctx // N_CTX),
        process=ram(PROCESS_BYTES),
        is_exact=True,
    )


def make_models(
    n: int, draw: random.Random, *, median_gb: float = 6.0, spread: float = 0.9, keep_alives_s: tuple[float, ...]
) -> list[SimModel]:
    """Log-normal sizes of 1 to 40 GB, of which KV and compute are 10 to 25 %; the order is that of popularity."""
    models = []
    for i in range(n):
        gb = min(40.0, max(1.0, draw.lognormvariate(0, spread) * median_gb))
        working = draw.uniform(0.10, 0.25)
        models.append(
            SimModel(
                name=f"m{draw.randrange(10**6):06}-{i}",
                weights_bytes=round(gb * (1 - working) * GB),
                working_bytes=round(gb * working * GB),
                slowness=draw.lognormvariate(0, 0.3),
                keep_alive_s=draw.choice(keep_alives_s),
            )
        )
    return models
