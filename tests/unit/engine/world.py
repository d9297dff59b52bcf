"""A scheduler's world without a model: cells that know what was computed in them, and answers that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from itertools import accumulate
from random import Random
from typing import Any, cast
from zlib import crc32

from beastd.engine.adapters import AdapterSet
from beastd.engine.chunks import Chunk
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.kvcache import KVCache
from beastd.engine.pace import Pace
from beastd.engine.policies import ORDERS
from beastd.engine.prefixes import Slot
from beastd.engine.sampler import Sampler
from beastd.engine.scheduler import Scheduler
from beastd.engine.sequence import Sequence
from tests.unit.engine.fakes import HeldCells

STEP_NS = 50_000_000
N_CTX = 160


@dataclass(frozen=True, slots=True, eq=False)
class Cell:
    """One token's keys and values: they follow from the adapters and all tokens up to it."""

    kv: int


def kv_of(before: int, token: int) -> int:
    return hash((before, token))


def first_kv(adapters: AdapterSet) -> int:
    return crc32(repr(adapters).encode())


def kvs(adapters: AdapterSet, tokens: Iterable[int]) -> list[int]:
    return list(accumulate(tokens, kv_of, initial=first_kv(adapters)))[1:]


def next_token(kv: int) -> int:
    """What the model says after a token; few different ones, so that answers have beginnings in common too."""
    return 50 + kv % 3


def said(adapters: AdapterSet, prompt: list[int], n: int) -> list[int]:
    """The answer of a model that nobody disturbs."""
    kv, answer = kvs(adapters, prompt)[-1], list[int]()
    for _ in range(n):
        answer.append(next_token(kv))
        kv = kv_of(kv, answer[-1])
    return answer


class World(HeldCells[Cell]):
    """Cells as in llama.cpp, and what was kept of those that left: ``kvcache.Cells`` and ``scheduler.Fetch``."""

    def __init__(self, chance: Random, *, keeps: bool) -> None:
        super().__init__()
        self.kept: dict[tuple[AdapterSet, tuple[int, ...]], tuple[int, list[int]]] = {}
        self.n_restored = 0
        self._reading: dict[tuple[AdapterSet, tuple[int, ...]], int] = {}
        self._chance, self._keeps = chance, keeps

    @property
    def n_cells(self) -> int:
        """Cells that anything lies in."""
        return len({id(cell) for cells in self.held.values() for cell in cells})

    def can_share(self, slot: int, n: int) -> bool:
        return True

    def spill(self, slot: Slot, start: int) -> None:
        if self._keeps and self._chance.random() < 0.8:
            state = [cell.kv for cell in self.held[slot.index]]
            self.kept[slot.adapters, tuple(slot.tokens)] = start, state[start:]

    def is_reading(self, sequence: Sequence, n_there: int, pace: Pace) -> bool:
        """What was kept is read for some steps, now and then."""
        key = self._find(sequence, n_there)
        if key is None:
            return False
        n_left = self._reading.setdefault(key, self._chance.choice([0, 0, 3, 9]))
        self._reading[key] = max(0, n_left - 1)
        return n_left > 0

    def into(self, sequence: Sequence, cache: KVCache) -> int:
        """Restore piece by piece, each in cells of its own."""
        slot, n_restored = sequence.slot, 0
        assert slot is not None
        while key := self._find(sequence, len(slot.tokens)):
            start, state = self.kept[key]
            n_there, n = len(slot.tokens), self._n_usable(sequence, key)
            if not cache.make_room(len(state)):
                break
            self.held[slot.index] += [Cell(kv) for kv in state[n_there - start : n - start]]
            cache.extend(slot, sequence.prompt[n_there:n])
            n_restored += n - n_there
        self.n_restored += n_restored
        return n_restored

    def _find(self, sequence: Sequence, n_there: int) -> tuple[AdapterSet, tuple[int, ...]] | None:
        keys = (key for key, (start, _) in self.kept.items() if key[0] == sequence.adapters and start <= n_there)
        best = max(keys, key=lambda key: self._n_usable(sequence, key), default=None)
        return best if best and self._n_usable(sequence, best) > n_there else None

    @staticmethod
    def _n_usable(sequence: Sequence, key: tuple[AdapterSet, tuple[int, ...]]) -> int:
        n = 0
        for one, other in zip(key[1], sequence.prompt[:-1], strict=False):
            if one != other:
                break
            n += 1
        return n


def request(id_: int, prompt: list[int], n_predict: int, **fields: Any) -> Sequence:
    defaults = {"sampler": cast(Sampler, None), "detokenizer": Detokenizer([]), "n_ctx": N_CTX}
    return Sequence(id=id_, prompt=prompt, n_predict=n_predict, **{**defaults, **fields})


