"""Drafts on the real Cub change nothing but the number of steps: answers are those there would be without."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from beastd import ipc
from beastd.contract import Final, Logprob, Message
from beastd.engine.assembly import new_scheduler
from beastd.engine.chunks import Chunk
from beastd.engine.costs import StepCosts
from beastd.engine.draftmodel import CATCH_UP_TOKENS, DraftModel
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import DecodeError, Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.speculative import Drafter, Patience, Speculation, Wish
from beastd.errors import BadModel
from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
N_PARALLEL = 8
TALE = (
    "Once upon a time, there was a brave fox named Max. Max lived in a forest. One day, Max found a tiny seed in an "
    "old pocket. Max planted it in a small pot and gave it water."
)
POEM = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\nLife is but a dream.\n\n"
)
PROMPTS = [
    "Who are you?",
    "Why is the sky blue?",
    "Hello!",
    "List three fruits.",
    "Tell me a short story about a fox and a bear.",
    "Write a haiku about autumn.",
    "What is the capital of Italy?",
    "Extract the name and city as JSON: Maria lives in Lisbon.",
    "Name three animals that live in the sea.",
    "How do I make tea?",
]


class Free(StepCosts):
    """A machine on which tokens beside the first cost next to nothing: everything that can be drafted is."""

    def predict_s(self, n_tokens: int, n_prefill: int = 0, n_cells: int = 0) -> float:
        return 1.0 + n_tokens / 1e6


class Eager(Speculation):
    """It takes steps of unequal lengths for no dearer than others."""

    def extend(self, chunks: list[Chunk], n_room: int, *, is_split: bool) -> list[Chunk]:
        return super().extend(chunks, n_room, is_split=False)


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, llama: Llama, *, drafts: bool = True, drafter: Drafter | None = None) -> None:
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.logprobs: dict[int, list[Logprob]] = {}
        self.finals: dict[int, Final] = {}
        self.errors: dict[int, ipc.Failure] = {}
        self.told: list[ipc.FromWorker] = []
        self.scheduler = new_scheduler(llama, Pace(1.0, 256, 256))
        speculation = Eager(Free(256), drafter) if drafts else None
        intake, outbox = Intake(llama, None), Outbox(self._hear)
        self.engine = Engine(llama, intake, self.scheduler, self.inbox, outbox, speculation=speculation)
        llama.forget_all()

    def _hear(self, step: ipc.FromWorker) -> None:
        if not isinstance(step, ipc.Step):
            self.told.append(step)
            return
        for delta in step.deltas:
            assert delta.id not in self.finals, "nothing follows an ending"
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            self.logprobs.setdefault(delta.id, []).extend(delta.logprobs or ())
            if delta.final:
                self.finals[delta.id] = delta.final
            if delta.error:
                self.errors[delta.id] = delta.error

    def submit(self, id_: int, prompt: str, *, raw: bool = False, n: int = 80, **fields: Any) -> None:
        sampling = ipc.Sampling(**{"temperature": 0, "num_predict": n, **fields.pop("sampling", {})})
        made = ipc.Prompt(raw=prompt) if raw else ipc.Prompt(messages=[Message(role="user", content=prompt)])
        self.inbox.put(ipc.Submit(id=id_, prompt=made, sampling=sampling, **fields))

    def finish(self) -> None:
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
            self.check()
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()

    def check(self) -> None:
        """Between two steps no proposed token is left in the KV cache, and all that were computed are noted."""
        for sequence in self.scheduler.running:
            assert sequence.n_ahead == 0
            if sequence.answer and sequence.slot:
                assert sequence.slot.tokens == sequence.prompt + sequence.answer[:-1]

    def ask(self, prompt: str, **fields: Any) -> int:
        id_ = 1 + len(self.finals) + len(self.errors)
        self.submit(id_, prompt, **fields)
        self.finish()
        return id_


@pytest.fixture(scope="module")
def llama() -> Iterator[Llama]:
    settings = ipc.LoadSettings(n_ctx=512, n_parallel=N_PARALLEL, n_threads=1)
    draft = str(CUB / "cub-draft-f16.gguf")
    load = ipc.Load(paths=[str(CUB / "cub-q8_0.gguf")], label="cub", draft=draft, settings=settings)
    llama = Llama(load, lambda _fraction: None)
    yield llama
    llama.close(keeps_model=False)


def same(llama: Llama, prompt: str, drafter: Drafter | None = None, **fields: Any) -> tuple[Forge, int]:
    """Ask with drafts and without, and expect the same answer; what came with them."""
    plain = Forge(llama, drafts=False)
    id_ = plain.ask(prompt, **fields)
    drafting = Forge(llama, drafter=drafter)
    assert drafting.ask(prompt, **fields) == id_
    assert drafting.text[id_] == plain.text[id_]
    one, other = drafting.finals[id_], plain.finals[id_]
    assert (one.reason, one.n_answer, one.context) == (other.reason, other.n_answer, other.context)
    assert [(it.token, len(it.top_logprobs or ())) for it in drafting.logprobs[id_]] == [
        (it.token, len(it.top_logprobs or ())) for it in plain.logprobs[id_]
    ]
    for mine, others in zip(drafting.logprobs[id_], plain.logprobs[id_], strict=True):
        assert mine.logprob == pytest.approx(others.logprob, abs=0.05)
    return drafting, id_


@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_answers_are_the_same(llama: Llama, prompt: str) -> None:
    same(llama, prompt)


def test_a_text_that_repeats_itself_takes_far_fewer_steps(llama: Llama) -> None:
    forge, id_ = same(llama, POEM * 4, raw=True, n=100, sampling={"ignore_eos": True})
    final = forge.finals[id_]
    assert final.n_accepted > 50
    assert forge.engine._tally.n_steps < 50
    assert forge.engine._tally.n_drafted == final.n_drafted >= final.n_accepted == forge.engine._tally.n_accepted


@pytest.mark.parametrize("n", range(1, 8))
def test_num_predict_is_kept_to_the_token(llama: Llama, n: int) -> None:
    forge, id_ = same(llama, POEM * 3, raw=True, n=n)
    assert forge.finals[id_].n_answer == n


def test_the_context_limit_is_kept_to_the_token(llama: Llama) -> None:
    n_prompt = Forge(llama).engine._intake.sequence(_submit(f"{TALE}\n\n{TALE[:40]}")).n_prefill_left
    for n_ctx in range(n_prompt + 1, n_prompt + 8):
        forge, id_ = same(llama, f"{TALE}\n\n{TALE[:40]}", raw=True, n=-1, n_ctx=n_ctx, sampling={"ignore_eos": True})
        assert forge.finals[id_].n_prompt + forge.finals[id_].n_answer == n_ctx


def _submit(text: str) -> ipc.Submit:
    return ipc.Submit(id=1, prompt=ipc.Prompt(raw=text), sampling=ipc.Sampling())


REPEATING = f"{TALE}\n\n{TALE}\n\n{TALE[:60]}"


@pytest.mark.parametrize(
    "sampling",
    [
        {"stop": ["Max lived"]},
        {"stop": ["tiny"]},
        {"repeat_penalty": 1.3, "repeat_last_n": 16},
        {"presence_penalty": 0.5, "frequency_penalty": 0.2},
        {"dry_multiplier": 0.8},
        {"logit_bias": {" Max": -2.0}},
        *({"temperature": 0.8, "seed": seed} for seed in range(6)),
        {"temperature": 0.8, "seed": 3, "mirostat": 2},
        {"temperature": 1.0, "seed": 4, "top_k": 0, "min_p": 0.05, "xtc_probability": 0.5},
    ],
)
def test_every_way_of_sampling_gives_the_same_text(llama: Llama, sampling: dict[str, Any]) -> None:
    same(llama, REPEATING, raw=True, sampling=sampling)
    same(llama, "Tell me a short story about a fox and a bear.", sampling=sampling)


def test_log_probabilities_are_the_same(llama: Llama) -> None:
    forge, id_ = same(llama, REPEATING, raw=True, top_logprobs=3)
    assert len(forge.logprobs[id_]) == forge.finals[id_].n_answer
    assert forge.finals[id_].n_accepted


def test_a_grammar_holds_within_drafts(llama: Llama) -> None:
    names = ", ".join(f'{{"name": "Max", "city": "Rome {i}"}}' for i in range(4))
    item = {"type": "object", "properties": {"name": {"type": "string"}, "city": {"type": "string"}}}
    schema = {"type": "array", "items": {**item, "required": ["name", "city"]}, "minItems": 3, "maxItems": 6}
    forge, id_ = same(llama, f"Repeat: [{names}]", format=schema, n=150)
    assert forge.finals[id_].n_accepted


def test_many_at_once_answer_as_they_do_alone(llama: Llama) -> None:
    """Each along its own draft, in steps of unequal lengths."""
    prompts = [*PROMPTS[:5], REPEATING, POEM * 3]
    plain = Forge(llama, drafts=False)
    for prompt in prompts:
        plain.ask(prompt, raw=prompt not in PROMPTS, n=40)
    crowd = Forge(llama)
    for id_, prompt in enumerate(prompts, 1):
        crowd.submit(id_, prompt, raw=prompt not in PROMPTS, n=40)
    crowd.finish()
    assert crowd.text == plain.text
    assert crowd.engine._tally.n_accepted


def test_a_follow_up_finds_the_kv_of_what_was_drafted(llama: Llama) -> None:
    texts = []
    for drafts in (True, False):
        forge = Forge(llama, drafts=drafts)
        context = forge.finals[forge.ask(POEM * 4, raw=True, n=60)].context
        prompt = ipc.Prompt(raw=" Then", context=context)
        forge.inbox.put(ipc.Submit(id=99, prompt=prompt, sampling=ipc.Sampling(temperature=0, num_predict=20)))
        forge.finish()
        texts.append(forge.text[99])
        assert forge.finals[99].n_cached >= len(context) - 1
    assert texts[0] == texts[1]


def test_cancel_between_two_steps_leaves_nothing(llama: Llama) -> None:
    forge = Forge(llama)
    forge.submit(1, REPEATING, raw=True, n=200, sampling={"ignore_eos": True})
    while not forge.engine._tally.n_accepted:
        forge.engine.step()
    forge.inbox.put(ipc.Cancel(1))
    forge.finish()
    assert not forge.engine._speculation._tracks
    assert Counter(slot.is_busy for slot in forge.scheduler.cache.slots) == {False: N_PARALLEL}


# --- a draft model ---


class Gift(DraftModel):
    """One whose drafts cost nothing: it is always asked."""

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        return 0.0

    def catch_up_s(self, wishes: Sequence[Wish]) -> float:
        return 0.0


@pytest.fixture(scope="module")
def drafter(llama: Llama) -> Iterator[DraftModel]:
    drafter = Gift(llama.load, llama)
    yield drafter
    drafter.close()


@pytest.mark.parametrize("prompt", PROMPTS[:6])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.8, "seed": 5}])
def test_a_draft_model_changes_no_answer(
    llama: Llama, drafter: DraftModel, prompt: str, sampling: dict[str, Any]
) -> None:
    forge, id_ = same(llama, prompt, drafter, sampling={**sampling, "speculative": "draft"}, n=40)
    assert forge.finals[id_].n_drafted


def test_a_draft_model_is_often_right(llama: Llama, drafter: DraftModel) -> None:
    """It names Cub's own greedy token in two of five places."""
    forge, id_ = same(llama, PROMPTS[4], drafter, sampling={"speculative": "draft"})
    assert forge.finals[id_].n_accepted >= 20


