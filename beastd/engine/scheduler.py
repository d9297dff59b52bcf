"""Which sequences are in the next step, and with how many tokens each. Pure: time comes in as an argument.

A step is one ``llama_decode``: first the next token of every decoding sequence, then chunks of prompts within
a token budget (the idea of vLLM's ``v1/core/sched``: prefill and decode share one budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from beastd.engine.kvcache import KVCache, renamed
from beastd.engine.sequence import Sequence
from beastd.engine.turns import Turns

MIN_STEP_TOKENS = 32
"""Below this a prefill chunk costs almost as much as this many tokens: matrix kernels are not yet filled."""


AGEING = 0.1
"""How much of its waiting counts for a prompt against shorter ones that came later."""
SET_BONUS = 800
"""Prompt tokens by which a waiting sequence goes before others when its set of LoRA adapters runs already: alone in
its set, each token of its answer would cost a step of its own."""
KERNEL_TOKENS = 16
"""llama.cpp's matrix kernels take this many tokens at a time; what is left over costs as much as a full set."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens of one sequence in one step, from position ``start`` of its slot."""

    sequence: Sequence
    tokens: list[int]
    start: int
    wants_logits: bool
    n_drafted: int = 0
    """Of the tokens, the last ones, which are only proposed: each has its logits, as the one before them."""

    @property
    def n_outputs(self) -> int:
        """Rows of logits: those of its last tokens."""
        return 1 + self.n_drafted if self.wants_logits else 0

    @property
    def slot(self) -> int:
        """llama.cpp's sequence id."""
        assert self.sequence.slot is not None
        return self.sequence.slot.index

    @property
    def is_prefill(self) -> bool:
        """Prompt tokens, not an answer's last one."""
        return not self.sequence.is_decoding

    @property
    def can_draft(self) -> bool:
        """An answer's last token, which proposed ones may follow."""
        return self.sequence.is_decoding and self.sequence.speculative != "off"


SHORT_TOKENS = 64
"""A whole prompt of so few tokens is answered by a short step: parts of longer prompts wait for the next one."""


class StepBudget:
    """How many tokens a step may hold so that it stalls the streams for about ``target_s`` at most.

    Learns the machine's prefill rate (tokens/s) from measured steps.
    """

    def __init__(self, target_s: float, n_batch: int, rate: float) -> None:
        self.target_s = target_s
        self._n_batch = n_batch
        self.rate = rate

    @property
    def n_tokens(self) -> int:
        """Tokens for the next step, decodes included."""
        return self.n_tokens_among(1)

    def n_tokens_among(self, n_sets: int) -> int:
        """Tokens for the next step when so many adapter sets take turns: a step each shall not take longer than one."""
        return int(max(MIN_STEP_TOKENS, min(self._n_batch, self.rate * self.target_s / n_sets)))

    def observe(self, n_tokens: int, step_s: float) -> None:
        """Take note of a step that held prompt tokens; small ones say nothing of the rate."""
        if n_tokens >= MIN_STEP_TOKENS and step_s > 0:
            self.rate += 0.2 * (n_tokens / step_s - self.rate)


class Scheduler:
    """Owns the waiting and running sequences of one engine."""

    def __init__(self, cache: KVCache, budget: StepBudget) -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.cache = cache
        self.budget = budget
        self._turns = Turns(budget.target_s)

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
            chunks += self._prompt_chunks(prompts, chunks, self.budget.n_tokens_among(len(sets)), now_ns)
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

    def _prompt_chunks(self, prompts: list[Sequence], decodes: list[Chunk], n_tokens: int, now_ns: int) -> list[Chunk]:
        decoding = {chunk.slot for chunk in decodes}
        chunks: list[Chunk] = []
        n_left = max(KERNEL_TOKENS + 1, n_tokens - len(decodes))  # streams never starve prompts
        has_short = False
        for sequence in sorted(prompts, key=lambda sequence: self._urgency(sequence, now_ns)):
            tokens = _prompt_tokens(sequence, n_left, decoding)
            is_whole = len(tokens) == sequence.n_prefill_left
            if not tokens or (has_short and not is_whole):
                break
            n_done = len(sequence.prompt) - sequence.n_prefill_left
            chunks.append(Chunk(sequence, tokens, n_done, is_whole))
            n_left -= len(tokens)
            has_short |= is_whole and n_done == sequence.n_cached and len(tokens) <= SHORT_TOKENS
        return chunks

    def _urgency(self, sequence: Sequence, now_ns: int) -> float:
        """Prompt tokens left, less a part of those that could have been computed while it waited; smallest goes first.

        So short prompts overtake long ones, until these have waited for 1/AGEING times what they take to compute.
        """
        waited_s = (now_ns - sequence.arrived_ns) / 1e9
        return sequence.n_prefill_left - AGEING * waited_s * self.budget.rate


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
