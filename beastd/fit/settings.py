"""How a worker would load a model, as the configuration has it."""

from __future__ import annotations

from beastd.config import Config
from beastd.contract import ModelShape
from beastd.fleet.memory import auto_parallel
from beastd.ipc import LoadSettings

MOST_PARALLEL = 8
"""Where the configuration says auto: each sequence reserves its whole context."""
FEW_PARALLEL = 4
"""With fewer full contexts, one pool of cells serves more requests at once; with as many, cells of each sequence's own
are faster (docs/performance.md)."""
SEQUENCES = 8
MOST_SEQUENCES = 64
"""Bounds of what runs at once in one pool where the configuration says auto, and what it may say."""


def load_settings(config: Config, shape: ModelShape | None, n_ctx: int, n_parallel: int, kv_type: str) -> LoadSettings:
    """The configuration's settings with these, for a model of this shape, None if that is not known yet."""
    is_unified = (shape is None or shape.is_plain) and _is_unified(config, n_parallel)
    return LoadSettings(
        n_ctx=n_ctx,
        n_parallel=n_parallel,
        n_sequences=_sequences(config, n_parallel) if is_unified else n_parallel,
        n_batch=config.batch,
        n_threads=config.threads,
        n_gpu_layers=config.gpu_layers,
        flash_attn=config.flash_attn,
        kv_type=kv_type,
        kv_layout="unified" if is_unified else "partitioned",
        mmap=config.mmap,
        step_ms=config.step_ms,
        policy=config.policy,
    )


def _is_unified(config: Config, n_parallel: int) -> bool:
    if config.kv_layout != "auto":
        return config.kv_layout == "unified"
    return config.sequences != "auto" or (config.parallel == "auto" and n_parallel < FEW_PARALLEL)


def _sequences(config: Config, n_parallel: int) -> int:
    if config.sequences != "auto":
        return config.sequences
    return min(MOST_SEQUENCES, max(SEQUENCES, 4 * n_parallel))


def parallel_of(config: Config, shape: ModelShape, n_ctx: int, kv_type: str, budget_bytes: int) -> int:
    """Sequences at once where nobody asks for a number."""
    if config.parallel != "auto":
        return config.parallel
    return auto_parallel(shape, n_ctx, kv_type, budget_bytes // 2, most=MOST_PARALLEL)