@dataclass
class Shop:
    """A scheduler at work: steps are computed here, and everything that must hold is looked at after each."""

    n_slots: int
    n_cells: int | None
    n_most: int
    policy: str = "mix"
    keeps: bool = False
    drafts: bool = False
    step_tokens: int = 64
    seed: int = 0
    answers: dict[int, list[int]] = field(default_factory=dict)
    n_prompt: int = 0
    """Prompt tokens computed."""
    now_ns: int = 0

    def __post_init__(self) -> None:
        self.chance = Random(self.seed)
        self.world = World(self.chance, keeps=self.keeps)
        self.cache = KVCache(self.n_slots, self.world, n_cells=self.n_cells)
        pace = Pace(1.0, self.step_tokens, self.step_tokens)
        self.rooms = Scheduler(self.cache, pace, ORDERS[self.policy](pace), self.n_most, self.world)
        self._asked: dict[int, tuple[AdapterSet, list[int]]] = {}
        self._n_idle = 0

    def add(self, sequence: Sequence) -> None:
        sequence.arrived_ns = self.now_ns
        self._asked[sequence.id] = sequence.adapters, list(sequence.prompt)
        self.rooms.add(sequence)

    def step(self) -> list[Chunk]:
        """Admit and compute, as the engine does."""
        self.now_ns += STEP_NS
        self.rooms.admit(self.now_ns)
        self.check()
        chunks = self.rooms.next_batch(self.now_ns)
        self._n_idle = 0 if chunks or self.rooms.is_idle else self._n_idle + 1
        assert self._n_idle < 12, "nothing is computed, though somebody waits"
        assert bool(chunks) == bool(self.rooms.running), "what runs can always go on"
        chunks = self._with_drafts(chunks) if self.drafts else chunks
        for chunk in chunks:
            self._compute(chunk)
        assert self.n_cells is None or self.world.n_cells <= self.n_cells, "more cells than there are"
        self.rooms.on_computed(chunks, 0.1, is_one_pass=True)
        for chunk in chunks:
            self._advance(chunk)
        self.check()
        return chunks

    def finish(self, n_most: int, before: Callable[[], object] = lambda: None) -> None:
        """Step until all is done."""
        for _ in range(n_most):
            before()
            if self.rooms.is_idle:
                return
            self.step()
        raise AssertionError(f"{len(self.rooms.waiting)} wait and {len(self.rooms.running)} run after {n_most} steps")

    def _with_drafts(self, chunks: list[Chunk]) -> list[Chunk]:
        n_room = min(self.step_tokens, self.cache.n_free) - sum(len(chunk.tokens) for chunk in chunks)
        found = []
        for chunk in chunks:
            n = min(self.chance.randint(0, 4), chunk.sequence.n_draftable, n_room) if chunk.can_draft else 0
            n = max(0, n)
            n_room -= n
            true = said(chunk.sequence.adapters, chunk.sequence.prompt + chunk.sequence.answer, n)
            draft = [token if self.chance.random() < 0.7 else 9 for token in true]
            found.append(replace(chunk, tokens=chunk.tokens + draft, n_drafted=n))
        return found

    def _compute(self, chunk: Chunk) -> None:
        sequence = chunk.sequence
        assert sequence.slot is not None
        cells = self.world.held[sequence.slot.index]
        assert len(cells) == chunk.start == len(sequence.slot.tokens)
        if sequence.answer:
            assert sequence.slot.tokens + chunk.tokens[:1] == sequence.prompt + sequence.answer
        else:
            self.n_prompt += len(chunk.tokens)
            n_done = chunk.start + len(chunk.tokens)
            assert sequence.prompt[:n_done] == sequence.slot.tokens + chunk.tokens
            assert chunk.wants_logits is (n_done == len(sequence.prompt))
        kv = cells[-1].kv if cells else first_kv(sequence.adapters)
        for token in chunk.tokens:
            kv = kv_of(kv, token)
            cells.append(Cell(kv))

    def _advance(self, chunk: Chunk) -> None:
        sequence, slot = chunk.sequence, chunk.sequence.slot
        assert slot is not None
        n_sure = len(chunk.tokens) - chunk.n_drafted
        self.cache.extend(slot, chunk.tokens[:n_sure])
        cells = self.world.held[slot.index]
        for token in [*chunk.tokens[n_sure:], None] if chunk.wants_logits else []:
            if not sequence.is_full:
                sequence.answer.append(next_token(cells[len(slot.tokens) - 1].kv))
            if sequence.is_full or sequence.answer[-1] != token:
                break
            self.cache.extend(slot, [token])
        del cells[len(slot.tokens) :]
        if chunk.wants_logits and sequence.is_full:
            self.end(sequence)

    def end(self, sequence: Sequence) -> None:
        """Its whole answer is right, and was said once."""
        adapters, prompt = self._asked[sequence.id]
        n = min(sequence.n_predict, sequence.n_ctx - len(prompt))
        assert sequence.prompt + sequence.answer == prompt + said(adapters, prompt, n)
        assert sequence.n_said == n
        assert sequence.said == said(adapters, prompt, n)
        self.answers[sequence.id] = sequence.said
        self.rooms.remove(sequence)

    def check(self) -> None:
        """Assert what must hold between any two steps."""
        self.cache.check_integrity()
        assert len(self.rooms.running) <= self.n_most
        slots = [one.slot for one in self.rooms.running]
        assert len({id(slot) for slot in slots}) == len(slots)
        assert {slot.index for slot in slots if slot} == {slot.index for slot in self.cache.slots if slot.is_busy}
        assert not any(one.slot for one in self.rooms.waiting)
        for one in self.rooms.running:
            assert one.slot is not None
            assert one.slot.adapters == one.adapters
            n = len(one.slot.tokens)
            assert one.slot.tokens == (one.prompt + one.answer)[:n]
        for slot in self.cache.slots:
            assert [cell.kv for cell in self.world.held[slot.index]] == kvs(slot.adapters, slot.tokens)
        if self.n_cells is not None:
            assert self.world.n_cells == self.cache.n_tokens
