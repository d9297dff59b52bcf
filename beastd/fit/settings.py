"""How a worker would load a model, as the configuration has it."""

from __future__ import annotations

from beastd.config import Config
from beastd.contract import ModelShape
from beastd.fleet.memory import auto_parallel
from beastd.ipc import LoadSettings

MOST_PARALLEL = 8
"""Where the configuration says auto: each sequence reserves its whole context."""


def load_settings(config: Config, n_ctx: int, n_parallel: int, kv_type: str) -> LoadSettings:
    """The configuration's settings with these."""
    return LoadSettings(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_batch=config.batch,
        n_threads=config.threads,
        n_gpu_layers=config.gpu_layers,
        flash_attn=config.flash_attn,
        kv_type=kv_type,
        kv_layout=config.kv_layout,
        mmap=config.mmap,
        step_ms=config.step_ms,
        policy=config.policy,
    )


def parallel_of(config: Config, shape: ModelShape, n_ctx: int, kv_type: str, budget_bytes: int) -> int:
    """Sequences at once where nobody asks for a number."""
    if config.parallel != "auto":
        return config.parallel
    return auto_parallel(shape, n_ctx, kv_type, budget_bytes // 2, most=MOST_PARALLEL)
