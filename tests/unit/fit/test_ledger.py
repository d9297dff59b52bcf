"""The ledger: each need simulated once, remembered, and estimated where it cannot be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beastd.contract import RAM, DeviceNeed, Gpu, MemoryNeed, ModelShape
from beastd.errors import ToolFailed
from beastd.fit import ledger as ledger_module
from beastd.fit.ledger import Case, Ledger
from beastd.fit.needsfile import MAX_NEEDS, NeedsFile
from beastd.fleet.memory import estimated_need
from beastd.ipc import Failure, LoadSettings
from beastd.toolorders import Outcome, Simulated, SimulateOrder

SHAPE = ModelShape(
    architecture="llama",
    weights_bytes=10**9,
    n_params=10**9,
    n_layers=10,
    n_embd=1024,
    n_vocab=32_000,
    n_ctx_train=8192,
    kv_elements_per_token=1000,
)
GPU = Gpu(name="CUDA0", description="a card", total_bytes=8 * 10**9, free_bytes=7 * 10**9)


def case(digest: str = "aa", **settings: Any) -> Case:
    return Case(digest, (f"/{digest}.gguf",), digest, SHAPE, LoadSettings(**settings))


def need(n_bytes: int) -> MemoryNeed:
    return MemoryNeed(devices=[DeviceNeed(device=RAM, weights_bytes=n_bytes)], process_bytes=1)


class FakeTool:
    """Answers each case with its context as bytes; a broken one with a failure, a deadly one with its death."""

    def __init__(self, gpus: list[Gpu] | None = None) -> None:
        self.orders: list[list[str]] = []
        self.n_running = self.n_most = 0
        self.gpus = gpus or []

    async def __call__(self, module: str, order: SimulateOrder, report: object, log: Path) -> dict[str, Any]:
        assert (module, log.name) == ("beastd.engine.simulate", "simulate.log")
        self.orders.append([it.label for it in order.cases])
        self.n_running += 1
        self.n_most = max(self.n_most, self.n_running)
        await asyncio.sleep(0)
        self.n_running -= 1
        if any(it.label == "deadly" for it in order.cases):
            raise ToolFailed("ended by signal 6")
        outcomes = [self.outcome(it.label, it.settings) for it in order.cases]
        return msgspec.to_builtins(Simulated(outcomes=outcomes, gpus=self.gpus))

    def outcome(self, label: str, settings: LoadSettings) -> Outcome:
        if label == "broken":
            return Outcome(failure=Failure("bad_model", "broken is broken"))
        return Outcome(need=need(settings.n_ctx))


@pytest.fixture
def tool() -> FakeTool:
    return FakeTool()


@pytest.fixture
def make(tool: FakeTool, tmp_path: Path) -> Callable[[], Ledger]:
    return lambda: Ledger(tmp_path / "needs.json", tmp_path, tool)


async def test_all_that_is_missing_is_asked_at_once_and_only_once(make, tool):
    """One process for a call, none for what is known, and answers in the order of the question."""
    ledger = make()
    assert await ledger.needs([case("a", n_ctx=1), case("b", n_ctx=2), case("a", n_ctx=1)]) == [
        need(1),
        need(2),
        need(1),
    ]
    assert await ledger.needs([case("b", n_ctx=2), case("c", n_ctx=3)]) == [need(2), need(3)]
    assert tool.orders == [["a", "b"], ["c"]]
    assert await ledger.needs([]) == []


async def test_the_same_question_at_the_same_time_is_one_simulation(make, tool):
    """Nobody waits for a second one, and never do two run together."""
    ledger = make()
    answers = await asyncio.gather(*(ledger.needs([case(n_ctx=5)]) for _ in range(8)), ledger.needs([case("b")]))
    assert answers[:8] == [[need(5)]] * 8
    assert sorted(tool.orders) == [["aa"], ["b"]]
    assert tool.n_most == 1


async def test_a_simulation_that_does_not_end_is_given_up(tmp_path, monkeypatch):
    """Else every load that comes after would wait for its turn for ever."""
    monkeypatch.setattr(ledger_module, "LIMIT_S", 0.01)

    async def hang(*_: object) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    ledger = Ledger(tmp_path / "needs.json", tmp_path, hang)
    assert await ledger.needs([case("a")]) == [estimated_need(SHAPE, LoadSettings())]
    assert "within 0.01 s" in ledger.why_estimated(case("a")).message
    assert await asyncio.wait_for(ledger.needs([case("b")]), 60)


@pytest.mark.parametrize(
    ("change", "n_orders"),
    [({"kv_type": "q8_0"}, 2), ({"n_parallel": 3}, 2), ({"n_sequences": 9}, 2), ({"n_threads": 7, "step_ms": 9}, 1)],
)
async def test_only_settings_that_matter_make_a_new_question(make, tool, change, n_orders):
    """Threads and the length of steps change no buffer."""
    ledger = make()
    await ledger.needs([case()])
    await ledger.needs([case(**change)])
    assert len(tool.orders) == n_orders


async def test_the_next_daemon_knows_them(make, tool):
    """The file outlives the ledger."""
    await make().needs([case(n_ctx=7)])
    assert await make().needs([case(n_ctx=7)]) == [need(7)]
    assert len(tool.orders) == 1


async def test_what_was_counted_otherwise_is_counted_anew(make, tool, monkeypatch):
    """An earlier Beast's numbers are not believed."""
    monkeypatch.setattr(ledger_module, "_EDITION", 1)
    await make().needs([case(n_ctx=7)])
    monkeypatch.undo()
    await make().needs([case(n_ctx=7)])
    assert len(tool.orders) == 2


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"needs": 1}', b'{"made_by":"llama-cpp-python 0","gpus":[],"needs":{}}']
)
async def test_a_broken_or_foreign_file_is_no_file(make, tool, tmp_path, content):
    """It is written anew."""
    (tmp_path / "needs.json").write_bytes(content)
    assert await make().needs([case(n_ctx=7)]) == [need(7)]
    await make().needs([case(n_ctx=7)])
    assert len(tool.orders) == 1


