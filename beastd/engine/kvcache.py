"""Which tokens lie in which KV slot, and which slot a new sequence takes. Decides only; llama obeys."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

AdapterSet = tuple[tuple[str, float], ...]
"""LoRA adapters as (path, scale), by path: KV computed with one set is worthless to another."""


def adapter_set(adapters: Iterable[tuple[str, float]]) -> AdapterSet:
    """The set these make: their order is no difference, and one of scale 0 does nothing."""
    return tuple(sorted((path, scale) for path, scale in adapters if scale))


def renamed(adapters: AdapterSet, path: str, name: str) -> AdapterSet:
    """The set with this adapter under another name."""
    return adapter_set((name if it == path else it, scale) for it, scale in adapters)


RUN_BONUS = 400
"""For a partitioned cache: llama.cpp computes each run of consecutive slots by itself, reading all weights again
(``llama_batch_allocr::split_equal``). Over an answer of a hundred tokens that costs what prefilling so many costs."""


@dataclass(slots=True)
class Slot:
    """One llama.cpp sequence id and the tokens whose keys and values it holds."""

    index: int
    tokens: list[int] = field(default_factory=list)
    adapters: AdapterSet = ()
    is_busy: bool = False
    last_used: int = 0
    """Order of release: larger is more recent, 0 never used."""


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the longest common prefix, by bisection over slices (list equality runs at C speed)."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


class KVCache:
    """The slots of one context. A released slot keeps its tokens for a later prompt with the same beginning."""

    def __init__(self, n_slots: int, *, run_bonus: int = 0) -> None:
        """``run_bonus``: cached tokens worth giving up to take a slot next to a busy one (see RUN_BONUS)."""
        self.slots = [Slot(index) for index in range(n_slots)]
        self._run_bonus = run_bonus
        self._clock = 0

    def resize(self, n_slots: int, *, run_bonus: int = 0) -> None:
        """Have so many slots from now on: busy ones stay, then those used last; some get another index."""
        worth = sorted(self.slots, key=lambda slot: (slot.is_busy, bool(slot.tokens), slot.last_used), reverse=True)
        kept, gone = worth[:n_slots], worth[n_slots:]
        assert not any(slot.is_busy for slot in gone), "a busy slot cannot be taken away"
        taken = {slot.index for slot in kept if slot.index < n_slots}
        free = (index for index in range(n_slots) if index not in taken)
        for slot in kept:
            if slot.index >= n_slots:
                slot.index = next(free)
        self.slots = sorted([*kept, *map(Slot, free)], key=lambda slot: slot.index)
        self._run_bonus = run_bonus

    @property
    def n_tokens(self) -> int:
        """Tokens in all slots."""
        return sum(len(slot.tokens) for slot in self.slots)

    @property
    def has_free(self) -> bool:
        """Whether a sequence could be admitted now."""
        return any(not slot.is_busy for slot in self.slots)

    def try_acquire(self, prompt: Sequence[int], adapters: AdapterSet) -> tuple[Slot, int] | None:
        """Take the free slot worth most to this prompt; None when all are busy.

        Returns the slot and how many of its tokens the prompt may keep: never all of the prompt, since the
        last token must be decoded again to have logits.
        """
        free = sorted((slot for slot in self.slots if not slot.is_busy), key=lambda slot: slot.last_used)
        if not free:
            return None
        slot, n_kept = max(
            ((slot, self._n_reusable(slot, prompt, adapters)) for slot in free),
            key=lambda found: (
                self._worth(*found, recency=free.index(found[0]) / len(free)) + self._place_worth(found[0], adapters)
            ),
        )
        slot.is_busy = True
        slot.adapters = adapters
        del slot.tokens[n_kept:]
        return slot, n_kept

    def release(self, slot: Slot) -> None:
        """The slot's sequence has ended; its tokens stay until somebody else needs the slot."""
        assert slot.is_busy
        self._clock += 1
        slot.last_used = self._clock
        slot.is_busy = False

    def detach(self, path: str, name: str) -> None:
        """The adapter's file may change: KV of what it was goes by this name, so that no later prompt finds it."""
        for slot in self.slots:
            slot.adapters = renamed(slot.adapters, path, name)

    @staticmethod
    def _n_reusable(slot: Slot, prompt: Sequence[int], adapters: AdapterSet) -> int:
        if slot.adapters != adapters:
            return 0
        return min(common_prefix(slot.tokens, prompt), len(prompt) - 1)

    @staticmethod
    def _worth(slot: Slot, n_kept: int, *, recency: float) -> float:
        """Tokens saved now, less the tokens thrown away weighted by how likely they are wanted again."""
        return n_kept - (len(slot.tokens) - n_kept) * recency

    def _place_worth(self, slot: Slot, adapters: AdapterSet) -> float:
        """What the slot's place is worth: beside a busy one of the same set, else with room for more of the set.

        A step serves one set, so only slots of one set make a run.
        """
        neighbours = self.slots[max(0, slot.index - 1) : slot.index + 2]
        if any(other.is_busy and other.adapters == adapters for other in neighbours):
            return self._run_bonus
        others = (abs(it.index - slot.index) for it in self.slots if it.is_busy and it.adapters != adapters)
        return self._run_bonus * min(others, default=0) / len(self.slots)
