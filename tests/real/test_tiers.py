"""KV that went to disk and came back to another context: the answer is the same, and nothing is computed twice."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

import beastd
from beastd import ipc
from beastd.contract import Final
from beastd.engine.assembly import new_scheduler
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.tiers import Tiers, identity_of

CUB = Path(beastd.__file__).parent / "builtin" / "cub" / "cub-q2_k.gguf"
PROMPT = 2 * (
    "The old bear walked through the forest and looked for honey, and when he found a tree full of bees, he said "
)


class Forge:
    """An engine whose cache the test fills."""

    def __init__(self, settings: ipc.KvTiers, **more: Any) -> None:
        loading = ipc.LoadSettings(**{"n_ctx": 512, "n_parallel": 2, "n_threads": 1, **more})
        load = ipc.Load(paths=[str(CUB)], label="cub", digest="sha256:1", tiers=settings, settings=loading)
        self.llama = Llama(load, lambda _fraction: None)
        self.tiers = Tiers(settings, identity_of(load), load.label)
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text = ""
        self.final: Final | None = None
        self.scheduler = new_scheduler(self.llama, Pace(1.0, 256, 256), self.tiers)
        self.cache = self.scheduler.cache
        self.engine = Engine(
            self.llama, Intake(self.llama, None), self.scheduler, self.inbox, Outbox(self._hear), tiers=self.tiers
        )

    def _hear(self, message: ipc.FromWorker) -> None:
        assert isinstance(message, ipc.Step)
        for delta in message.deltas:
            self.text += delta.text
            self.final = delta.final or self.final

    def ask(self, prompt: str = PROMPT) -> tuple[str, Final]:
        self.text, self.final = "", None
        sampling = ipc.Sampling(temperature=0, num_predict=24, ignore_eos=True)
        self.inbox.put(ipc.Submit(id=1, prompt=ipc.Prompt(raw=prompt), sampling=sampling))
        while self.final is None:
            if self.scheduler.is_idle and self.inbox.empty():
                self.inbox.put(ipc.Cancel(0))
            self.engine.step()
        return self.text, self.final


@pytest.mark.parametrize("layout", ["partitioned", "unified"])
def test_kv_from_disk_gives_the_same_answer(tmp_path: Path, layout: str) -> None:
    """In a context whose layout may be another; what was put away when the other one left is not computed again."""
    settings = ipc.KvTiers(folder=str(tmp_path / "kv"), memory_bytes=10**8, disk_bytes=10**9)
    before = Forge(settings)
    before.ask()
    text, _ = before.ask()  # as it is when all but the last token of the prompt is there: roundings depend on batches
    before.inbox.put(ipc.Leave())
    before.engine.run()

    after = Forge(settings, kv_layout=layout)
    again, final = after.ask()
    assert again == text
    assert final.n_cached == final.n_prompt - 1
    assert after.tiers.stats.n_tier_hits == 1


def test_what_lacks_cells_goes_to_memory_and_comes_back(tmp_path: Path) -> None:
    """A long prompt needs the cells of an ended one."""
    settings = ipc.KvTiers(folder=str(tmp_path / "kv"), memory_bytes=10**8, disk_bytes=0)
    forge = Forge(settings, kv_layout="unified", n_ctx=256, n_parallel=1)
    first, _ = forge.ask()
    forge.ask("A word. " * 60)
    assert forge.tiers.stats.n_tier_memory == 1
    again, final = forge.ask()
    assert again == first
    assert final.n_cached == final.n_prompt - 1
    forge.cache.check_integrity()
