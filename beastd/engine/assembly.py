"""Puts the parts of an engine together."""

from __future__ import annotations

import sys

from beastd.engine.cells import LlamaCells
from beastd.engine.draftmodel import DraftModel
from beastd.engine.headdrafts import HeadDrafts
from beastd.engine.kvcache import RUN_BONUS, Cells, KVCache
from beastd.engine.llama import Llama
from beastd.engine.pace import Pace
from beastd.engine.policies import ORDERS
from beastd.engine.scheduler import Scheduler
from beastd.engine.tiers import Tiers
from beastd.errors import LoadFailed


def new_cache(llama: Llama, cells: Cells) -> KVCache:
    """An empty cache for the context as it is."""
    return KVCache(llama.n_slots, cells, n_cells=llama.n_cells, run_bonus=0 if llama.is_unified else RUN_BONUS)


def new_drafter(llama: Llama) -> DraftModel | HeadDrafts | None:
    """What drafts for the model besides its own text: the draft model it was loaded with, or its own heads.

    Raises as ``DraftModel``, and ``OutOfMemory``.
    """
    load = llama.load
    if not llama.n_draftable:
        return None
    if load.draft:
        return DraftModel(load, llama)
    return _try_heads(llama) if load.settings.mtp else None


def _try_heads(llama: Llama) -> HeadDrafts | None:
    """None where llama.cpp cannot: the model does without."""
    try:
        return HeadDrafts(llama)
    except LoadFailed as error:
        sys.stderr.write(f"{error.message}\n")
        return None


def new_scheduler(
    llama: Llama,
    pace: Pace,
    tiers: Tiers | None = None,
    policy: str = "mix",
    heads: HeadDrafts | None = None,
) -> Scheduler:
    """A scheduler of as many sequences as the context has room for; ``heads`` follow what becomes of its slots."""
    cells = LlamaCells(llama, tiers or Tiers(None, ""), heads)
    return Scheduler(new_cache(llama, cells), pace, ORDERS[policy](pace), llama.n_sequences, cells)
