"""Which sequences run, and which are in the next step. Pure: time comes in as an argument.

A step is one ``llama_decode``: the next token of every decoding sequence, and chunks of prompts (``chunks``).
"""

from __future__ import annotations

from typing import Protocol

from beastd.engine.adapters import AdapterSet, renamed
from beastd.engine.chunks import Chunk, by_slot, n_attended, prompt_chunks
from beastd.engine.kvcache import KVCache
from beastd.engine.leaders import Leaders
from beastd.engine.pace import Pace
from beastd.engine.policies import Order
from beastd.engine.prefixes import Slot
from beastd.engine.sequence import Sequence
from beastd.engine.turns import Turns

SET_BONUS = 800
"""Prompt tokens by which a waiting sequence goes before others when its set of LoRA adapters runs already: alone in
its set, each token of its answer would cost a step of its own."""
ANSWER_CELLS = 64
"""Room for so much of its answer a sequence must find beside the others: else it would soon have to be paused."""


class Fetch(Protocol):
    """Brings KV back that was kept elsewhere."""

    def is_reading(self, sequence: Sequence, n_there: int, pace: Pace) -> bool:
        """Whether KV that goes further than ``n_there`` tokens is on its way to the sequence; it had better wait.

        Not for longer than computing it would take, by the pace.
        """

    def into(self, sequence: Sequence, cache: KVCache) -> int:
        """Add what there is to the sequence's slot; returns the number of tokens."""


