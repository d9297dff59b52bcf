"""Which sequences are in the next step, and with how many tokens each. Pure: time comes in as an argument.

A step is one ``llama_decode``: first the next token of every decoding sequence, then chunks of prompts within
a token budget (the idea of vLLM's ``v1/core/sched``: prefill and decode share one budget).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from beastd.engine.kvcache import KVCache, renamed
from beastd.engine.pace import KERNEL_TOKENS, Pace
from beastd.engine.sequence import Sequence
from beastd.engine.turns import Turns

AGEING = 0.1
"""How much of its waiting counts for a prompt against shorter ones that came later."""
SET_BONUS = 800
"""Prompt tokens by which a waiting sequence goes before others when its set of LoRA adapters runs already: alone in
its set, each token of its answer would cost a step of its own."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence in one step, from position ``start`` of its slot."""

    sequence: Sequence
    tokens: list[int]
    start: int
    wants_logits: bool

    @property
    def slot(self) -> int:
        """llama.cpp's sequence id."""
        assert self.sequence.slot is not None
        return self.sequence.slot.index

    @property
    def is_prefill(self) -> bool:
        """Prompt tokens, not an answer's last one."""
        return not self.sequence.is_decoding


class Scheduler:
    """Owns the waiting and running sequences of one engine."""

    def __init__(self, cache: KVCache, pace: Pace) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.cache = cache
        self.pace = pace
        self._turns = Turns(pace.target_s)

    @property
    def is_idle(self) -> bool:
        """Nothing to compute."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """A new request: it waits for a slot."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence has ended, for any reason: its slot is free for the next step."""
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self.running.remove(sequence)
        self.cache.release(sequence.slot)

    def resize(self, n_slots: int, *, run_bonus: int = 0) -> None:
        """Have so many slots from now on; sequences beyond that number, the last to come, wait again."""
        for sequence in self.running[n_slots:]:
            self.remove(sequence)
            sequence.slot = None
            sequence.begin_again()
            self.waiting.append(sequence)
        self.cache.resize(n_slots, run_bonus=run_bonus)

    def admit(self, now_ns: int) -> list[Sequence]:
        """Give free slots to waiting sequences, most urgent first; returns those that got one."""
        admitted: list[Sequence] = []
        while self.waiting and self.cache.has_free:
            sequence = self.queue(now_ns)[0]
            found = self.cache.try_acquire(sequence.prompt, sequence.adapters)
            assert found is not None
            sequence.slot, sequence.n_cached = found
            self.waiting.remove(sequence)
            self.running.append(sequence)
            admitted.append(sequence)
        return admitted

    def queue(self, now_ns: int) -> list[Sequence]:
        """The waiting sequences as slots would go to them now: the most urgent first, and sets that run before others.

        Ageing bounds what others lose by that.
        """
        sets = {sequence.adapters for sequence in self.running}
        return sorted(self.waiting, key=lambda one: self._urgency(one, now_ns) - SET_BONUS * (one.adapters in sets))

    def next_batch(self, now_ns: int) -> list[Chunk]:
        """The next step, by slot: every decoding sequence, and prompt chunks, shortest remaining first with ageing.

        One step serves one set of LoRA adapters (llama.cpp applies them to a whole batch); sets take turns.
        """
        if not self.running:
            return []
        sets = {sequence.adapters for sequence in self.running}
        turn = self._turns.next(sets, now_ns)
        chunks = [
            Chunk(sequence, sequence.answer[-1:], len(sequence.slot.tokens), True)
            for sequence in self.running
            if sequence.answer and sequence.slot and sequence.adapters == turn
        ]
        prompts = [sequence for sequence in self.running if not sequence.answer and sequence.adapters == turn]
        if prompts:
            chunks += self._prompt_chunks(prompts, chunks, len(sets), now_ns)
        # With a partitioned cache llama.cpp computes a run of consecutive slots together, and others apart.
        chunks.sort(key=_by_slot)
        return chunks

    @property
    def adapters_in_use(self) -> set[str]:
        """Files of the adapters that a waiting or running sequence names."""
        return {path for sequence in self.waiting + self.running for path, _ in sequence.adapters}

    def detach(self, path: str, name: str, *, was_read: bool) -> None:
        """This adapter's file may change: if it ``was_read``, running sequences go on with that, under this name.

        Waiting ones read it anew, and none finds KV of before.
        """
        self.cache.detach(path, name)
        for sequence in self.running if was_read else ():
            sequence.adapters = renamed(sequence.adapters, path, name)

    def _prompt_chunks(self, prompts: list[Sequence], decodes: list[Chunk], n_sets: int, now_ns: int) -> list[Chunk]:
        """The most urgent prompts. One that ends in this step waits for others only as far as that pays."""
        n_rows, n_cells = len(decodes), cells(decodes)
        decoding = {chunk.slot for chunk in decodes}
        n_room = self.pace.n_prefill(n_rows, n_cells, n_sets=n_sets)
        n_most = self.pace.n_stretched(n_rows, n_cells, n_sets=n_sets)
        chunks: list[Chunk] = []
        n_ended = 0
        for sequence in sorted(prompts, key=lambda sequence: self._urgency(sequence, now_ns)):
            n, n_left = sequence.n_prefill_left, len(prompts) - n_ended
            if n_ended and n > min(n_room, self.pace.n_worth_waiting_for(n_ended, n_left, n_rows)):
                break
            tokens = _prompt_tokens(sequence, n if n <= n_most and not chunks else n_room, decoding)
            if not tokens:
                break
            chunks.append(Chunk(sequence, tokens, len(sequence.prompt) - n, len(tokens) == n))
            n_room -= len(tokens)
            n_ended += len(tokens) == n
        return chunks

    def _urgency(self, sequence: Sequence, now_ns: int) -> float:
        """Prompt tokens left, less a part of those that could have been computed while it waited; smallest goes first.

        So short prompts overtake long ones, until these have waited for 1/AGEING times what they take to compute.
        """
        waited_s = (now_ns - sequence.arrived_ns) / 1e9
        return sequence.n_prefill_left - AGEING * waited_s * self.pace.costs.rate


def cells(chunks: Iterable[Chunk]) -> int:
    """Cells that the chunks' tokens attend to, as ``StepCosts`` counts them."""
    return sum(len(chunk.tokens) * (2 * chunk.start + len(chunk.tokens) + 1) // 2 for chunk in chunks)


_by_slot = attrgetter("slot")


def _prompt_tokens(sequence: Sequence, n_most: int, decoding: set[int]) -> list[int]:
    """The next at most ``n_most`` tokens of a prompt; a part that leaves some for later fills the kernels evenly.

    Of a partitioned cache, neighbouring slots are computed together as far as the shorter one goes: next to a
    decoding slot the part's first token goes with the decodes, so it takes one more to fill what is left.
    """
    assert sequence.slot is not None
    start, n = len(sequence.slot.tokens), sequence.n_prefill_left
    if n > n_most:
        index = sequence.slot.index
        n_beside = int(not decoding.isdisjoint((index - 1, index + 1)))
        n = max(0, (n_most - n_beside) // KERNEL_TOKENS * KERNEL_TOKENS)
        n += n_beside if n else 0
    return sequence.prompt[start : start + n]
