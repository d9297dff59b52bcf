"""Which slot a new sequence takes, whose tokens it shares, and what leaves the KV cache. Decides only; ``Cells`` obeys.

Two layouts. Unified: all slots draw on one pool of cells, and what they have in common lies there once. Partitioned:
each slot has cells of its own, so a prefix is copied, and nobody ever lacks cells (docs/performance.md has what each
costs).
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol

from beastd.engine.adapters import AdapterSet, renamed
from beastd.engine.prefixes import PrefixTree, Slot

RUN_BONUS = 400
"""For a partitioned cache: llama.cpp computes each run of consecutive slots by itself, reading all weights again
(``llama_batch_allocr::split_equal``). Over an answer of a hundred tokens that costs what prefilling so many costs."""
COPY_COST = 0.03
"""Of a partitioned cache: copying a token's KV takes about this share of what computing it takes."""


class Cells(Protocol):
    """The cache itself, as llama.cpp has it. Slots go by their index."""

    @property
    def shares_beginnings(self) -> bool:
        """Whether a sequence may ever go on after a part of what a slot holds: recurrent states are of the whole."""

    def can_share(self, slot: int, n: int) -> bool:
        """Whether a sequence may go on after the slot's first ``n`` tokens: windows and recurrent states forbid it."""

    def share(self, source: int, target: int, n: int) -> bool:
        """Have an empty slot hold the source's first ``n`` tokens as well; False when it stays empty."""

    def cut(self, slot: int, n: int) -> bool:
        """Have the slot hold its first ``n`` tokens only; False when that cannot be, and it holds none."""

    def spill(self, slot: Slot, start: int) -> None:
        """The slot's tokens from ``start`` on are about to leave: the last chance to keep their KV elsewhere."""


