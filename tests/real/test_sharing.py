"""What prompts have in common lies in the cache once, in a real context: no answer is another for that.

Flash attention is off and one thread computes: then results do not depend on what else is in a step.
"""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
import tiny_models

from beastd import ipc
from beastd.contract import Final
from beastd.engine.assembly import new_scheduler
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.tiers import Tiers, identity_of
from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
PIRATE = [ipc.Adapter(str(CUB / "cub-pirate-lora-f16.gguf"), 1.0)]


def text(n: int, seed: int) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase + " ", k=n))


SYSTEM = text(200, 0)
"""What all prompts begin with; a token is a byte."""
PROMPTS = [SYSTEM + text(24 + seed, seed) for seed in range(1, 13)]
N_ANSWER = 20
LAYOUTS = ["partitioned", "unified"]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write("plain", tmp_path_factory.mktemp("tiny") / "plain.gguf", seed=4)


def load(path: Path, **settings: Any) -> ipc.Load:
    defaults = {"n_ctx": 512, "n_parallel": 4, "n_sequences": 16, "n_threads": 1, "flash_attn": "off"}
    shape = ipc.LoadSettings(**{**defaults, "kv_layout": "unified", "n_batch": 64, "n_ubatch": 32, **settings})
    return ipc.Load(paths=[str(path)], label="tiny", digest="sha256:1", settings=shape)


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, llama: Llama, tier_bytes: int = 0, step_tokens: int = 64) -> None:
        llama.forget_all()
        self.llama = llama
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.finals: dict[int, Final] = {}
        self.told: list[ipc.FromWorker] = []
        settings = ipc.KvTiers(folder="", memory_bytes=tier_bytes, disk_bytes=0) if tier_bytes else None
        self.tiers = Tiers(settings, identity_of(llama.load), "cub")
        self.scheduler = new_scheduler(llama, Pace(1.0, step_tokens, step_tokens), self.tiers)
        outbox = Outbox(self._hear)
        self.engine = Engine(llama, Intake(llama, None), self.scheduler, self.inbox, outbox, tiers=self.tiers)
        self.tally = self.engine._tally

    def _hear(self, message: ipc.FromWorker) -> None:
        if not isinstance(message, ipc.Step):
            self.told.append(message)
            return
        for delta in message.deltas:
            assert delta.error is None
            assert delta.id not in self.finals, "nothing follows an ending"
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final:
                self.finals[delta.id] = delta.final

    def submit(self, id_: int, prompt: str, n: int = N_ANSWER, **fields: Any) -> None:
        sampling = ipc.Sampling(temperature=0, num_predict=n, ignore_eos=True)
        self.inbox.put(ipc.Submit(id=id_, prompt=ipc.Prompt(raw=prompt), sampling=sampling, **fields))

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self.engine.step()
            self.scheduler.cache.check_integrity()

    def finish(self) -> None:
        """Step until there is nothing to do."""
        for _ in range(5000):
            if self.inbox.empty() and self.scheduler.is_idle:
                break
            self.step()
        assert self.scheduler.is_idle
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()

    def answers(self, prompts: list[str], **fields: Any) -> list[str]:
        """To all at once."""
        for id_, prompt in enumerate(prompts):
            self.submit(id_, prompt, **fields)
        self.finish()
        return [self.text[id_] for id_ in range(len(prompts))]

    def become(self, path: Path, **settings: Any) -> None:
        self.inbox.put(ipc.Reshape(load=load(path, **settings)))
        self.step()
        reshaped = self.told[-1]
        assert isinstance(reshaped, ipc.Reshaped)
        assert reshaped.failure is None


@pytest.fixture(scope="module", params=LAYOUTS)
def llama(request: pytest.FixtureRequest, tiny: Path) -> Iterator[Llama]:
    llama = Llama(load(tiny, kv_layout=request.param), lambda _fraction: None)
    yield llama
    llama.close(keeps_model=False)


@pytest.fixture(scope="module")
def alone(tiny: Path) -> list[str]:
    """What a fresh engine answers to each prompt, one by one."""
    llama = Llama(load(tiny, n_parallel=1, kv_layout="partitioned"), lambda _fraction: None)
    found = [Forge(llama).answers([prompt])[0] for prompt in PROMPTS]
    llama.close(keeps_model=False)
    assert len(set(found)) > len(found) - 2, "else no test here could fail"
    return found


