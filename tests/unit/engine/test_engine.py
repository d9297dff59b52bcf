"""The engine's loop with a model that is a table: one request's fault ends that request, and arrivals stall nobody."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from beastd import ipc
from beastd.contract import Priority
from beastd.engine import engine as engine_module
from beastd.engine.adapters import AdapterSet, Attached, adapter_set
from beastd.engine.chunks import Chunk
from beastd.engine.detokenizer import Detokenizer
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.kvcache import KVCache
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.sampler import Sampled, Sampler
from beastd.engine.sequence import Sequence
from beastd.engine.tiers import Tiers
from beastd.errors import BadRequest
from beastd.fleet.worker import LEAVE_S
from tests.unit.engine.fakes import FakeCells, scheduler_of

N_SLOTS = 4


class Table:
    """As much of a Llama as the loop uses: every token is as likely, and its text is a letter."""

    failure: Exception | None = None
    is_split = False

    def __init__(self) -> None:
        self.attached = Attached(str)
        self.cells = FakeCells()

    def use_adapters(self, adapters: AdapterSet) -> None:
        for path, _ in adapters:
            self.attached.handle(path)

    def detach(self, path: str, name: str) -> bool:
        return self.attached.detach(path, name)

    def free_adapters(self, in_use: set[str]) -> None:
        for path in self.attached.leaving(in_use):
            self.attached.pop(path)

    @property
    def n_adapters(self) -> int:
        return len(self.attached)

    def piece(self, token: int) -> bytes:
        return b"a"

    def decode(self, chunks: list[Chunk]) -> Any:
        if self.failure:
            raise self.failure
        for chunk in chunks:
            self.cells.held[chunk.slot] += chunk.tokens
        return np.zeros((sum(chunk.wants_logits for chunk in chunks), 8), np.float32)


class Draw:
    """As much of a sampler: always the same token, or a failure."""

    is_common = False

    def __init__(self, failure: Exception | None) -> None:
        self._failure = failure

    def sample(self, logits: object, n_top_logprobs: int | None) -> Sampled:
        if self._failure:
            raise self._failure
        return Sampled(7)


class Door:
    """As much of an intake: notes whom it took in; a request fails at its sampler where the test says so."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.faulty: dict[int, Exception] = {}

    def sequence(self, submit: ipc.Submit) -> Sequence:
        self.taken.append(submit.id)
        if submit.prompt.raw == "refuse me":
            raise BadRequest("refused")
        return Sequence(
            id=submit.id,
            prompt=[submit.id, 1, 2],
            sampler=cast(Sampler, Draw(self.faulty.get(submit.id))),
            detokenizer=Detokenizer([]),
            n_ctx=100,
            n_predict=submit.sampling.num_predict,
            adapters=adapter_set((adapter.path, adapter.scale) for adapter in submit.adapters),
        )


class Forge:
    """An engine whose steps the test takes."""

    def __init__(self) -> None:
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.table, self.door = Table(), Door()
        self.scheduler = scheduler_of(KVCache(N_SLOTS, self.table.cells), Pace(1.0, 512, 512))
        self.text: dict[int, str] = {}
        self.endings: dict[int, str] = {}
        self.told: list[ipc.FromWorker] = []
        self.positions: dict[int, list[int]] = {}
        outbox = Outbox(self._hear)
        self.tiers = Tiers(ipc.KvTiers(folder="", memory_bytes=10**6, disk_bytes=0), "ab" * 20)
        self.engine = Engine(
            cast(Llama, self.table), cast(Intake, self.door), self.scheduler, self.inbox, outbox, tiers=self.tiers
        )

    def _hear(self, step: ipc.FromWorker) -> None:
        if not isinstance(step, ipc.Step):
            self.told.append(step)
            return
        for delta in step.deltas:
            assert delta.id not in self.endings, "nothing follows an ending"
            if delta.n_ahead is not None:
                self.positions.setdefault(delta.id, []).append(delta.n_ahead)
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final or delta.error:
                self.endings[delta.id] = delta.final.reason if delta.final else cast(ipc.Failure, delta.error).code

    def submit(self, *ids: int, n: int = 4, raw: str = "", adapter: str = "", priority: Priority = "normal") -> None:
        adapters = [ipc.Adapter(adapter)] if adapter else []
        for id_ in ids:
            prompt, sampling = ipc.Prompt(raw=raw), ipc.Sampling(num_predict=n)
            order = ipc.Submit(id=id_, prompt=prompt, sampling=sampling, adapters=adapters, priority=priority)
            self.inbox.put(order)

    def finish(self, *ids: int) -> None:
        """Step until these have ended."""
        while not self.endings.keys() >= set(ids):
            if self.scheduler.is_idle and self.inbox.empty():
                self.inbox.put(ipc.Cancel(0))  # nothing to do: else the step would wait
            self.engine.step()