class KVCache:
    """The slots of one context. A released slot keeps its tokens for later prompts with the same beginning."""

    def __init__(self, n_slots: int, cells: Cells, *, n_cells: int | None = None, run_bonus: int = 0) -> None:
        """``n_cells``: of all slots together; None: each has its own, enough for any sequence.

        ``run_bonus``: cached tokens worth giving up to take a slot next to a busy one (see RUN_BONUS).
        """
        self.slots = [Slot(index) for index in range(n_slots)]
        self.n_cells = n_cells
        self.cells = cells
        self._tree = PrefixTree()
        self._run_bonus = run_bonus
        self._clock = 0

    # --- what is there ---

    @property
    def n_tokens(self) -> int:
        """Tokens whose KV is there; what slots share counts once."""
        return self._tree.n_cells

    @property
    def n_shared_tokens(self) -> int:
        """Tokens that take no cells, since other slots hold them too."""
        return sum(len(slot.tokens) for slot in self.slots) - self.n_tokens

    @property
    def n_free(self) -> int:
        """Cells that nothing lies in."""
        return sys.maxsize if self.n_cells is None else self.n_cells - self.n_tokens

    def n_beside(self, slots: Iterable[Slot]) -> int:
        """Cells that none of these slots hold: free, or to be had from the others."""
        if self.n_cells is None:
            return sys.maxsize
        held = {run: len(run.tokens) for slot in slots for run in self._tree.path(slot)}
        return self.n_cells - sum(held.values())

    def sharable(self, prompt: Sequence[int], adapters: AdapterSet) -> dict[Slot, int]:
        """Slot → how many of the prompt's first tokens need no computing beside it; for those where any do not.

        Never all, since the last gives the logits.
        """
        n_most = len(prompt) - 1
        found = ((slot, min(n, n_most)) for slot, n in self._tree.shared(adapters, prompt).items())
        return {slot: n for slot, n in found if n and self.cells.can_share(slot.index, n)}

    # --- a sequence's slot ---

    def try_acquire(self, prompt: Sequence[int], adapters: AdapterSet) -> tuple[Slot, int] | None:
        """Take the free slot worth most to this prompt, with what is there of it; None when all are busy.

        Returns the slot and how many of the prompt's tokens it holds.
        """
        free = sorted((slot for slot in self.slots if not slot.is_busy), key=lambda slot: slot.last_used)
        if not free:
            return None
        sharable = self.sharable(prompt, adapters)
        source = max(sharable, key=lambda slot: (sharable[slot], not slot.is_busy), default=None)
        n_there = sharable[source] if source else 0
        cost = 0.0 if self.n_cells is not None else COPY_COST * n_there
        slot = max(
            free,
            key=lambda it: (
                max(sharable.get(it, 0), n_there - cost)
                - self._n_lost(it, sharable.get(it, 0)) * free.index(it) / len(free)
                + self._place_worth(it, adapters),
                it is source,
            ),
        )
        slot.is_busy = True
        self._take(slot, source, sharable.get(slot, 0), n_there, adapters)
        return slot, len(slot.tokens)

    def _take(self, slot: Slot, source: Slot | None, n_own: int, n_there: int, adapters: AdapterSet) -> None:
        if source is None or n_own == n_there:
            self._drop(slot, n_own)
            slot.adapters = adapters
            return
        self._drop(slot, 0)
        slot.adapters = adapters
        if self.cells.share(source.index, slot.index, n_there):
            self.place(slot, source, n_there)

    def place(self, slot: Slot, source: Slot, n: int) -> None:
        """An empty slot holds the source's first ``n`` tokens now."""
        if self.n_cells is None:
            self._tree.extend(slot, source.tokens[:n])
        else:
            self._tree.share(source, slot, n)

    def extend(self, slot: Slot, tokens: list[int]) -> None:
        """The slot holds these tokens more."""
        self._tree.extend(slot, tokens)

    def cut(self, slot: Slot, n: int) -> None:
        """The slot is to hold its first ``n`` tokens only; the others are worth nothing. It may come to hold none."""
        if n < len(slot.tokens):
            self._tree.cut(slot, n if self.cells.cut(slot.index, n) else 0)

    def cut_ahead(self, slot: Slot) -> None:
        """Cells have more after the slot's tokens, which was only proposed: that leaves. It may come to hold none."""
        if not self.cells.cut(slot.index, len(slot.tokens)):
            self._tree.cut(slot, 0)

    def release(self, slot: Slot) -> None:
        """The slot's sequence has ended; its tokens stay until somebody else needs the cells."""
        assert slot.is_busy
        self._clock += 1
        slot.last_used = self._clock
        slot.is_busy = False

    def detach(self, path: str, name: str) -> None:
        """The adapter's file may change: KV of what it was goes by this name, so that no later prompt finds it."""
        self._tree.rename(path, name)
        for slot in self.slots:
            slot.adapters = renamed(slot.adapters, path, name)

    @property
    def filled(self) -> list[Slot]:
        """Slots that hold tokens."""
        return [slot for slot in self.slots if slot.tokens]

    def sharer(self, slot: Slot, others: Collection[Slot]) -> tuple[Slot | None, int]:
        """The one of these that shares most cells with the slot, and how many."""
        for run in self._tree.path(slot):
            for other in run.slots():
                if other is not slot and other in others:
                    return other, run.end
        return None, 0

    def adopt(self, slots: Sequence[Slot]) -> dict[Slot, list[int]]:
        """Take over slots of a cache that is gone, as far as there are places: busy ones, then those used last.

        All are empty then; returns what they held, to be restored.
        """
        worth = sorted(slots, key=lambda slot: (slot.is_busy, bool(slot.tokens), slot.last_used), reverse=True)
        kept, gone = worth[: len(self.slots)], worth[len(self.slots) :]
        assert not any(slot.is_busy for slot in gone), "a busy slot cannot be taken away"
        stays = {slot.index: slot for slot in kept if slot.index < len(self.slots)}
        movers = iter([slot for slot in kept if slot.index >= len(self.slots)])
        self.slots = [stays.get(fresh.index) or next(movers, fresh) for fresh in self.slots]
        self._clock = max((slot.last_used for slot in self.slots), default=0)
        held = {slot: slot.tokens for slot in self.slots if slot.tokens}
        for index, slot in enumerate(self.slots):
            slot.index, slot.tokens, slot.tail = index, [], None
        return held

    # --- room ---

    def make_room(self, n: int) -> bool:
        """Have at least ``n`` cells free, by what idle slots held alone: the least recently used goes first."""
        while self.n_free < n:
            idle = [slot for slot in self.filled if not slot.is_busy]
            if not idle:
                return False
            leaf = min(idle, key=lambda slot: slot.last_used)
            self._drop(leaf, 0)
        return True

    def spill_all(self) -> None:
        """Keep elsewhere what idle slots hold, the least recently used first: the cache is about to go."""
        for slot in sorted(self.filled, key=lambda slot: slot.last_used):
            if not slot.is_busy:
                self._drop(slot, 0)

    def drop_idle(self) -> None:
        """Empty all idle slots; nobody is to find anything of them again."""
        for slot in self.filled:
            if not slot.is_busy:
                self.cut(slot, 0)

    def _drop(self, slot: Slot, n_kept: int) -> None:
        """The slot's tokens after ``n_kept`` leave; what nobody else holds may be kept elsewhere."""
        if n_kept < len(slot.tokens):
            start = self._tree.own_start(slot) if self.n_cells is not None else 0
            if start < len(slot.tokens):
                self.cells.spill(slot, start)
            self.cut(slot, n_kept)

    def _n_lost(self, slot: Slot, n_kept: int) -> int:
        """Tokens whose KV would be gone."""
        return len(slot.tokens) - max(n_kept, self._tree.own_start(slot))

    def _place_worth(self, slot: Slot, adapters: AdapterSet) -> float:
        """What the slot's place is worth: beside a busy one of the same set, else with room for more of the set.

        A step serves one set, so only slots of one set make a run.
        """
        neighbours = self.slots[max(0, slot.index - 1) : slot.index + 2]
        if any(other.is_busy and other.adapters == adapters for other in neighbours):
            return self._run_bonus
        others = (abs(it.index - slot.index) for it in self.slots if it.is_busy and it.adapters != adapters)
        return self._run_bonus * min(others, default=0) / len(self.slots)

    def check_integrity(self) -> None:
        """Assert what must always hold; for tests."""
        self._tree.check_integrity(self.slots)
        assert [slot.index for slot in self.slots] == list(range(len(self.slots)))
        assert self.n_cells is None or self.n_tokens <= self.n_cells
