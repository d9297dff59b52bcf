"""KV that went to disk and came back to another context: the answer is the same, and nothing is computed twice."""

from __future__ import annotations

from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

import beastd
from beastd import ipc
from beastd.contract import Final
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.kvcache import KVCache
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.scheduler import Scheduler, StepBudget
from beastd.engine.tiers import PENDING, Tiers, identity_of

CUB = Path(beastd.__file__).parent / "builtin" / "cub" / "cub-q2_k.gguf"
PROMPT = "The old bear walked through the forest and looked for honey, and when he found a tree full of bees, he said "


class Forge:
    """An engine whose cache the test fills."""

    def __init__(self, settings: ipc.KvTiers, **more: Any) -> None:
        loading = ipc.LoadSettings(n_ctx=512, n_parallel=2, n_threads=1, **more)
        load = ipc.Load(paths=[str(CUB)], label="cub", digest="sha256:1", tiers=settings, settings=loading)
        self.llama = Llama(load, lambda _fraction: None)
        self.cache = KVCache(2)
        self.tiers = Tiers(settings, identity_of(load), load.label)
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text = ""
        self.final: Final | None = None
        self.scheduler = Scheduler(self.cache, StepBudget(1.0, 256, 256))
        self.engine = Engine(
            self.llama, Intake(self.llama, None), self.scheduler, self.inbox, Outbox(self._hear), tiers=self.tiers
        )

    def _hear(self, message: ipc.FromWorker) -> None:
        assert isinstance(message, ipc.Step)
        for delta in message.deltas:
            self.text += delta.text
            self.final = delta.final or self.final

    def ask(self) -> tuple[str, Final]:
        self.text, self.final = "", None
        sampling = ipc.Sampling(temperature=0, num_predict=24, ignore_eos=True)
        self.inbox.put(ipc.Submit(id=1, prompt=ipc.Prompt(raw=PROMPT), sampling=sampling))
        while self.final is None:
            if self.scheduler.is_idle and self.inbox.empty():
                self.inbox.put(ipc.Cancel(0))
            self.engine.step()
        return self.text, self.final


@pytest.mark.parametrize("layout", ["partitioned", "unified"])
def test_kv_from_disk_gives_the_same_answer(tmp_path: Path, layout: str) -> None:
    """Into another slot of another context, whose layout may be another."""
    settings = ipc.KvTiers(folder=str(tmp_path / "kv"), memory_bytes=10**8, disk_bytes=10**9)
    before = Forge(settings)
    before.ask()
    text, _ = before.ask()  # as it is when all but the last token of the prompt is there: roundings depend on batches
    (slot,) = (it for it in before.cache.slots if it.tokens)
    before.tiers.put((), slot.tokens, 0, before.llama.save(slot.index), is_exact=False)
    before.tiers.flush(60)

    after = Forge(settings, kv_layout=layout)
    found = after.tiers.find((), slot.tokens, 0, is_exact=False)
    assert found
    while (state := after.tiers.read(found)) is PENDING:
        after.tiers.wait(1)
    assert isinstance(state, np.ndarray)
    target = after.cache.slots[1 - slot.index]
    assert after.llama.restore(target.index, state)
    assert after.llama.forget(target.index, found.n_usable)
    target.tokens = slot.tokens[: found.n_usable]
    again, final = after.ask()
    assert again == text
    assert final.n_cached == final.n_prompt - 1
