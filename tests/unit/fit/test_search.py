"""The search for what fits, over a ledger that computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from beastd.config import Config
from beastd.contract import RAM, DeviceNeed, MemoryNeed, ModelShape
from beastd.fit.contract import Device, Download
from beastd.fit.fit import Budget, Verdict
from beastd.fit.ledger import Ledger
from beastd.fit.search import Search
from beastd.fit.stalls import Candidate
from beastd.fit.words import next_steps, sentence, warnings
from beastd.toolorders import Outcome, Simulated, SimulateOrder

MB = 10**6
SIZES = {"f16": 1600 * MB, "q8_0": 800 * MB, "q2_k": 300 * MB}
SHAPE = ModelShape(
    architecture="llama",
    weights_bytes=1,
    n_params=1,
    n_layers=1,
    n_embd=1,
    n_vocab=1,
    n_ctx_train=10**6,
    kv_elements_per_token=1,
)


class Stall:
    """A model here, or far where it has a download."""

    name = "m"

    def __init__(self, download: Download | None = None) -> None:
        self.asked = candidate("f16")
        self.download = download
        self.hopeful: list[bool] = []

    def named(self, variant: str) -> str:
        return f"m@{variant}"

    async def smaller(self, is_hopeful: Callable[[int], bool]) -> list[Candidate]:
        self.hopeful = [is_hopeful(SIZES["f16"] - SIZES[name]) for name in ("q8_0", "q2_k")]
        return [candidate("q8_0"), candidate("q2_k")]


def candidate(variant: str) -> Candidate:
    return Candidate(variant, variant, (variant,), SHAPE)


class Tool:
    """Weights, 0.1 MB a cell, and a few bytes that are not linear."""

    def __init__(self) -> None:
        self.n_orders = 0

    async def __call__(self, module: str, order: SimulateOrder, *_: object) -> dict[str, Any]:
        self.n_orders += 1
        outcomes = [Outcome(need=self.need(it.paths[0], it.settings)) for it in order.cases]
        return msgspec.to_builtins(Simulated(outcomes=outcomes, gpus=[]))

    def need(self, variant: str, settings: Any) -> MemoryNeed:
        cells = settings.n_ctx * settings.n_parallel
        kv = cells * MB // 10 + (3 * MB if settings.n_ctx % 512 else 0)
        ram = DeviceNeed(device=RAM, weights_bytes=SIZES[variant], kv_bytes=kv)
        return MemoryNeed(devices=[ram], process_bytes=50 * MB)


@pytest.fixture
def tool() -> Tool:
    return Tool()


@pytest.fixture
def ask(tool: Tool, tmp_path: Path) -> Callable[..., Any]:
    """The verdict for a budget in MB."""

    async def run(budget_mb: int, n_ctx: int = 4096, n_parallel: int = 1, stall: Stall | None = None) -> Verdict:
        search = Search(Ledger(tmp_path / "needs", tmp_path, tool), Config(), Budget(budget_mb * MB, {}), "f16")
        return await search.verdict(stall or Stall(), n_ctx, n_parallel)

    return run


def brief(verdict: Verdict) -> list[tuple[str, int, int]]:
    return [(it.variant, it.n_ctx, it.n_parallel) for it in verdict.instead]


async def test_what_fits_costs_one_simulation(ask, tool) -> None:
    """And no look at anything smaller."""
    stall = Stall()
    verdict = await ask(2100, stall=stall)
    assert (verdict.answer, tool.n_orders, stall.hopeful) == ("fits", 1, [])
    assert sentence(stall, verdict, Budget(2100 * MB, {})).startswith("m@f16 fits: with 4096 tokens of context")
    assert next_steps(stall, verdict) == ["`beast run m@f16`"]


async def test_it_offers_the_best_variant_and_the_longest_context(ask) -> None:
    """Both exact: the context that interpolation gave was over by a little, so it is one step less."""
    stall = Stall()
    verdict = await ask(1780, stall=stall)
    assert verdict.answer == "smaller"
    assert brief(verdict) == [("q8_0", 4096, 1), ("f16", 1024, 1)]
    assert stall.hopeful == [True, True]
    assert (await ask(1730)).instead[1].n_ctx == 768
    assert (await ask(1729)).instead[1].n_ctx == 512


async def test_fewer_requests_at_once_are_a_way_too(ask) -> None:
    assert ("f16", 1024, 1) in brief(await ask(1900, 1024, 8))


async def test_a_smaller_variant_with_less_context_is_the_last_way(ask) -> None:
    """Here neither alone helps."""
    verdict = await ask(620)
    assert brief(verdict) == [("q2_k", 2560, 1)]
    steps = next_steps(Stall(), verdict)
    assert steps[0] == "`beast run m@q2_k`"
    assert "num_ctx 2560" in steps[1]


async def test_where_nothing_fits_the_least_is_told(ask) -> None:
    verdict, budget = await ask(100), Budget(100 * MB, {})
    assert verdict.answer == "no"
    text = sentence(Stall(), verdict, budget)
    assert "m@f16 does not fit: " in text
    assert "Even m@q2_k with 512 tokens of context" in text
    assert "100.0 MB of memory" in text
    assert "memory_budget" in next_steps(Stall(), verdict)[-1]


async def test_use_by_others_and_a_full_disk_are_noted(ask) -> None:
    """The budget has room, the machine has not now."""
    download = Download(file="m.gguf", size_bytes=9, missing_bytes=9 * MB, disk_free_bytes=MB, has_room=False)
    ram = Device(device=RAM, description="", total_bytes=4000 * MB, budget_bytes=3000 * MB, free_bytes=MB)
    verdict = await ask(3000)
    found = warnings(verdict.asked, [ram], download)
    assert found[0].startswith("only 1.0 MB of memory are free now")
    assert "the disk has no room: 9.0 MB to load, 1.0 MB free" in found[1]
    assert next_steps(Stall(download), verdict) == ["`beast pull m@f16`"]
    assert warnings(verdict.asked, [msgspec.structs.replace(ram, free_bytes=3000 * MB)], None) == []
