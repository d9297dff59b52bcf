"""A KV cache that holds token ids instead of keys and values, and obeys as llama.cpp's would."""

from __future__ import annotations

from collections import defaultdict
from typing import Generic, TypeVar

from beastd.engine.kvcache import KVCache
from beastd.engine.pace import Pace
from beastd.engine.policies import ORDERS
from beastd.engine.prefixes import Slot
from beastd.engine.scheduler import Scheduler
from beastd.engine.sequence import Sequence

Cell = TypeVar("Cell")


class HeldCells(Generic[Cell]):
    """What lies in every slot's cells."""

    shares_beginnings = True

    def __init__(self) -> None:
        self.held: dict[int, list[Cell]] = defaultdict(list)

    def share(self, source: int, target: int, n: int) -> bool:
        assert not self.held[target]
        assert len(self.held[source]) >= n
        self.held[target] = self.held[source][:n]
        return True

    def cut(self, slot: int, n: int) -> bool:
        assert len(self.held[slot]) > n
        del self.held[slot][n:]
        return True


class FakeCells(HeldCells[int]):
    """Every slot's tokens; shared cells keep theirs."""

    def __init__(self) -> None:
        super().__init__()
        self.spilled: list[tuple[list[int], int]] = []
        self.cannot_share: set[tuple[int, int]] = set()

    def compute(self, cache: KVCache, slot: Slot, tokens: list[int]) -> None:
        """A step computes the KV of these tokens."""
        self.held[slot.index] += tokens
        cache.extend(slot, tokens)

    def can_share(self, slot: int, n: int) -> bool:
        return (slot, n) not in self.cannot_share

    def spill(self, slot: Slot, start: int) -> None:
        assert self.held[slot.index] == slot.tokens, "only what is there can be kept"
        assert 0 <= start < len(slot.tokens)
        self.spilled.append((list(slot.tokens), start))


class FakeFetch:
    """Nothing was kept elsewhere."""

    def is_reading(self, sequence: Sequence, n_there: int, pace: Pace) -> bool:
        return False

    def into(self, sequence: Sequence, cache: KVCache) -> int:
        return 0


def scheduler_of(cache: KVCache, pace: Pace, n_most: int | None = None, policy: str = "mix") -> Scheduler:
    """A scheduler with nothing but this cache."""
    return Scheduler(cache, pace, ORDERS[policy](pace), n_most or len(cache.slots), FakeFetch())