def opened(request: pytest.FixtureRequest, path: Path, **settings: Any) -> Llama:
    llama = Llama(load(path, **settings), lambda _fraction: None)
    request.addfinalizer(lambda: llama.close(keeps_model=False))
    return llama


def test_a_burst_computes_what_it_has_in_common_once(llama: Llama, alone: list[str]) -> None:
    """With a cell for each token where there is one pool, so that more run than there are contexts."""
    forge = Forge(llama)
    assert forge.answers(PROMPTS) == alone
    n_own = sum(final.n_prompt - len(SYSTEM) for final in forge.finals.values())
    assert forge.tally.n_prompt <= len(SYSTEM) + n_own
    assert all(final.n_cached >= len(SYSTEM) for id_, final in forge.finals.items() if id_)


def test_later_turns_of_many_chats_reuse_their_histories(llama: Llama) -> None:
    n_chats = 4
    forge, histories = Forge(llama), PROMPTS[:n_chats]
    ids = count()
    for turn in range(3):
        asked = dict(zip(ids, histories, strict=False))
        for id_, prompt in asked.items():
            forge.submit(id_, prompt, n=8)
        forge.finish()
        if turn and llama.is_unified:  # else a place beside others is worth more than a short history
            assert all(forge.finals[id_].n_cached > forge.finals[id_].n_prompt - 24 for id_ in asked)
        histories = [prompt + forge.text[id_] + text(12, turn) for id_, prompt in asked.items()]
    last = [forge.text[id_] for id_ in asked]
    assert [Forge(llama).answers([prompt], n=8)[0] for prompt in asked.values()] == last


def test_several_answers_to_one_prompt(llama: Llama, alone: list[str]) -> None:
    forge = Forge(llama)
    assert forge.answers(PROMPTS[:1] * 6) == alone[:1] * 6
    assert forge.tally.n_prompt == forge.finals[0].n_prompt + 5


@pytest.mark.parametrize("tier_bytes", [0, 10**9])
def test_with_too_few_cells_some_wait_again_and_all_answers_are_the_same(
    request: pytest.FixtureRequest, tiny: Path, alone: list[str], tier_bytes: int
) -> None:
    """Beginnings differ, so that nothing is shared; what had to wait comes back from memory where it was kept."""
    llama = opened(request, tiny, n_parallel=2)
    long = [f"{i}. {prompt}" for i, prompt in enumerate(PROMPTS[:6])]
    expected = [Forge(llama).answers([prompt], n=120)[0] for prompt in long]
    forge = Forge(llama, tier_bytes)
    assert forge.answers(long, n=120) == expected
    assert forge.scheduler.n_paused > 0
    assert (forge.tiers.stats.n_tier_hits > 0) is bool(tier_bytes)


def test_four_times_as_many_chats_run_as_full_contexts_fit(
    request: pytest.FixtureRequest, tiny: Path, alone: list[str]
) -> None:
    """In the cells of three."""
    llama = opened(request, tiny, n_parallel=3)
    forge = Forge(llama)
    for id_, prompt in enumerate(PROMPTS):
        forge.submit(id_, prompt)
    n_most = 0
    while not forge.inbox.empty() or not forge.scheduler.is_idle:
        forge.step()
        n_most = max(n_most, sum(one.is_decoding for one in forge.scheduler.running))
    forge.finish()
    assert n_most == 12
    assert [forge.text[id_] for id_ in range(12)] == alone
    assert forge.scheduler.n_paused == 0