def test_a_draft_model_drafts_for_all_at_once(llama: Llama, drafter: DraftModel) -> None:
    """Its slots follow those who use them, one after another: more requests than slots, of unequal lengths."""
    prompts = [*PROMPTS[:6], *PROMPTS[:5]]
    plain = Forge(llama, drafts=False)
    for id_, prompt in enumerate(prompts, 1):
        plain.ask(prompt, n=10 + id_)
    crowd = Forge(llama, drafter=drafter)
    for id_, prompt in enumerate(prompts, 1):
        crowd.submit(id_, prompt, n=10 + id_)
    crowd.finish()
    assert crowd.text == plain.text
    assert crowd.engine._tally.n_accepted


def test_a_long_text_is_caught_up_with_in_parts(llama: Llama, drafter: DraftModel) -> None:
    wish = Wish(0, list(range(10, 10 + CATCH_UP_TOKENS + 5)))
    assert drafter.draft([wish], 3) == {}
    (in_parts,) = drafter.draft([wish], 3).values()
    assert len(in_parts) == 3
    (again,) = drafter.draft([wish], 3).values()
    assert again == in_parts
    assert drafter.draft([Wish(0, [7] * 511)], 3) == {}, "its context is full"


def test_a_draft_model_that_fails_is_no_ones_end(
    llama: Llama, drafter: DraftModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_wishes: object, _n: int) -> None:
        raise DecodeError(-3)

    monkeypatch.setattr(drafter, "draft", broken)
    same(llama, PROMPTS[0], drafter, sampling={"speculative": "draft"})


