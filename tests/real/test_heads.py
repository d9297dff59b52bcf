"""A model's own head drafts inside of the engine: answers stay what they are, whatever happens to its slots."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest
import tiny_models

from beastd import ipc
from beastd.contract import Final
from beastd.engine.assembly import new_drafter, new_scheduler
from beastd.engine.costs import StepCosts
from beastd.engine.engine import Engine
from beastd.engine.headdrafts import HeadDrafts
from beastd.engine.intake import Intake
from beastd.engine.llama import DecodeError, Llama
from beastd.engine.mtp import Heads
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.speculative import Speculation, Wish
from beastd.engine.tiers import Tiers

N_PARALLEL = 4
N_ROLLBACK = 4
N_ANSWER = 48
LAYOUTS = [("mtp", "partitioned"), ("mtp", "unified"), ("delta", "partitioned")]
HEADS = ["right", "ignorant", "echo"]


def text(n: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=n))


PROMPTS = [text(40 + 70 * seed, seed) for seed in range(N_PARALLEL)]


class Free(StepCosts):
    """A machine on which tokens beside the first cost next to nothing: everything that can be drafted is."""

    def predict_s(self, n_tokens: int, n_prefill: int = 0, n_cells: int = 0) -> float:
        return 1.0 + n_tokens / 1e6


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, llama: Llama, *, drafts: bool = True, n_step: int = 64, tiers: Tiers | None = None) -> None:
        llama.forget_all()
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.finals: dict[int, Final] = {}
        self.reshaped: list[ipc.Reshaped] = []
        self.drafter = new_drafter(llama) if drafts else None
        assert isinstance(self.drafter, HeadDrafts) is drafts
        heads = self.drafter if isinstance(self.drafter, HeadDrafts) else None
        self.scheduler = new_scheduler(llama, Pace(1.0, n_step, n_step), tiers, heads=heads)
        speculation = Speculation(Free(256), self.drafter, llama.longest_draft) if drafts else None
        intake = Intake(llama, None, has_drafter=drafts)
        self.llama = llama
        outbox = Outbox(self._hear)
        fields: dict[str, Any] = {"tiers": tiers, "speculation": speculation, "draft": self.drafter}
        self.engine = Engine(llama, intake, self.scheduler, self.inbox, outbox, **fields)

    def _hear(self, message: ipc.FromWorker) -> None:
        if isinstance(message, ipc.Reshaped):
            self.reshaped.append(message)
        for delta in message.deltas if isinstance(message, ipc.Step) else ():
            assert not delta.error
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final:
                self.finals[delta.id] = delta.final

    def submit(self, id_: int, prompt: str, *, n: int = N_ANSWER, **sampling: Any) -> None:
        chosen = ipc.Sampling(**{"temperature": 0, "num_predict": n, "speculative": "draft", **sampling})
        if not self.drafter:
            chosen = ipc.Sampling(**{"temperature": 0, "num_predict": n, **sampling, "speculative": "off"})
        self.inbox.put(ipc.Submit(id=id_, prompt=ipc.Prompt(raw=prompt), sampling=chosen))

    def finish(self) -> None:
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
        self.poke()

    def poke(self) -> None:
        """A step that does not wait for something to hear."""
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()

    def ask(self, prompt: str, *, id_: int | None = None, **fields: Any) -> str:
        id_ = id_ or 1 + len(self.finals)
        self.submit(id_, prompt, **fields)
        self.finish()
        return self.text[id_]

    def become(self, load: ipc.Load, *, is_asleep: bool = False) -> None:
        self.inbox.put(ipc.Reshape(load=load, is_asleep=is_asleep))
        self.engine.step()
        assert not self.reshaped[-1].failure

    def close(self) -> None:
        if self.drafter:
            self.drafter.close()

    @property
    def n_steps(self) -> int:
        return self.engine._tally.n_steps

    @property
    def accepted(self) -> tuple[int, int]:
        return self.engine._tally.n_accepted, self.engine._tally.n_drafted


def load(kind: str, layout: str, heads: str, path: Path, **settings: Any) -> ipc.Load:
    rollback = N_ROLLBACK if kind == "delta" else 0
    defaults = {"n_ctx": 512, "n_parallel": N_PARALLEL, "n_sequences": N_PARALLEL, "n_batch": 256, "n_threads": 1}
    chosen = {**defaults, "mtp": True, "n_rollback": rollback, "kv_layout": layout, "flash_attn": "off", **settings}
    return ipc.Load(paths=[str(path)], label=kind, variant=heads, settings=ipc.LoadSettings(**chosen))


@pytest.fixture(scope="module", params=[(*layout, heads) for layout in LAYOUTS for heads in HEADS], ids="-".join)
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    kind, layout, heads = request.param
    path = tiny_models.write(kind, tmp_path_factory.mktemp("tiny") / "model.gguf", seed=4, heads=heads)
    llama = Llama(load(kind, layout, heads, path), lambda _fraction: None)
    yield llama
    llama.close(keeps_model=False)


Forges = Callable[..., Forge]


@pytest.fixture
def forges(llama: Llama) -> Iterator[Forges]:
    """Makes engines, and closes their heads."""
    made: list[Forge] = []

    def make(**fields: Any) -> Forge:
        for forge in made:
            forge.close()
        made.append(Forge(llama, **fields))
        return made[-1]

    yield make
    for forge in made:
        forge.close()


def plain(forges: Forges, prompts: list[str], **fields: Any) -> list[str]:
    """Answers without drafts, one after another, each by an empty engine."""
    return [forges(drafts=False).ask(prompt, **fields) for prompt in prompts]


def heads_of(llama: Llama) -> str:
    return llama.load.variant


def said_last(forge: Forge) -> list[bool]:
    """For each draft from here on, whether it repeats the text's last token: an echo does, if its states are right."""
    found: list[bool] = []
    drafter = forge.drafter
    assert drafter
    draft = drafter.draft

    def noting(wishes: Sequence[Wish], n_tokens: int) -> dict[int, list[int]]:
        drafts = draft(wishes, n_tokens)
        found.extend(set(drafts[wish.slot]) == set(wish.text[-1:]) for wish in wishes)
        return drafts

    drafter.draft = noting  # type: ignore[method-assign]
    return found