async def test_a_case_that_cannot_be_loaded_is_estimated_and_said_once(make, tool, caplog):
    """Its neighbours are exact, the reason is kept, and nothing of it reaches the disk."""
    ledger, broken = make(), case("broken")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert await ledger.needs([broken, case("b", n_ctx=3)]) == [estimated_need(SHAPE, broken.settings), need(3)]
    assert len(caplog.records) == len(tool.orders) == 1
    assert ledger.why_estimated(broken) == Failure("bad_model", "broken is broken")
    assert ledger.why_estimated(case("b", n_ctx=3)) is None
    await make().needs([broken])
    assert len(tool.orders) == 2


async def test_a_case_that_kills_the_process_costs_the_others_nothing(make, tool):
    """They are asked again one by one."""
    ledger, deadly = make(), case("deadly")
    assert await ledger.needs([case("a", n_ctx=1), deadly, case("b", n_ctx=2)]) == [
        need(1),
        estimated_need(SHAPE, deadly.settings),
        need(2),
    ]
    assert tool.orders == [["a", "deadly", "b"], ["a"], ["deadly"], ["b"]]


async def test_other_gpus_make_all_needs_unknown(make, tool):
    """What was computed for the machine as it was is not believed."""
    await make().needs([case(n_ctx=7)])
    tool.gpus = [GPU]
    ledger = make()
    assert ledger.gpus == []
    assert await ledger.learn_gpus() == [GPU]
    await ledger.needs([case(n_ctx=7)])
    assert tool.orders == [["aa"], [], ["aa"]]


async def test_a_tool_that_cannot_be_read_is_a_failure(tmp_path):
    """Whatever goes wrong with it, there is an answer."""

    async def odd(*_: object) -> dict[str, Any]:
        return {"outcomes": "many"}

    run: Callable[..., Awaitable[dict[str, Any]]] = odd
    ledger = Ledger(tmp_path / "needs.json", tmp_path, run)
    assert await ledger.needs([case()]) == [estimated_need(SHAPE, LoadSettings())]


def test_the_oldest_needs_go(tmp_path):
    """The file is bounded."""
    file = NeedsFile(tmp_path / "needs.json", "me")
    file.put({str(i): need(i) for i in range(MAX_NEEDS + 5)})
    file.save()
    again = NeedsFile(tmp_path / "needs.json", "me")
    assert again.get("4") is None
    assert again.get("5") == need(5)