def test_a_draft_of_another_vocabulary_is_refused(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Llama(llama.load, lambda _fraction: None)
    monkeypatch.setattr(Llama, "vocabulary", property(lambda it: it is other))
    with pytest.raises(BadModel, match="other tokens"):
        DraftModel(llama.load, other)
    other.close(keeps_model=False)


def test_a_draft_model_that_cannot_take_a_draft_back_is_refused(llama: Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Llama(llama.load, lambda _fraction: None)
    monkeypatch.setattr(Llama, "is_plain", property(lambda it: it is other))
    with pytest.raises(BadModel, match="name one with full attention"):
        DraftModel(llama.load, other)
    other.close(keeps_model=False)


def test_another_shape_in_the_midst_of_an_answer_takes_the_draft_model_along() -> None:
    """Another variant, more slots than before, asleep and awake again; drafts go on."""
    settings = ipc.LoadSettings(n_ctx=256, n_parallel=2, n_threads=1)
    draft = str(CUB / "cub-draft-f16.gguf")
    load = ipc.Load(paths=[str(CUB / "cub-q8_0.gguf")], label="cub", draft=draft, settings=settings)
    llama = Llama(load, lambda _fraction: None)
    gift = Gift(load, llama)
    forge = Forge(llama, drafter=gift)
    forge.engine._shape._draft = gift
    forge.submit(1, PROMPTS[4], sampling={"speculative": "draft"})
    while not forge.engine._tally.n_accepted:
        forge.engine.step()
    wide = msgspec.structs.replace(settings, n_parallel=40)
    other = msgspec.structs.replace(load, paths=[str(CUB / "cub-q4_k_m.gguf")], settings=wide)
    forge.inbox.put(ipc.Reshape(load=other))
    n_before = forge.engine._tally.n_accepted
    forge.finish()
    assert forge.finals[1].n_answer == 80
    assert forge.engine._tally.n_accepted > n_before
    for is_asleep in (True, False):
        forge.inbox.put(ipc.Reshape(load=other, is_asleep=is_asleep))
    for id_ in range(2, 42):
        forge.submit(id_, PROMPTS[id_ % 4], n=6, sampling={"speculative": "draft"})
    forge.finish()
    assert len(forge.finals) == 41
    assert not any(isinstance(it, ipc.Reshaped) and it.failure for it in forge.told)
    gift.close()
    llama.close(keeps_model=False)


# --- the distribution ---

N_SAMPLES = 800
MOST_CHI = 3.29
"""Standard errors a statistic may be off: one run in a thousand by chance, were the seeds not fixed."""


class Always(Patience):
    """Drafts whatever it promises."""

    def is_over(self, gain: float) -> bool:
        return True


class Parrot:
    """Proposes always the same tokens, whatever comes: the likeliest ones, so that many are accepted."""

    def __init__(self, tokens: list[int], n_prompt: int) -> None:
        self._tokens, self._n_prompt = tokens, n_prompt

    def cost_s(self, n_sequences: int, n_tokens: int) -> float:
        return 0.0

    def catch_up_s(self, wishes: Sequence[Wish]) -> float:
        return 0.0

    def draft(self, wishes: Sequence[Wish], n_tokens: int) -> dict[int, list[int]]:
        return {wish.slot: self._tokens[len(wish.text) - self._n_prompt :][:n_tokens] for wish in wishes}


def answers(llama: Llama, drafter: Drafter | None, seeds: range) -> tuple[list[tuple[int, ...]], Forge]:
    """Four tokens after a prompt, once for each seed, at temperature 1."""
    forge = Forge(llama, drafts=drafter is not None, drafter=drafter)
    if speculation := forge.engine._speculation:
        speculation._patience = speculation._asks = Always()
    sampling = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "speculative": "draft", "ignore_eos": True}
    for seed in seeds:
        forge.submit(seed + 1, "The big dog", raw=True, n=4, sampling={**sampling, "seed": seed})
    forge.finish()
    assert not forge.errors
    return [tuple(forge.finals[seed + 1].context[-4:]) for seed in seeds], forge


def distance(ones: list[int], others: list[int]) -> float:
    """How far two samples' tokens are from one distribution, in standard errors (chi-square of two samples).

    Tokens seen fewer than ten times together are one class.
    """
    a, b = Counter(ones), Counter(others)
    common = [token for token in a | b if a[token] + b[token] >= 10]
    pairs = [(a[token], b[token]) for token in common]
    pairs.append((len(ones) - sum(x for x, _ in pairs), len(others) - sum(y for _, y in pairs)))
    chi = sum((x - y) ** 2 / (x + y) for x, y in pairs if x + y)
    n_free = len(pairs) - 1
    return (chi - n_free) / math.sqrt(2 * n_free)


def test_at_temperature_1_tokens_are_distributed_as_without_drafts(llama: Llama) -> None:
    """Second and third tokens, with drafts forced upon every answer, against other seeds without any."""
    without, _ = answers(llama, None, range(1000, 1000 + N_SAMPLES))
    n_prompt = len(llama.tokenize("The big dog", add_special=True))
    likely = [Counter(answer[i] for answer in without).most_common(1)[0][0] for i in range(4)]
    with_drafts, forge = answers(llama, Parrot(likely, n_prompt), range(N_SAMPLES))
    assert forge.engine._tally.n_accepted > N_SAMPLES / 20
    assert forge.engine._tally.n_drafted > N_SAMPLES / 2
    for place in (1, 2):
        ones, others = ([answer[place] for answer in some] for some in (with_drafts, without))
        assert distance(ones, others) < MOST_CHI
        # What a sampler would say that takes the draft for granted one time in five:
        forced = [likely[place] if i % 5 == 0 else token for i, token in enumerate(ones)]
        assert distance(forced, others) > MOST_CHI, "the test could not fail"