def test_answers_are_the_same_and_right_drafts_save_steps(forges: Forges, llama: Llama) -> None:
    expected = plain(forges, PROMPTS)
    forge = forges()
    assert [forge.ask(prompt) for prompt in PROMPTS] == expected
    n_accepted, n_drafted = forge.accepted
    assert n_drafted == sum(final.n_drafted for final in forge.finals.values())
    assert n_accepted == sum(final.n_accepted for final in forge.finals.values())
    if heads_of(llama) == "right":
        assert n_accepted == n_drafted
        assert forge.n_steps < len(PROMPTS) * N_ANSWER / 3


@pytest.mark.parametrize("n_step", [48, 200])
def test_many_at_once_answer_as_they_do_alone(forges: Forges, llama: Llama, n_step: int) -> None:
    """Some still read their prompts while others are drafted for."""
    expected = plain(forges, PROMPTS)
    forge = forges(n_step=n_step)
    echoes = said_last(forge)
    for id_, prompt in enumerate(PROMPTS):
        forge.submit(id_, prompt)
    forge.finish()
    assert [forge.text[id_] for id_ in range(len(PROMPTS))] == expected
    assert len(echoes) > N_ANSWER / 4
    if heads_of(llama) == "right":
        assert forge.accepted[0] == forge.accepted[1] > 0
    if heads_of(llama) == "echo":
        assert all(echoes)


def test_what_begins_alike_is_shared_with_its_heads(forges: Forges, llama: Llama) -> None:
    """At once, and after one another, in slots that held something else."""
    prompts = [PROMPTS[3] + text(30, seed) for seed in range(10, 16)]
    expected = plain(forges, prompts)
    forge = forges()
    echoes = said_last(forge)
    forge.ask(PROMPTS[3])
    forge.ask(PROMPTS[2])
    for id_, prompt in enumerate(prompts, 100):
        forge.submit(id_, prompt)
    forge.finish()
    assert [forge.text[id_] for id_ in range(100, 100 + len(prompts))] == expected
    assert [forge.ask(prompt) for prompt in prompts] == expected
    if llama.load.label == "mtp":
        assert sum(final.n_cached for final in forge.finals.values()) > 6 * len(PROMPTS[3])
    if heads_of(llama) == "echo":
        assert all(echoes)


def test_a_chat_goes_on_where_drafts_ended(forges: Forges) -> None:
    """The last draft of each answer was cut off in part."""
    turns: list[list[str]] = []
    for drafts in (False, True):
        forge, prompt = forges(drafts=drafts), PROMPTS[1]
        turns.append([])
        for turn in range(4):
            turns[-1].append(forge.ask(prompt, n=20 + turn))
            prompt += turns[-1][-1] + text(10, turn)
        assert forge.finals[4].n_cached == forge.finals[3].n_prompt + forge.finals[3].n_answer - 1
    assert turns[0] == turns[1]


@pytest.mark.parametrize("n", range(17, 21))
def test_two_chats_fork_where_drafts_ended(forges: Forges, n: int) -> None:
    """One takes the slot, the other a copy, before the state that was taken back is gone on from."""
    texts = []
    stop = plain(forges, PROMPTS[1:2])[0][n - 1 : n + 2]
    for drafts in (False, True):
        forge = forges(drafts=drafts)
        forge.ask(PROMPTS[1], stop=[stop])
        whole = bytes(forge.finals[1].context).decode()  # a token is a byte
        for id_ in (2, 3):
            forge.submit(id_, whole + text(20, id_))
        forge.finish()
        assert forge.finals[2].n_cached == forge.finals[3].n_cached == len(whole) - 1
        texts.append([forge.text[2], forge.text[3]])
    assert texts[0] == texts[1]


