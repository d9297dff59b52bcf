"""Changes what a worker is, between two steps: its variant, its context, asleep or awake; its sequences go on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

from beastd import ipc
from beastd.engine.assembly import new_cache
from beastd.engine.chunks import Chunk
from beastd.engine.intake import Intake
from beastd.engine.kvstate import State
from beastd.engine.llama import Llama
from beastd.engine.memory import give_back, held
from beastd.engine.prefixes import Slot
from beastd.engine.scheduler import Scheduler
from beastd.engine.sequence import Sequence
from beastd.errors import BeastError, Conflict, OutOfMemory

MAX_IDLE_BYTES = 256 * 2**20
"""KV of ended sequences that is carried over: what came last, as far as it fits."""


@dataclass(frozen=True, slots=True)
class _Saved:
    """The KV of a slot, less what it shares with one that was saved before."""

    source: Slot | None
    n_shared: int
    state: State


class Companion(Protocol):
    """What drafts for the model, with a context of its own."""

    def open(self, load: ipc.Load) -> None:
        """Make the context anew, as the model's is now. Raises ``LoadFailed``, ``OutOfMemory``."""

    def close(self) -> None:
        """Give back its memory, if there is any; before the model's context is freed."""

    def follow(self, chunks: Items[Chunk]) -> None:
        """The model has computed this step. Never raises."""

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """What it takes besides the model, as ``Llama.gpu_bytes``."""


class Shape:
    """What the worker is now. Old and new weights are never in memory together."""

    def __init__(self, llama: Llama, intake: Intake, scheduler: Scheduler, draft: Companion | None = None) -> None:
        self._llama = llama
        self._intake = intake
        self._scheduler = scheduler
        self._draft = draft
        self.is_asleep = False

    @property
    def ready(self) -> ipc.Ready:
        """What the daemon is told of it."""
        memory = held()
        return ipc.Ready(
            n_ctx=self._llama.n_ctx,
            n_parallel=self._llama.n_parallel,
            n_threads=self._llama.n_threads,
            resident_bytes=memory.resident_bytes,
            anon_bytes=memory.anon_bytes,
            gpu_bytes=dict(Counter(self._llama.gpu_bytes) + Counter(self._draft.gpu_bytes if self._draft else {})),
            can_insert=self._llama.fill_in_middle is not None,
            can_think=self._intake.template.knows_thinking,
        )

    def become(self, order: ipc.Reshape, live: Collection[Sequence]) -> ipc.Reshaped:
        """Take another shape, or, when that cannot be had, the old one again; ``live`` are carried over.

        Raises ``BeastError`` when the old one cannot be had either: then there is nothing left to compute with.
        """
        if failure := _objection(order, live):
            return ipc.Reshaped(ready=self.ready, stall_s=0.0, failure=failure)
        start_s = time.monotonic()
        before, was_asleep = self._llama.load, self.is_asleep
        try:
            states = {} if order.is_asleep or was_asleep else self._save(in_parts=_shares_cells(order.load))
        except MemoryError:
            failure = ipc.Failure(OutOfMemory.code, f"no memory to carry over the answers of {before.label}; it stays")
            return ipc.Reshaped(ready=self.ready, stall_s=time.monotonic() - start_s, failure=failure)
        try:
            self._open(order.load, is_asleep=order.is_asleep)
        except BeastError as error:
            failure = ipc.Failure(error.code, error.message)
            self._open(before, is_asleep=was_asleep)
        self._carry_over(states, live)
        give_back()
        return ipc.Reshaped(ready=self.ready, stall_s=time.monotonic() - start_s, failure=failure)

    def _open(self, load: ipc.Load, *, is_asleep: bool) -> None:
        if self._draft:
            self._draft.close()
        self._llama.close(keeps_model=_has_same_weights(self._llama.load, load))
        self._llama.open(load, is_asleep=is_asleep)
        if self._draft and not is_asleep:
            self._draft.open(load)
        self._intake.renew(load.template)
        self.is_asleep = is_asleep
        if not is_asleep and self._scheduler.is_idle:  # else the next step does it, and nobody has to wait
            self._llama.touch()

    def _save(self, *, in_parts: bool) -> dict[Slot, _Saved]:
        """The KV of every running sequence, and of ended ones as far as there is room.

        ``in_parts``: what they share only once, which a context where each has its own cells could not take.
        """
        cache, saved = self._scheduler.cache, dict[Slot, _Saved]()
        n_left = MAX_IDLE_BYTES
        for slot in sorted(cache.filled, key=lambda slot: (slot.is_busy, slot.last_used), reverse=True):
            source, n_shared = cache.sharer(slot, saved if in_parts else ())
            if not slot.is_busy:
                n_left -= self._llama.state_bytes(slot.index) * (len(slot.tokens) - n_shared) // len(slot.tokens)
            if n_left < 0:
                break
            saved[slot] = _Saved(source, n_shared, self._llama.save(slot.index, n_shared))
        return saved

    def _carry_over(self, saved: dict[Slot, _Saved], live: Collection[Sequence]) -> None:
        """Fill the slots again, and bind the sequences to what they now run on."""
        scheduler, settings = self._scheduler, self._llama.load.settings
        cache = new_cache(self._llama, scheduler.cache.cells)
        slots = scheduler.cache.slots
        scheduler.renew(cache, self._llama.n_sequences)
        held = cache.adopt(slots)
        scheduler.pace.renew(settings.step_ms / 1e3, self._llama.n_batch)
        for slot, state in saved.items():
            if slot in held:
                self._restore(slot, held[slot], state)
        for sequence in live:
            if sequence.slot and not sequence.slot.tokens:
                sequence.begin_again()
            if sequence.grammar:
                sequence.grammar.renew(self._llama.vocab, sequence.said)
            sequence.switch(self._llama.load.variant)

    def _restore(self, slot: Slot, tokens: list[int], saved: _Saved) -> None:
        """Fill a slot with what was saved of it, or leave it empty."""
        cache, n = self._scheduler.cache, saved.n_shared
        if saved.source and n:
            if len(saved.source.tokens) < n:
                return  # that could not be restored
            self._llama.share(saved.source.index, slot.index, n)
            cache.place(slot, saved.source, n)
        if len(tokens) - n <= cache.n_free and self._llama.restore(slot.index, saved.state, n, len(tokens)):
            cache.extend(slot, tokens[n:])
        else:
            cache.cut(slot, 0)


def _objection(order: ipc.Reshape, live: Collection[Sequence]) -> ipc.Failure | None:
    """Why the requests do not allow it."""
    label, n_ctx = order.load.label, order.load.settings.n_ctx
    if live and order.is_asleep:
        message = f"{label} cannot sleep while it answers {len(live)} requests; wait for their end"
        return ipc.Failure(Conflict.code, message)
    if (n_most := max((sequence.n_ctx for sequence in live), default=0)) > n_ctx:
        message = f"{label} has a request that may take {n_most} tokens, more than {n_ctx}; wait for its end"
        return ipc.Failure(Conflict.code, message)
    return None


def _shares_cells(load: ipc.Load) -> bool:
    """Of plain models, whose cells are shared now; the others never share any."""
    return load.settings.kv_layout == "unified"


def _has_same_weights(one: ipc.Load, other: ipc.Load) -> bool:
    return (one.paths, one.settings.n_gpu_layers, one.settings.mmap, one.settings.mtp) == (
        other.paths,
        other.settings.n_gpu_layers,
        other.settings.mmap,
        other.settings.mtp,
    )
