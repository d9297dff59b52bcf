"""Drafts on the real Cub change nothing but the number of steps: answers are those there would be without."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest

from beastd import ipc
from beastd.contract import Final, Logprob, Message
from beastd.engine.assembly import new_scheduler
from beastd.engine.costs import StepCosts
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.scheduler import Chunk, StepBudget
from beastd.engine.speculative import Speculation
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

    def predict_s(self, n_tokens: int) -> float:
        return 1.0 + n_tokens / 1e6


class Eager(Speculation):
    """It takes steps of unequal lengths for no dearer than others."""

    def extend(self, chunks: list[Chunk], n_room: int, *, is_split: bool) -> list[Chunk]:
        return super().extend(chunks, n_room, is_split=False)


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, llama: Llama, *, drafts: bool = True) -> None:
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.logprobs: dict[int, list[Logprob]] = {}
        self.finals: dict[int, Final] = {}
        self.errors: dict[int, ipc.Failure] = {}
        self.scheduler = new_scheduler(llama, StepBudget(1.0, 256, 256))
        speculation = Eager(Free()) if drafts else None
        intake, outbox = Intake(llama, None), Outbox(self._hear)
        self.engine = Engine(llama, intake, self.scheduler, self.inbox, outbox, speculation=speculation)
        llama.forget_all()

    def _hear(self, step: ipc.Step) -> None:
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
    load = ipc.Load(paths=[str(CUB / "cub-q8_0.gguf")], label="cub", settings=settings)
    llama = Llama(load, lambda _fraction: None)
    yield llama
    llama.close(keeps_model=False)


def same(llama: Llama, prompt: str, **fields: Any) -> tuple[Forge, int]:
    """Ask with drafts and without, and expect the same answer; what came with them."""
    plain = Forge(llama, drafts=False)
    id_ = plain.ask(prompt, **fields)
    drafting = Forge(llama)
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
    plain = Forge(llama, drafts=False)
    prompts = [*PROMPTS[:5], REPEATING, POEM * 3]
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