class Scheduler:
    """Owns the waiting and running sequences of one engine."""

    def __init__(self, cache: KVCache, pace: Pace, order: Order, n_most: int, fetch: Fetch) -> None:
        """``n_most``: sequences that may run at once."""
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.cache = cache
        self.pace = pace
        self.order = order
        self.n_paused = 0
        """How often a sequence lost its place to others."""
        self._n_most = n_most
        self._fetch = fetch
        self._leaders = Leaders()
        self._turns = Turns(pace.target_s)

    @property
    def _n_places(self) -> int:
        return min(self._n_most, len(self.cache.slots))

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
            self._leaders.forget(sequence)
            return
        self._free(sequence, sequence.slot)

    def _free(self, sequence: Sequence, slot: Slot) -> None:
        self.running.remove(sequence)
        self.cache.release(slot)
        sequence.slot = None  # who follows it waits no longer

    def renew(self, cache: KVCache, n_most: int) -> None:
        """Run in this cache from now on, which is empty; sequences beyond ``n_most``, the last to come, wait again."""
        for sequence in self.running[n_most:]:
            self.pause(sequence)
        self.cache, self._n_most = cache, n_most

    def pause(self, sequence: Sequence) -> None:
        """A running sequence waits again; what it has computed stays as long as nobody needs its cells.

        When it is admitted again it finds that, or what was kept of it elsewhere, like any other prefix.
        """
        assert sequence.slot is not None
        self.n_paused += 1
        self._free(sequence, sequence.slot)
        sequence.begin_again()
        self.add(sequence)

    def admit(self, now_ns: int) -> list[Sequence]:
        """Give slots to waiting sequences, most urgent first; returns those that got one.

        A sequence whose prompt another one is about to compute, at its beginning, waits for that.
        """
        admitted: list[Sequence] = []
        for sequence in self.queue(now_ns) if self.waiting else ():
            peers = self._peers(sequence, now_ns) if self.cache.cells.shares_beginnings else []
            if self._leaders.is_led(sequence, peers):
                continue
            if not self._may_have_place(sequence):
                break
            sharable = self.cache.sharable(sequence.prompt, sequence.adapters)
            n_shared = max(sharable.values(), default=0)
            if self._leaders.can_follow(sequence, peers, n_shared):
                continue
            if self._fetch.is_reading(sequence, n_shared, self.pace):
                continue
            victims = self._victims_for(sequence, sharable)
            if victims is None:
                break  # else small ones would keep a large one out for ever
            for victim in victims:
                self.pause(victim)
            self._start(sequence)
            admitted.append(sequence)
        return admitted

    def _peers(self, sequence: Sequence, now_ns: int) -> list[Sequence]:
        """Running sequences with a prompt to compute that it may wait for: none whose turn may be long in coming.

        That is of one that it outranks, and of one after others that it would itself go before.
        """
        prompts = [one for one in self.running if not one.answer and one.adapters == sequence.adapters]
        if not prompts:
            return []
        own, ranks = self.order.rank(sequence, now_ns), [self.order.rank(one, now_ns) for one in prompts]
        last = min((rank for rank in ranks if rank > own), default=own)
        near = [one for one, rank in zip(prompts, ranks, strict=True) if rank <= last]
        return [one for one in near if not self.order.outranks(sequence, one)]

    def _may_have_place(self, sequence: Sequence) -> bool:
        """Whether there is a place, or one whose sequence it outranks: a look that costs nothing."""
        if len(self.running) < self._n_places:
            return True
        return any(self.order.outranks(sequence, one) for one in self.running)

    def _victims_for(self, sequence: Sequence, sharable: dict[Slot, int]) -> list[Sequence] | None:
        """Running sequences that are to be paused to have room for it, which outranks them; None if that will not do.

        ``sharable``: slot → how much of its prompt it can share.
        """
        staying, victims = list(self.running), list[Sequence]()
        while not self._has_room(sequence, sharable, staying):
            victim = self.order.victim(staying)
            if not self.order.outranks(sequence, victim):
                return None
            staying.remove(victim)
            victims.append(victim)
        return victims

    def _has_room(self, sequence: Sequence, sharable: dict[Slot, int], others: list[Sequence]) -> bool:
        """Whether it may run beside these: a slot, and cells for its prompt and the beginning of its answer.

        What it shares with a slot that nobody runs in has to be found room for all the same.
        """
        if len(others) >= self._n_places:
            return False
        if not others:
            return True
        slots = [one.slot for one in others if one.slot]
        n_promised = sum(max(0, one.n_prefill_left) for one in others) + len(others)
        n_own = sequence.n_prefill_left - max((sharable.get(slot, 0) for slot in slots), default=0)
        n_needed = n_own + min(ANSWER_CELLS, sequence.n_predict)
        return n_needed + n_promised <= self.cache.n_beside(slots)

    def _start(self, sequence: Sequence) -> None:
        found = self.cache.try_acquire(sequence.prompt, sequence.adapters)
        assert found is not None
        sequence.slot, n_found = found
        sequence.begin(n_found + self._fetch.into(sequence, self.cache))
        self.waiting.remove(sequence)
        self.running.append(sequence)
        self.order.on_admit(sequence)

    def queue(self, now_ns: int) -> list[Sequence]:
        """The waiting sequences as slots would go to them now, by the policy; sets that run have a bonus."""
        sets = {sequence.adapters for sequence in self.running}
        bonus_s = self.pace.work_s(SET_BONUS, 0)
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
        chunks = self._decodes(turn)
        prompts = [sequence for sequence in self.running if not sequence.answer and sequence.adapters == turn]
        if prompts:
            prompts.sort(key=lambda sequence: self.order.rank(sequence, now_ns))
            chunks += prompt_chunks(prompts, chunks, self.cache, self.pace, n_sets=len(sets))
        if not chunks:
            if any(one.adapters == turn for one in self.running):  # else all of the set were paused
                self._pause_one()  # no cell for any prompt, and no answer that will end and free some
            return self.next_batch(now_ns)
        chunks.sort(key=by_slot)
        return chunks

    def _decodes(self, turn: AdapterSet) -> list[Chunk]:
        """The next token of every decoding sequence of this set; where cells lack for them, some are paused."""
        while True:
            decoding = [it for it in self.running if it.answer and it.adapters == turn]
            if self.cache.make_room(len(decoding)):
                return [Chunk(it, it.answer[-1:], len(it.slot.tokens), True) for it in decoding if it.slot]
            self._pause_one()

    def _pause_one(self) -> None:
        """Cells lack: one sequence waits again. One alone always has room."""
        assert len(self.running) > 1, "a sequence that runs alone has all cells"
        self.pause(self.order.victim(self.running))

    def on_computed(self, chunks: list[Chunk], step_s: float, *, is_one_pass: bool) -> None:
        """A step has computed these; told before their tokens are taken note of. ``is_one_pass``: see ``Pace``."""
        n_prefill = sum(len(chunk.tokens) for chunk in chunks if chunk.is_prefill)
        rows = [chunk for chunk in chunks if not chunk.is_prefill]
        n_rows = sum(len(chunk.tokens) for chunk in rows)
        self.pace.observe(n_rows, n_prefill, n_attended(rows, self.cache), step_s, is_one_pass=is_one_pass)
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
