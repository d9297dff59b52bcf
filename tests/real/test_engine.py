"""The engine's loop on the real Cub, in this process: batching changes nothing, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from loras import variations

from beastd import ipc
from beastd.contract import Final, Message
from beastd.engine.adapters import MAX_IDLE
from beastd.engine.assembly import new_scheduler
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import DecodeError, Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
N_PARALLEL = 4


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, llama: Llama, step_tokens: int = 64) -> None:
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.finals: dict[int, Final] = {}
        self.errors: dict[int, ipc.Failure] = {}
        self.scheduler = new_scheduler(llama, Pace(1.0, step_tokens, step_tokens))
        self.engine = Engine(llama, Intake(llama, None), self.scheduler, self.inbox, Outbox(self._hear))
        for slot in range(N_PARALLEL):
            llama.forget(slot, 0)

    def _hear(self, step: ipc.Step) -> None:
        for delta in step.deltas:
            assert delta.id not in self.finals, "nothing follows an ending"
            assert delta.id not in self.errors, "nothing follows an error"
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final:
                self.finals[delta.id] = delta.final
            if delta.error:
                self.errors[delta.id] = delta.error

    def submit(self, id_: int, prompt: str = "", n: int = 24, **fields: Any) -> None:
        sampling = ipc.Sampling(temperature=0, num_predict=n, **fields.pop("sampling", {}))
        made = fields.pop("made", None) or ipc.Prompt(messages=[Message(role="user", content=prompt)])
        self.inbox.put(ipc.Submit(id=id_, prompt=made, sampling=sampling, **fields))

    def finish(self) -> None:
        """Step until there is nothing to do; a request of garbage at the end wakes the last, blocking step."""
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()

    def ask(self, prompt: str, **fields: Any) -> str:
        id_ = 1000 + len(self.finals)
        self.submit(id_, prompt, **fields)
        self.finish()
        return self.text[id_]


@pytest.fixture(scope="module")
def llama() -> Llama:
    settings = ipc.LoadSettings(n_ctx=512, n_parallel=N_PARALLEL)
    return Llama(ipc.Load(paths=[str(CUB / "cub-q8_0.gguf")], label="cub", settings=settings), lambda _fraction: None)


@pytest.fixture
def forge(llama: Llama) -> Iterator[Forge]:
    forge = Forge(llama)
    yield forge
    assert forge.scheduler.is_idle
    assert not any(slot.is_busy for slot in forge.scheduler.cache.slots)


def test_answers_are_the_same_alone_and_in_a_crowd(forge: Forge) -> None:
    prompts = ["Who are you?", "What is the capital of Italy?", "Why is the sky blue?", "Hello!", "List three fruits."]
    alone = [forge.ask(prompt) for prompt in prompts]
    for id_, prompt in enumerate(prompts):
        forge.submit(id_, prompt)
        forge.engine.step()
    forge.finish()
    assert [forge.text[id_] for id_ in range(len(prompts))] == alone


def test_a_prompt_in_many_chunks_is_understood_as_in_one(llama: Llama) -> None:
    """Word for word equality is not to be had: kernels round differently at different batch sizes."""
    turns = ["Hello!", "Hi! How are you today?", "Who are you?", "I am Cub, the small built-in model of Beast."] * 4
    messages = [Message(role="assistant" if i % 2 else "user", content=text) for i, text in enumerate(turns)]
    prompt = ipc.Prompt(messages=[*messages, Message(role="user", content="What is the capital of Italy?")])
    for step_tokens in (32, 48, 2048):
        forge = Forge(llama, step_tokens)
        forge.submit(1, made=prompt)
        forge.finish()
        assert "Rome" in forge.text[1]


def test_a_long_prompt_does_not_stop_the_stream_of_another(llama: Llama) -> None:
    forge = Forge(llama, step_tokens=32)
    forge.submit(1, "Tell me a story.", n=40)
    while 1 not in forge.text:
        forge.engine.step()
    forge.submit(2, "word " * 300, n=1)  # ten steps of 32 tokens
    before = len(forge.text[1])
    for _ in range(3):
        forge.engine.step()
    assert 2 not in forge.finals
    assert len(forge.text[1]) > before
    forge.finish()


def test_a_shared_beginning_is_not_computed_again(forge: Forge) -> None:
    first = forge.ask("Tell me a short story about a fox and a bear.")
    again = forge.ask("Tell me a short story about a fox and a bear.")
    *_, final = forge.finals.values()
    assert again == first
    assert final.n_cached == final.n_prompt - 1


def test_cancel_frees_the_sequence_before_the_next_step(forge: Forge) -> None:
    forge.submit(1, "Tell me a story.", n=400)
    while 1 not in forge.text:
        forge.engine.step()
    said = forge.text[1]
    forge.inbox.put(ipc.Cancel(1))
    forge.submit(2, "Hello!", n=4)
    forge.finish()
    assert forge.text[1] == said
    assert 1 not in forge.finals
    assert 2 in forge.finals


def test_more_requests_than_slots_all_end(forge: Forge) -> None:
    for id_ in range(3 * N_PARALLEL):
        forge.submit(id_, f"Story {id_}", n=5 + id_)
    forge.finish()
    assert forge.finals.keys() == set(range(3 * N_PARALLEL))


def test_adapters_take_turns_and_do_not_leak_into_others(forge: Forge) -> None:
    pirate = [ipc.Adapter(str(CUB / "cub-pirate-lora-f16.gguf"), 1.0)]
    plain = forge.ask("Why is the sky blue?")
    forge.submit(1, "Why is the sky blue?", adapters=pirate)
    forge.submit(2, "Why is the sky blue?")
    forge.finish()
    assert forge.text[2] == plain
    assert "Arr" in forge.text[1]


def test_a_file_that_is_no_adapter_fails_its_own_request_only(forge: Forge) -> None:
    forge.submit(1, "Hello!", adapters=[ipc.Adapter(str(CUB / "cub-q2_k.gguf"), 1.0)])
    forge.submit(2, "Hello!", n=4)
    forge.finish()
    assert forge.errors[1].code == "bad_model"
    assert 2 in forge.finals


def test_a_step_that_fails_ends_its_requests_with_one_error_and_the_engine_goes_on(
    forge: Forge, llama: Llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_chunks: object) -> None:
        raise DecodeError(-3)

    expected = forge.ask("Hello!", n=4)
    with monkeypatch.context() as patch:
        patch.setattr(llama, "decode", broken)
        forge.submit(1, "Hello!")
        forge.finish()
    assert forge.errors[1].code == "engine_failed"
    assert forge.ask("Hello!", n=4) == expected


def test_the_context_limit_counts_prompt_and_answer(forge: Forge) -> None:
    forge.submit(1, "Tell me a story.", n=-1, n_ctx=40, sampling={"ignore_eos": True})
    forge.finish()
    final = forge.finals[1]
    assert final.reason == "length"
    assert final.n_prompt + final.n_answer == 40


def test_num_predict_0_computes_the_prompt_and_says_nothing(forge: Forge) -> None:
    forge.submit(1, "Hello!", n=0)
    forge.finish()
    assert forge.finals[1].reason == "length"
    assert forge.finals[1].n_answer == 0
    assert forge.text[1] == ""


def test_an_unfinished_answer_is_continued(forge: Forge) -> None:
    messages = [
        Message(role="user", content="What is the capital of Italy?"),
        Message(role="assistant", content="The capital of Italy is"),
    ]
    forge.submit(1, made=ipc.Prompt(messages=messages))
    forge.finish()
    assert forge.text[1].startswith(" Rome")


def test_context_tokens_go_before_the_prompt(forge: Forge) -> None:
    forge.submit(1, "My name is Max.", n=8)
    forge.finish()
    context = forge.finals[1].context
    forge.submit(2, made=ipc.Prompt(messages=[Message(role="user", content="Hello!")], context=context), n=4)
    forge.finish()
    assert forge.finals[2].context[: len(context)] == context


def test_logit_bias_takes_texts_and_ids(forge: Forge, llama: Llama) -> None:
    (rome,) = llama.tokenize(" Rome", add_special=False)
    for bias in ({" Rome": -100.0}, {str(rome): -100.0}):
        assert "Rome" not in forge.ask("What is the capital of Italy?", sampling={"logit_bias": bias})
    forge.submit(1, "Hi", sampling={"logit_bias": {"two tokens at least": 1.0}})
    forge.finish()
    assert forge.errors[1].code == "bad_request"


# --- many adapters ---


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[list[ipc.Adapter]]:
    """Eight adapters that all answer differently."""
    paths = variations(CUB / "cub-pirate-lora-f16.gguf", tmp_path_factory.mktemp("adapters"), 8)
    return [[ipc.Adapter(str(path))] for path in paths]


def test_each_of_many_adapters_answers_in_a_crowd_as_it_does_alone(
    forge: Forge, adapters: list[list[ipc.Adapter]]
) -> None:
    """Two streams of each, mixed with plain ones, on four slots; each set says something of its own."""
    sets = [[], *adapters]
    prompts = ["Who are you?", "Why is the sky blue?"]
    alone = [[forge.ask(prompt, adapters=one) for prompt in prompts] for one in sets]
    assert len({tuple(answers) for answers in alone}) == len(sets)
    for i, one in enumerate(sets):
        for j, prompt in enumerate(prompts):
            forge.submit(10 * i + j, prompt, adapters=one)
    forge.finish()
    assert [[forge.text[10 * i + j] for j in range(len(prompts))] for i in range(len(sets))] == alone


def test_adapters_come_and_go_while_others_stream(
    forge: Forge, llama: Llama, adapters: list[list[ipc.Adapter]], tmp_path: Path
) -> None:
    """A detached file is read anew for who comes later; who runs with it, and all others, go on undisturbed."""
    pirate, other = adapters[0], adapters[1]
    alone = {1: forge.ask("Tell me a story.", n=60), 2: forge.ask("Tell me a story.", n=60, adapters=pirate)}
    expected = forge.ask("Why is the sky blue?", adapters=other)
    moved = tmp_path / "moved.gguf"
    moved.write_bytes(Path(pirate[0].path).read_bytes())
    forge.submit(1, "Tell me a story.", n=60)
    forge.submit(2, "Tell me a story.", n=60, adapters=[ipc.Adapter(str(moved))])
    while not forge.text.keys() >= {1, 2}:
        forge.engine.step()
    n_before = llama.n_adapters
    moved.write_bytes(Path(other[0].path).read_bytes())
    forge.inbox.put(ipc.Detach(str(moved)))
    forge.submit(3, "Why is the sky blue?", adapters=[ipc.Adapter(str(moved))])
    while 3 not in forge.finals:
        forge.engine.step()
    assert llama.n_adapters == n_before + 1
    forge.finish()
    assert forge.text[3] == expected
    assert {id_: forge.text[id_] for id_ in alone} == alone
    assert llama.n_adapters == n_before


def test_more_adapters_than_are_kept_all_answer_right(forge: Forge, llama: Llama, tmp_path: Path) -> None:
    """Memory holds the number that may be idle, and those read again say what they said."""
    original = (CUB / "cub-pirate-lora-f16.gguf").read_bytes()
    paths = [tmp_path / f"{i}.gguf" for i in range(MAX_IDLE + 4)]
    for path in paths:
        path.write_bytes(original)
    answers = [forge.ask("Hello!", n=4, adapters=[ipc.Adapter(str(path))]) for path in [*paths, *paths[:8]]]
    assert len(set(answers)) == 1
    assert llama.n_adapters == MAX_IDLE
    for path in paths:
        forge.inbox.put(ipc.Detach(str(path)))
    forge.finish()
    forge.ask("Hello!", n=4)
    assert llama.n_adapters < MAX_IDLE - 4


def test_changes_of_adapter_leave_no_trace_in_the_log(
    forge: Forge, adapters: list[list[ipc.Adapter]], capfd: pytest.CaptureFixture[str]
) -> None:
    """llama.cpp tells at length how it plans its memory, at every change."""
    for one in adapters[:2]:
        forge.ask("Hello!", n=2, adapters=one)
    capfd.readouterr()
    for one in adapters[:2] * 3:
        forge.ask("Hello!", n=2, adapters=one)
    assert capfd.readouterr().err == ""
