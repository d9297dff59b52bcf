"""Which sequences are in the next step, and with how many tokens each. Pure: time comes in as an argument.

A step is one ``llama_decode``: first the next token of every decoding sequence, then chunks of prompts within
a token budget (the idea of vLLM's ``v1/core/sched``: prefill and decode share one budget).
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter

from beastd.engine.kvcache import KVCache, Slot, renamed
from beastd.engine.policies import ORDERS
from beastd.engine.sequence import Sequence
from beastd.engine.turns import Turns

MIN_STEP_TOKENS = 32
"""Below this a prefill chunk costs almost as much as this many tokens: matrix kernels are not yet filled."""
SET_BONUS = 800
"""Prompt tokens by which a waiting sequence goes before others when its set of LoRA adapters runs already: alone in
its set, each token of its answer would cost a step of its own."""
ANSWER_TOKENS = 5
"""Prompt tokens that take as long as one of an answer, until steps have been measured."""
KERNEL_TOKENS = 16
"""llama.cpp's matrix kernels take this many tokens at a time; what is left over costs as much as a full set."""


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


SHORT_TOKENS = 64
"""A whole prompt of so few tokens is answered by a short step: parts of longer prompts wait for the next one."""


class StepBudget:
    """How many tokens a step may hold so that it stalls the streams for about ``target_s`` at most.

    Learns the machine's prefill rate (tokens/s), and what an answer's token takes, from measured steps.
    """

    def __init__(self, target_s: float, n_batch: int, rate: float) -> None:
        self.target_s = target_s
        self._n_batch = n_batch
        self.rate = rate
        self._answer_s = ANSWER_TOKENS / rate

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

    def observe_answers(self, n_tokens: int, step_s: float) -> None:
        """Take note of a step that held tokens of answers only."""
        self._answer_s += 0.2 * (step_s / n_tokens - self._answer_s)

    def work_s(self, n_prompt: int, n_answer: int) -> float:
        """Seconds of the machine that so many prompt and answer tokens take, among others."""
        return n_prompt / self.rate + n_answer * self._answer_s


class Scheduler:
    """Owns the waiting and running sequences of one engine."""

    def __init__(self, cache: KVCache, budget: StepBudget, policy: str = "mix") -> None:
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.cache = cache
        self.budget = budget
        self.order = ORDERS[policy](budget)
        self._turns = Turns(budget.target_s)

    @property
    def is_idle(self) -> bool:
        """Nothing to compute."""
        return not self.waiting and not self.running

    def add(self, sequence: Sequence) -> None:
        """A new request: it waits for a slot."""
        self.waiting.append(sequence)
        self.order.on_wait(sequence)

    def remove(self, sequence: Sequence) -> None:
        """The sequence has ended, for any reason: its slot is free for the next step."""
        self.order.on_end(sequence)
        if sequence.slot is None:
            self.waiting.remove(sequence)
            return
        self._free(sequence, sequence.slot)

    def _free(self, sequence: Sequence, slot: Slot) -> None:
        self.running.remove(sequence)
        self.cache.release(slot)

    def resize(self, n_slots: int, *, run_bonus: int = 0) -> None:
        """Have so many slots from now on; sequences beyond that number, the last to come, wait again."""
        for sequence in self.running[n_slots:]:
            assert sequence.slot is not None
            self._free(sequence, sequence.slot)
            sequence.slot = None
            sequence.begin_again()
            self.add(sequence)
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
            self.order.on_admit(sequence)
            admitted.append(sequence)
        return admitted

    def queue(self, now_ns: int) -> list[Sequence]:
        """The waiting sequences as slots would go to them now, by the policy; sets that run have a bonus."""
        sets = {sequence.adapters for sequence in self.running}
        bonus_s = self.budget.work_s(SET_BONUS, 0)
        return sorted(
            self.waiting, key=lambda one: self.order.rank(one, now_ns, bonus_s if one.adapters in sets else 0.0)
        )

    def next_batch(self, now_ns: int) -> list[Chunk]:
        """The next step, by slot: every decoding sequence, and prompt chunks in the policy's order.

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

    def on_computed(self, chunks: list[Chunk]) -> None:
        """A step has computed these; told before their tokens are taken note of."""
        for chunk in chunks:
            n = len(chunk.tokens)
            self.order.on_computed(chunk.sequence, *((n, 0) if chunk.is_prefill else (0, n)))

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
        for sequence in sorted(prompts, key=lambda sequence: self.order.rank(sequence, now_ns)):
            tokens = _prompt_tokens(sequence, n_left, decoding)
            is_whole = len(tokens) == sequence.n_prefill_left
            if not tokens or (has_short and not is_whole):
                break
            n_done = len(sequence.prompt) - sequence.n_prefill_left
            chunks.append(Chunk(sequence, tokens, n_done, is_whole))
            n_left -= len(tokens)
            has_short |= is_whole and n_done == sequence.n_cached and len(tokens) <= SHORT_TOKENS
        return chunks


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