@pytest.fixture
def forge() -> Forge:
    return Forge()


@pytest.fixture
def slow_intake(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request uses up all the time a step has for them."""
    monkeypatch.setattr(engine_module, "INTAKE_NS", 0)


# --- faults ---


def test_a_bug_in_sampling_ends_its_request_alone(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    """Its trace is in the worker's log."""
    forge.door.faulty[2] = ZeroDivisionError("oops")
    forge.submit(1, 2, 3)
    forge.finish(1, 2, 3)
    assert forge.endings == {1: "length", 2: "internal", 3: "length"}
    assert "ZeroDivisionError: oops" in capsys.readouterr().err
    assert not any(slot.is_busy for slot in forge.scheduler.cache.slots)


def test_a_beast_error_in_sampling_keeps_its_code(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    forge.door.faulty[2] = BadRequest("no token is left")
    forge.submit(1, 2)
    forge.finish(1, 2)
    assert forge.endings == {1: "length", 2: "bad_request"}
    assert capsys.readouterr().err == ""


def test_a_bug_in_a_step_ends_its_requests_and_the_engine_goes_on(
    forge: Forge, capsys: pytest.CaptureFixture[str]
) -> None:
    forge.table.failure = MemoryError("no room")
    forge.submit(1, 2)
    forge.finish(1, 2)
    forge.table.failure = None
    forge.submit(3)
    forge.finish(3)
    assert forge.endings == {1: "internal", 2: "internal", 3: "length"}
    assert "MemoryError" in capsys.readouterr().err


def test_a_refused_request_ends_and_the_ones_behind_it_are_taken(forge: Forge, slow_intake: None) -> None:
    """Even where nothing else is there to step for."""
    forge.submit(1, raw="refuse me")
    forge.submit(2)
    forge.finish(1, 2)
    assert forge.endings == {1: "bad_request", 2: "length"}


# --- arrivals ---


def test_requests_that_take_long_to_take_in_come_one_a_step(forge: Forge, slow_intake: None) -> None:
    """So that the streams that run already go on in between; all come in the end."""
    forge.submit(1, n=50)
    forge.engine.step()
    forge.submit(2, 3, 4)
    for taken in ([1, 2], [1, 2, 3], [1, 2, 3, 4]):
        n_said = len(forge.text.get(1, ""))
        forge.engine.step()
        forge.engine._outbox.flush(0)
        assert forge.door.taken == taken
        assert len(forge.text[1]) > n_said
    forge.finish(1, 2, 3, 4)


def test_a_high_request_is_taken_in_before_low_ones_that_came_before_it(forge: Forge, slow_intake: None) -> None:
    """A burst of long prompts takes several steps to tokenize."""
    forge.submit(1, 2, priority="low")
    forge.submit(3)
    forge.submit(4, priority="high")
    forge.finish(1, 2, 3, 4)
    assert forge.door.taken == [4, 3, 1, 2]


def test_requests_that_take_no_time_come_together(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "INTAKE_NS", 10**12)
    forge.submit(1, 2, 3, 4)
    forge.engine.step()
    assert forge.door.taken == [1, 2, 3, 4]


def test_a_cancellation_overtakes_the_requests_that_wait(forge: Forge, slow_intake: None) -> None:
    """One that was not taken in yet never is; one that runs is dropped at once."""
    forge.submit(1, n=50)
    forge.engine.step()
    forge.submit(2, 3)
    forge.inbox.put(ipc.Cancel(3))
    forge.inbox.put(ipc.Cancel(1))
    forge.finish(2)
    assert forge.door.taken == [1, 2]
    assert forge.endings == {2: "length"}
    assert forge.scheduler.is_idle


# --- heartbeat ---


def test_a_ping_is_answered_while_it_works(forge: Forge, slow_intake: None) -> None:
    """Requests that were not taken in yet count as waiting."""
    forge.submit(1, n=50)
    forge.engine.step()
    forge.submit(2, 3)
    forge.inbox.put(ipc.Ping())
    forge.engine.step()
    (pong,) = forge.told
    assert isinstance(pong, ipc.Pong)
    stats = pong.stats
    assert (stats.n_running, stats.n_waiting, stats.n_kv_tokens) == (1, 2, 3)
    assert (stats.n_prompt, stats.n_cached, stats.n_answer, stats.n_steps) == (3, 0, 1, 1)


def test_a_ping_is_answered_when_there_is_nothing_to_do(forge: Forge) -> None:
    forge.inbox.put(ipc.Ping())
    forge.engine.step()
    assert forge.told


# --- positions and adapters ---


def test_requests_without_a_slot_are_told_how_many_are_ahead(forge: Forge) -> None:
    forge.submit(*range(1, N_SLOTS + 1), n=20)
    forge.engine.step()
    forge.submit(11, 12, 13)
    forge.finish(11, 12, 13)
    assert not forge.positions.keys() & set(range(1, N_SLOTS + 1))
    assert [forge.positions[id_][0] for id_ in (11, 12, 13)] == [0, 1, 2]


def test_detaching_ends_no_answer_and_frees_the_adapter_after_the_last(forge: Forge) -> None:
    """A request that comes while the old one runs reads the file anew."""
    forge.submit(1, n=50, adapter="pirate")
    forge.engine.step()
    forge.inbox.put(ipc.Detach("pirate"))
    forge.submit(2, adapter="pirate")
    forge.finish(2)
    assert 1 not in forge.endings
    assert len(forge.table.attached) == 2
    forge.finish(1)
    assert len(forge.table.attached) == 1
    assert forge.endings == {1: "length", 2: "length"}


def test_an_idle_adapter_is_freed_when_it_is_detached(forge: Forge) -> None:
    forge.submit(1, adapter="pirate")
    forge.finish(1)
    forge.inbox.put(ipc.Detach("pirate"))
    forge.submit(2)
    forge.finish(2)
    assert len(forge.table.attached) == 0


# --- KV beyond the cache ---

LONG = list(range(100))


def kept_with(forge: Forge, adapters: AdapterSet) -> bool:
    return forge.tiers.find(adapters, LONG, 0, is_exact=False) is not None


def test_told_to_leave_the_loop_saves_kv_and_ends(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the time the daemon gives it."""
    limits: list[float] = []
    monkeypatch.setattr(forge.tiers, "flush", limits.append)
    forge.inbox.put(ipc.Leave())
    forge.engine.run()
    (limit_s,) = limits
    assert limit_s <= LEAVE_S - 1, "it copies what is in the cache before, and ends afterwards"


def test_kv_of_a_detached_adapter_is_forgotten(forge: Forge, tmp_path: Path) -> None:
    """Its file may change; KV of others stays."""
    path = tmp_path / "adapter.gguf"
    path.touch()
    adapters = adapter_set([(str(path), 1.0)])
    for it in (adapters, ()):
        forge.tiers.put(it, LONG, 0, np.zeros(9, np.uint8), is_exact=False)
    forge.inbox.put(ipc.Detach(str(path)))
    forge.engine.step()
    assert not kept_with(forge, adapters)
    assert kept_with(forge, ())


def test_a_cleared_cache_is_empty_and_answers_go_on(forge: Forge) -> None:
    """The statistics tell what is kept."""
    forge.tiers.put((), LONG, 0, np.zeros(9, np.uint8), is_exact=False)
    forge.submit(1)
    forge.inbox.put(ipc.Ping())
    forge.inbox.put(ipc.ClearCache())
    forge.inbox.put(ipc.Ping())
    forge.finish(1)
    before, after = (it.stats for it in forge.told if isinstance(it, ipc.Pong))
    assert (before.n_tier_memory, before.tier_memory_bytes, after.n_tier_memory) == (1, 9, 0)
    assert forge.endings == {1: "length"}


def test_an_answer_whose_rejected_draft_cannot_be_taken_back_goes_on(
    forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its KV is gone then, and is computed again with what was said."""
    forge.submit(1, n=6)
    forge.engine.step()
    forge.engine.step()
    (sequence,) = forge.scheduler.running
    assert sequence.slot
    n_said, n_tokens = sequence.n_said, len(sequence.slot.tokens)
    assert sequence.answer
    with monkeypatch.context() as patch:
        patch.setattr(forge.table.cells, "cut", lambda _slot, _n: False)
        sequence.n_ahead = 2
        forge.engine._cut(sequence)
    assert (sequence.slot.tokens, sequence.answer, sequence.n_said) == ([], [], n_said)
    assert sequence.n_prefill_left == n_tokens + 1
    forge.table.cells.held[sequence.slot.index].clear()
    forge.finish(1)
    assert forge.endings == {1: "length"}


def test_one_odd_sequence_leaves_the_others_sampled_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each by its own row: one with drafts has several. Less than three beside each other are sampled alone."""
    common: Any = SimpleNamespace(top_logprobs=None, is_full=False, sampler=SimpleNamespace(is_common=True))
    one, drafted = Chunk(common, [7], 0, True), Chunk(common, [7, 8, 9], 0, True, n_drafted=2)
    ended = [one, one, drafted, one, one, one]
    logits = np.repeat(np.arange(8, dtype=np.float32)[:, None], 8, axis=1)
    monkeypatch.setattr(Sampler, "sample_together", lambda _all, rows: [Sampled(int(row[0])) for row in rows])
    drawn: Any = Engine._sampled_together(ended, logits)
    assert [it.token if it else None for it in drawn] == [None, None, None, 5, 6, 7]
