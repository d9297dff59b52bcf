"""llama.cpp's KV cache as ``KVCache`` orders it about, and the tiers that take what leaves it and bring it back."""

from __future__ import annotations

import sys

from beastd.engine.headdrafts import HeadDrafts
from beastd.engine.kvcache import KVCache
from beastd.engine.kvstate import State
from beastd.engine.llama import Llama
from beastd.engine.pace import Pace
from beastd.engine.prefixes import Slot
from beastd.engine.sequence import Sequence
from beastd.engine.tiers import MIN_TOKENS, Found, Pending, Tiers

LEAST_WAIT_S = 0.1
"""For the disk, however fast computing is: most files are there in a few milliseconds."""


class LlamaCells:
    """``kvcache.Cells`` and ``scheduler.Fetch`` made real."""

    def __init__(self, llama: Llama, tiers: Tiers, heads: HeadDrafts | None = None) -> None:
        """``heads`` have the same slots."""
        self._llama = llama
        self._tiers = tiers
        self._heads = heads

    @property
    def _is_exact(self) -> bool:
        """States of this model cannot be cut."""
        return not self._llama.is_plain

    # --- kvcache.Cells ---

    @property
    def shares_beginnings(self) -> bool:
        """See ``kvcache.Cells``."""
        return not self._llama.is_recurrent

    def can_share(self, slot: int, n: int) -> bool:
        """See ``kvcache.Cells``."""
        return self._llama.can_share(slot, n)

    def share(self, source: int, target: int, n: int) -> bool:
        """See ``kvcache.Cells``."""
        try:
            is_shared = self._llama.share(source, target, n)
        except MemoryError:  # a copy takes memory for a moment
            is_shared = False
        if is_shared and self._heads:
            self._heads.share(source, target, n)
        return is_shared

    def cut(self, slot: int, n: int) -> bool:
        """See ``kvcache.Cells``."""
        is_cut = self._llama.forget(slot, n)
        if self._heads:
            self._heads.cut(slot, n if is_cut else 0)
        return is_cut

    def spill(self, slot: Slot, start: int) -> None:
        """See ``kvcache.Cells``."""
        try:
            if self._tiers.wants(slot.adapters, slot.tokens, start, is_exact=self._is_exact):
                state = self._llama.save(slot.index, start)
                if len(state):
                    self._tiers.put(slot.adapters, slot.tokens, start, state, is_exact=self._is_exact)
        except MemoryError:
            sys.stderr.write(f"KV cache: no memory to keep {len(slot.tokens) - start} tokens that leave it\n")

    # --- scheduler.Fetch ---

    def is_reading(self, sequence: Sequence, n_there: int, pace: Pace) -> bool:
        """See ``scheduler.Fetch``."""
        found = self._find(sequence, n_there)
        if found is None:
            return False
        return self._tiers.is_reading(found, max(LEAST_WAIT_S, pace.work_s(found.n_usable - n_there, 0)))

    def into(self, sequence: Sequence, cache: KVCache) -> int:
        """See ``scheduler.Fetch``."""
        n_restored = 0
        while n := self._try_restore(sequence, cache):
            n_restored += n
        return n_restored

    def _try_restore(self, sequence: Sequence, cache: KVCache) -> int:
        """Bring back one more piece; 0 when there is none, or none at once, or no room for it."""
        slot = sequence.slot
        assert slot is not None
        n_there = len(slot.tokens)
        found = self._find(sequence, n_there)
        state = self._tiers.read(found) if found else None
        if found is None or state is None or isinstance(state, Pending):
            return 0
        if not cache.make_room(found.n_tokens - found.start):
            return 0
        if not self._has_restored(slot, state, n_there, found.n_usable):
            if not self._llama.is_unified:  # it came in place of what the slot held
                cache.cut(slot, 0)
            return 0
        cache.extend(slot, sequence.prompt[n_there : found.n_usable])
        return found.n_usable - n_there

    def _has_restored(self, slot: Slot, state: State, n_there: int, n_usable: int) -> bool:
        try:
            return self._llama.restore(slot.index, state, n_there, n_usable)
        except MemoryError:  # computing it takes none
            return False

    def _find(self, sequence: Sequence, n_there: int) -> Found | None:
        """What brings the sequence furthest; a cache that is not unified takes whole states only."""
        found = self._tiers.find(sequence.adapters, sequence.prompt, n_there, is_exact=self._is_exact)
        is_of_use = found is not None and (self._llama.is_unified or not found.start)
        return found if found and is_of_use and found.n_usable - n_there >= MIN_TOKENS else None
