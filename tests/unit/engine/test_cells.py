"""KV between the cache and the tiers, with the model played by the test."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from beastd import ipc
from beastd.engine.cells import LlamaCells
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.kvcache import KVCache
from beastd.engine.kvstate import State
from beastd.engine.sampler import Sampler
from beastd.engine.sequence import Sequence
from beastd.engine.tiers import Tiers

TOKENS = list(range(100))


class Memory:
    """A plain cache with slots of their own. With an error, nothing can be saved, copied or restored."""

    is_plain, is_unified, is_recurrent = True, False, False

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.n_bytes = 100
        self.can_cut = True

    def _try(self) -> None:
        if self.error:
            raise self.error

    def can_share(self, _slot: int, _n: int) -> bool:
        return True

    def forget(self, _slot: int, n: int) -> bool:
        return self.can_cut or n == 0

    def save(self, _slot: int, _start: int = 0) -> State:
        self._try()
        return np.zeros(self.n_bytes, np.uint8)

    def share(self, _source: int, _target: int, _n: int) -> bool:
        self._try()
        return True

    def restore(self, _slot: int, _state: State, _start: int, _end: int) -> bool:
        self._try()
        return True


class World:
    """A cache of two slots above such a memory."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.tiers = Tiers(ipc.KvTiers(folder="", memory_bytes=10**6, disk_bytes=0), "ab" * 20)
        self.cells = LlamaCells(cast("Any", self.memory), self.tiers)
        self.cache = KVCache(2, self.cells)

    def fill(self) -> None:
        found = self.cache.try_acquire(TOKENS, ())
        assert found
        self.cache.extend(found[0], TOKENS[found[1] :])
        self.cache.release(found[0])

    def fetch(self) -> int:
        """Tokens that come back to a sequence in an empty slot."""
        it = Sequence(1, TOKENS, cast(Sampler, None), Detokenizer([]), n_ctx=200, n_predict=9)
        it.slot = self.cache.slots[0]
        return self.cells.into(it, self.cache)


@pytest.fixture
def world() -> World:
    return World()


def test_what_cannot_be_saved_for_want_of_memory_is_lost_and_told(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.fill()
    world.memory.error = MemoryError()
    world.cache.spill_all()
    assert (world.tiers.stats.n_tier_memory, world.cache.n_tokens) == (0, 0)
    assert capsys.readouterr().err == "KV cache: no memory to keep 100 tokens that leave it\n"


def test_a_state_without_a_byte_is_not_kept(world: World) -> None:
    world.fill()
    world.memory.n_bytes = 0
    world.cache.spill_all()
    assert world.tiers.stats.n_tier_memory == 0


def test_what_cannot_be_restored_for_want_of_memory_is_computed(world: World) -> None:
    world.fill()
    world.cache.spill_all()
    world.memory.error = MemoryError()
    assert world.fetch() == 0
    assert world.cache.n_tokens == 0
    world.memory.error = None
    assert world.fetch() == 99


def test_what_cannot_be_copied_for_want_of_memory_is_computed(world: World) -> None:
    first = world.cache.try_acquire(TOKENS, ())
    assert first
    world.cache.extend(first[0], TOKENS)
    world.memory.error = MemoryError()
    second = world.cache.try_acquire(TOKENS, ())
    assert second
    assert (second[0].tokens, second[1]) == ([], 0)


def test_a_slot_that_cannot_be_cut_is_empty(world: World) -> None:
    """Else the tree would promise KV that is gone."""
    world.fill()
    world.memory.can_cut = False
    world.cache.cut(world.cache.slots[0], 50)
    assert world.cache.n_tokens == 0
    world.cache.check_integrity()