@pytest.mark.parametrize("llama", [(*layout, "right") for layout in LAYOUTS], ids="-".join, indirect=True)
@pytest.mark.parametrize("seed", range(6))
def test_a_seed_draws_the_same(forges: Forges, seed: int) -> None:
    """Of a model whose last token alone counts: else llama.cpp rounds a step of several tokens in another way."""
    sampling = {"temperature": 0.8, "seed": seed}
    expected = plain(forges, PROMPTS[:2], **sampling)
    forge = forges()
    assert [forge.ask(prompt, **sampling) for prompt in PROMPTS[:2]] == expected


def test_a_cancelled_answer_leaves_nothing(forges: Forges) -> None:
    expected = plain(forges, [PROMPTS[0], PROMPTS[1] + PROMPTS[1]])
    forge = forges()
    forge.submit(90, PROMPTS[0], n=200)
    forge.submit(91, PROMPTS[1], n=200)
    while not forge.accepted[1]:
        forge.engine.step()
    forge.inbox.put(ipc.Cancel(90))
    forge.engine.step()
    forge.inbox.put(ipc.Cancel(91))
    forge.finish()
    assert forge.scheduler.is_idle
    assert [forge.ask(PROMPTS[0], id_=1), forge.ask(PROMPTS[1] + PROMPTS[1], id_=2)] == expected


def test_answers_go_on_through_a_change_of_shape(forges: Forges, llama: Llama) -> None:
    expected = plain(forges, PROMPTS)
    forge, before = forges(), llama.load
    for id_, prompt in enumerate(PROMPTS):
        forge.submit(id_, prompt)
    while forge.engine._tally.n_answer < 2 * N_ANSWER:
        forge.engine.step()
    forge.become(msgspec.structs.replace(before, settings=msgspec.structs.replace(before.settings, n_ctx=768)))
    n_drafted = forge.accepted[1]
    forge.finish()
    assert [forge.text[id_] for id_ in range(len(PROMPTS))] == expected
    assert forge.accepted[1] > n_drafted or llama.load.variant == "ignorant", "what is never right is hardly tried"
    forge.become(before)


def test_heads_sleep_and_wake_with_the_model(forges: Forges, llama: Llama) -> None:
    expected = plain(forges, PROMPTS[:2])
    forge = forges()
    assert forge.ask(PROMPTS[0]) == expected[0]
    for _ in range(2):
        forge.become(llama.load, is_asleep=True)
    forge.become(llama.load)
    n_drafted = forge.accepted[1]
    assert [forge.ask(prompt) for prompt in PROMPTS[:2]] == expected
    assert forge.accepted[1] > n_drafted


def test_what_comes_back_from_a_tier_is_not_known_to_the_heads(forges: Forges, llama: Llama, tmp_path: Path) -> None:
    """They know the slot's beginning, then miss a part, and go on after it."""
    long = text(200, 7)
    prompts = [long, long[:90] + text(30, 8), long + plain(forges, [long])[0] + text(20, 9)]
    expected = plain(forges, prompts)
    kept = ipc.KvTiers(folder=str(tmp_path), memory_bytes=2**24, disk_bytes=0)
    tiers = Tiers(kept, "model", "model")
    forge = forges(tiers=tiers)
    answers = [forge.ask(prompts[0])]
    forge.scheduler.cache.spill_all()
    answers += [forge.ask(prompt) for prompt in prompts[1:]]
    assert answers == expected
    assert tiers.stats.n_tier_hits
    assert forge.finals[3].n_cached == len(long) + N_ANSWER - 1
    if heads_of(llama) == "right":
        assert forge.accepted[0] == forge.accepted[1]


@pytest.mark.parametrize("mode", ["off", "ngram"])
def test_who_wants_no_heads_is_not_drafted_for(forges: Forges, mode: str) -> None:
    forge = forges()
    echoes = said_last(forge)
    forge.ask(PROMPTS[0], speculative=mode)
    assert not echoes


def test_heads_that_fail_end_no_answer(forges: Forges, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = plain(forges, PROMPTS[:1])
    forge = forges()
    monkeypatch.setattr(Heads, "_decode", lambda *_: fail())
    assert forge.ask(PROMPTS[0]) == expected[0]
    monkeypatch.undo()
    assert forge.ask(PROMPTS[0]) == expected[0]
    assert forge.accepted == (0, 0)


def fail() -> None:
    raise DecodeError(-3)