@pytest.mark.parametrize("tier_bytes", [0, 10**9])
def test_a_high_one_takes_the_place_of_a_low_one_that_goes_on_after_it(
    llama: Llama, alone: list[str], tier_bytes: int
) -> None:
    expected = [Forge(llama).answers([prompt], n=60)[0] for prompt in PROMPTS[:8]]
    forge = Forge(llama, tier_bytes)
    for id_ in range(16):
        forge.submit(id_, PROMPTS[id_ % 8], n=60, priority="low")
    forge.step(16)
    n_running = len(forge.scheduler.running)
    forge.submit(100, PROMPTS[8], priority="high")
    while 100 not in forge.finals:
        forge.step()
    assert forge.scheduler.n_paused >= 1
    assert n_running == llama.n_sequences
    assert not forge.finals.keys() - {100}
    forge.finish()
    assert forge.text[100] == alone[8]
    assert [forge.text[id_] for id_ in range(16)] == expected * 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_share_nothing_with_others(request: pytest.FixtureRequest, layout: str) -> None:
    llama = opened(request, CUB / "cub-q8_0.gguf", kv_layout=layout)
    prompt = "Question: Why is the sky blue, and what do bees and bears have to say about it, if anything?\nAnswer:" * 2
    plain, pirate = (Forge(llama).answers([prompt], adapters=one)[0] for one in ([], PIRATE))
    forge = Forge(llama)
    for id_ in range(6):
        forge.submit(id_, prompt, adapters=PIRATE if id_ % 2 else [])
    forge.finish()
    assert plain != pirate
    assert [forge.text[id_] for id_ in range(6)] == [plain, pirate] * 3
    assert forge.tally.n_prompt == 2 * forge.finals[0].n_prompt + 4


@pytest.mark.parametrize("tier_bytes", [0, 10**9])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"n_ctx": 512}),
        ({}, {"n_parallel": 2}),
        ({}, {"kv_layout": "partitioned"}),
        ({}, {"kv_layout": "partitioned", "n_parallel": 12}),
        ({"kv_layout": "partitioned"}, {}),
        ({"kv_layout": "partitioned"}, {"kv_layout": "partitioned", "n_parallel": 2}),
        ({}, {"path": "copy"}),
    ],
)
def test_what_is_shared_stays_right_in_another_shape(
    request: pytest.FixtureRequest,
    tiny: Path,
    tmp_path: Path,
    alone: list[str],
    before: dict[str, Any],
    after: dict[str, Any],
    tier_bytes: int,
) -> None:
    """In mid-answer, twice: there and back."""
    if "path" in after:
        after = {"path": shutil.copy(tiny, tmp_path / "copy.gguf")}
    forge = Forge(opened(request, tiny, **before), tier_bytes)
    for id_, prompt in enumerate(PROMPTS):
        forge.submit(id_, prompt)
    while sum(one.n_said for one in forge.scheduler.running) < 8:
        forge.step()
    forge.become(**{"path": tiny, **after})
    forge.step(4)
    forge.become(tiny, **before)
    forge.finish()
    assert [forge.text[id_] for id_ in range(len(PROMPTS))] == alone


def test_what_slept_shares_again(llama: Llama, tiny: Path, alone: list[str]) -> None:
    forge = Forge(llama, 10**9)
    forge.answers(PROMPTS[:6])
    settings = {"kv_layout": llama.load.settings.kv_layout}
    forge.inbox.put(ipc.Reshape(load=load(tiny, **settings), is_asleep=True))
    forge.step()
    forge.become(tiny, **settings)
    for id_, prompt in enumerate(PROMPTS[:6], 100):
        forge.submit(id_, prompt)
    forge.finish()
    assert [forge.text[id_] for id_ in range(100, 106)] == alone[:6]
    assert all(forge.finals[id_].n_cached >= len(SYSTEM) for id_ in range(100, 106))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_shared_is_not_laid_over_what_comes_back_from_memory(
    request: pytest.FixtureRequest, tiny: Path, alone: list[str], layout: str
) -> None:
    """A prompt shares a little with a running one, and finds more of itself in memory: both in one admission."""
    forge = Forge(opened(request, tiny, n_parallel=2, kv_layout=layout), 10**9)
    forge.submit(1, SYSTEM[:100] + text(100, 99), n=100)
    forge.step(8)
    forge.submit(0, PROMPTS[0])
    while 0 not in forge.finals:
        forge.step()
    forge.scheduler.cache.spill_all()
    forge.submit(2, PROMPTS[0])
    forge.finish()
    assert forge.tiers.stats.n_tier_hits == 1
    assert forge.text[2] == alone[0]
