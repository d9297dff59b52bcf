"""Puts the parts of an engine together."""

from __future__ import annotations

from beastd.engine.cells import LlamaCells
from beastd.engine.kvcache import RUN_BONUS, Cells, KVCache
from beastd.engine.llama import Llama
from beastd.engine.pace import Pace
from beastd.engine.policies import ORDERS
from beastd.engine.scheduler import Scheduler
from beastd.engine.tiers import Tiers


def new_cache(llama: Llama, cells: Cells) -> KVCache:
    """An empty cache for the context as it is."""
    return KVCache(llama.n_slots, cells, n_cells=llama.n_cells, run_bonus=0 if llama.is_unified else RUN_BONUS)


def new_scheduler(llama: Llama, pace: Pace, tiers: Tiers | None = None, policy: str = "mix") -> Scheduler:
    """A scheduler of as many sequences as the context has room for."""
    cells = LlamaCells(llama, tiers or Tiers(None, ""))
    return Scheduler(new_cache(llama, cells), pace, ORDERS[policy](pace), llama.n_sequences, cells)
