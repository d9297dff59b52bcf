"""The engine changes its shape on the real Cub while it answers: streams go on, and no text is lost or repeated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec
import pytest

from beastd import ipc
from beastd.contract import Final, Message
from beastd.engine import reshape as reshape_module
from beastd.engine.assembly import new_scheduler
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.errors import BadModel
from beastd.registry.registry import BUILTIN_DIR

CUB = BUILTIN_DIR / "cub"
N_PARALLEL = 4
QUESTIONS = [
    "Who are you?",
    "What is the capital of Italy?",
    "Why is the sky blue?",
    "Tell me a story.",
    "List three fruits.",
    "What is two plus two?",
    "How do birds fly?",
    "Tell me about the sea.",
]


def load(variant: str = "q8_0", path: Path | None = None, **settings: Any) -> ipc.Load:
    defaults = {"n_ctx": 512, "n_parallel": N_PARALLEL, "n_threads": 1}
    where = str(path or CUB / f"cub-{variant}.gguf")
    return ipc.Load(paths=[where], label="cub", variant=variant, settings=ipc.LoadSettings(**{**defaults, **settings}))


class Forge:
    """An engine whose steps the test takes, and what it has said so far."""

    def __init__(self, shape: ipc.Load) -> None:
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.text: dict[int, str] = {}
        self.finals: dict[int, Final] = {}
        self.errors: dict[int, ipc.Failure] = {}
        self.told: list[ipc.FromWorker] = []
        self.llama = Llama(shape, lambda _fraction: None)
        self.scheduler = new_scheduler(self.llama, Pace(1.0, 256, 256))
        intake = Intake(self.llama, None)
        self.engine = Engine(self.llama, intake, self.scheduler, self.inbox, Outbox(self._hear))

    def _hear(self, message: ipc.FromWorker) -> None:
        if not isinstance(message, ipc.Step):
            self.told.append(message)
            return
        for delta in message.deltas:
            assert delta.id not in self.finals | self.errors, "nothing follows an ending"
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final:
                self.finals[delta.id] = delta.final
            if delta.error:
                self.errors[delta.id] = delta.error

    def submit(self, id_: int, prompt: str | list[Message], n: int = 24, **fields: Any) -> None:
        messages = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
        sampling = ipc.Sampling(temperature=0, num_predict=n, ignore_eos=fields.pop("ignore_eos", True))
        self.inbox.put(ipc.Submit(id=id_, prompt=ipc.Prompt(messages=messages), sampling=sampling, **fields))

    def submit_all(self, n: int = 40) -> None:
        """The first four questions."""
        for id_, prompt in enumerate(QUESTIONS[:4], 1):
            self.submit(id_, prompt, n)

    def step(self, n: int = 1) -> None:
        for _ in range(n):
            self.engine.step()

    def poke(self) -> None:
        """A step that does not wait for something to hear."""
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()

    def become(self, shape: ipc.Load, *, is_asleep: bool = False) -> ipc.Reshaped:
        self.inbox.put(ipc.Reshape(load=shape, is_asleep=is_asleep))
        self.engine.step()
        reshaped = self.told[-1]
        assert isinstance(reshaped, ipc.Reshaped)
        return reshaped

    def finish(self) -> None:
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
        self.poke()

    def ask(self, prompt: str | list[Message], id_: int = 1000, **fields: Any) -> str:
        self.submit(id_, prompt, **fields)
        self.finish()
        return self.text.pop(id_)

    def assert_whole(self, id_: int, n: int) -> None:
        """The text is that of the answer's tokens, each once."""
        final = self.finals[id_]
        answer = final.context[final.n_prompt :]
        assert len(answer) == final.n_answer == n
        assert self.text[id_] == b"".join(map(self.llama.piece, answer)).decode("utf-8", "replace")


@pytest.fixture
def forge() -> Iterator[Forge]:
    forge = Forge(load())
    yield forge
    assert forge.scheduler.is_idle
    assert not any(slot.is_busy for slot in forge.scheduler.cache.slots)
    forge.llama.close(keeps_model=False)


@pytest.fixture
def q8_copy(tmp_path: Path) -> Path:
    """The same weights at another path: to the engine another variant."""
    return Path(shutil.copy(CUB / "cub-q8_0.gguf", tmp_path / "copy.gguf"))


@pytest.fixture(scope="module")
def calm() -> Iterator[Forge]:
    """An engine that is never reshaped; it outlives the tests, since llama.cpp may log to it."""
    forge = Forge(load())
    yield forge
    forge.llama.close(keeps_model=False)


@pytest.fixture
def expected(calm: Forge) -> list[str]:
    """Forty tokens on each of the first four questions."""
    if not calm.text:
        calm.submit_all()
        calm.finish()
    return [calm.text[id_] for id_ in range(1, 5)]


# --- variants ---


def test_eight_streams_go_down_and_up_the_ladder() -> None:
    """Each keeps its text, has every token once, and names the variants that computed it."""
    forge = Forge(load(n_parallel=8))
    ladder = ["q4_k_m", "q2_k", "q4_k_m", "q8_0"]
    for id_, prompt in enumerate(QUESTIONS):
        forge.submit(id_, prompt, n=60)
    forge.step(6)
    for variant in ladder:
        before = dict(forge.text)
        n_steps = forge.engine._tally.n_steps
        assert forge.become(load(variant, n_parallel=8)).failure is None
        forge.step(8)
        assert forge.engine._tally.n_steps > n_steps
        assert all(forge.text[id_].startswith(before[id_]) for id_ in before)
        assert forge.engine._tally.n_prompt == sum(len(s.prompt) for s in forge.scheduler.running), "no prompt again"
    forge.finish()
    for id_ in range(8):
        forge.assert_whole(id_, 60)
        assert forge.finals[id_].variant == "q8_0"
        assert forge.finals[id_].variants == ["q8_0", "q4_k_m", "q2_k"]
    forge.llama.close(keeps_model=False)


def test_the_kv_that_is_carried_over_is_the_same(forge: Forge, expected: list[str], q8_copy: Path) -> None:
    """With the same weights in another file, greedy answers are as if nothing had happened."""
    forge.submit_all()
    forge.step(10)
    assert forge.become(load("copy", q8_copy)).failure is None
    forge.finish()
    assert [forge.text[id_] for id_ in range(1, 5)] == expected


def test_the_next_turn_of_a_chat_finds_its_kv_after_a_switch(forge: Forge) -> None:
    said = forge.ask("Who are you?", id_=1, ignore_eos=False)
    forge.become(load("q4_k_m"))
    turns = [
        Message(role="user", content="Who are you?"),
        Message(role="assistant", content=said),
        Message(role="user", content="Why?"),
    ]
    forge.ask(turns, id_=2)
    assert forge.finals[2].n_cached >= forge.finals[1].n_prompt


def test_idle_kv_beyond_the_limit_is_forgotten_oldest_first(forge: Forge, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what is forgotten is computed again, not taken for there."""
    for id_, prompt in enumerate(QUESTIONS[:2], 1):
        forge.ask(prompt, id_=id_, n=4)
    n_bytes = [forge.llama.state_bytes(slot.index) for slot in forge.scheduler.cache.slots if slot.tokens]
    monkeypatch.setattr(reshape_module, "MAX_IDLE_BYTES", max(n_bytes))
    forge.become(load("q4_k_m"))
    forge.ask(QUESTIONS[1], id_=4)
    forge.ask(QUESTIONS[0], id_=3)
    assert forge.finals[3].n_cached < forge.finals[3].n_prompt - 1
    assert forge.finals[4].n_cached == forge.finals[4].n_prompt - 1


def test_a_grammar_holds_across_a_switch(forge: Forge) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string", "maxLength": 30}, "age": {"type": "integer"}},
        "required": ["name", "age"],
    }
    forge.submit(1, "Who are you?", n=100, format=schema, ignore_eos=False)
    forge.submit(2, "Who are you?", n=100, format=schema, ignore_eos=False)
    forge.step(5)
    assert 0 < len(forge.scheduler.running[0].answer) < 20
    forge.become(load("q2_k"))
    forge.finish()
    for id_ in (1, 2):
        assert json.loads(forge.text[id_]).keys() == {"name", "age"}


def test_adapters_are_read_again_after_a_switch(forge: Forge) -> None:
    pirate = [ipc.Adapter(str(CUB / "cub-pirate-lora-f16.gguf"), 1.0)]
    forge.submit(1, "Why is the sky blue?", n=30, adapters=pirate)
    forge.step(4)
    forge.become(load("q4_k_m"))
    forge.submit(2, "Why is the sky blue?", n=30, adapters=pirate)
    forge.finish()
    assert "Arr" in forge.text[1]
    assert "Arr" in forge.text[2]


# --- settings ---


@pytest.mark.parametrize("settings", [{"n_ctx": 1024}, {"n_parallel": 7}, {"kv_layout": "unified"}, {"n_batch": 256}])
def test_another_context_changes_no_answer(forge: Forge, expected: list[str], settings: dict[str, Any]) -> None:
    """Its KV is carried over: nothing is computed again."""
    forge.submit_all()
    forge.step(10)
    reshaped = forge.become(load(**settings))
    assert reshaped.failure is None
    assert reshaped.ready.n_ctx == settings.get("n_ctx", 512)
    forge.finish()
    assert [forge.text[id_] for id_ in range(1, 5)] == expected
    assert forge.engine._tally.n_prompt == sum(forge.finals[id_].n_prompt for id_ in range(1, 5))


def test_a_grown_context_takes_longer_requests(forge: Forge) -> None:
    long = "word " * 700
    forge.submit(1, long, n=2)
    forge.finish()
    assert forge.errors[1].code == "context_exceeded"
    forge.become(load(n_ctx=1024))
    forge.submit(2, long, n=2)
    forge.finish()
    assert forge.finals[2].n_answer == 2


def test_busy_slots_move_into_a_smaller_range(forge: Forge, expected: list[str]) -> None:
    for id_, prompt in enumerate(QUESTIONS[:4], 1):
        forge.submit(id_, prompt, n=1 if id_ <= 2 else 40)
    forge.step(4)
    assert {s.slot.index for s in forge.scheduler.running if s.slot} & {2, 3}, "some are above the range"
    forge.become(load(n_parallel=2))
    forge.finish()
    assert [forge.text[id_] for id_ in (3, 4)] == expected[2:]


def test_with_fewer_slots_than_answers_the_last_ones_wait_and_go_on(forge: Forge) -> None:
    forge.submit_all()
    forge.step(10)
    before = dict(forge.text)
    assert forge.become(load(n_parallel=1)).ready.n_parallel == 1
    assert len(forge.scheduler.running) == 1
    forge.finish()
    for id_ in range(1, 5):
        forge.assert_whole(id_, 40)
        assert forge.text[id_].startswith(before[id_])
        assert forge.finals[id_].n_prompt < 40


def test_another_kv_type_computes_the_running_answers_again(forge: Forge) -> None:
    """Their text so far stays; nothing of it is said twice."""
    forge.submit_all()
    forge.step(10)
    n_prompt, before = forge.engine._tally.n_prompt, dict(forge.text)
    assert forge.become(load(kv_type="q8_0")).failure is None
    forge.finish()
    assert forge.engine._tally.n_prompt > n_prompt
    for id_ in range(1, 5):
        forge.assert_whole(id_, 40)
        assert forge.text[id_].startswith(before[id_])


def test_a_context_too_small_for_a_running_answer_is_refused(forge: Forge, expected: list[str]) -> None:
    forge.submit_all()
    forge.step(10)
    reshaped = forge.become(load(n_ctx=256))
    assert reshaped.failure is not None
    assert reshaped.failure.code == "conflict"
    assert reshaped.ready.n_ctx == 512
    forge.finish()
    assert [forge.text[id_] for id_ in range(1, 5)] == expected


# --- sleep ---


def test_it_sleeps_and_wakes(forge: Forge) -> None:
    """Asleep it keeps only the weights, and answers pings; awake it answers as before, from an empty cache."""
    expected = forge.ask("Who are you?", id_=1)
    asleep = forge.become(load(), is_asleep=True)
    assert asleep.failure is None
    assert forge.llama._ctx is None
    forge.inbox.put(ipc.Ping())
    forge.step()
    assert isinstance(forge.told[-1], ipc.Pong)
    assert forge.told[-1].stats.n_kv_tokens == 0
    assert forge.become(load()).failure is None
    assert forge.ask("Who are you?", id_=2) == expected
    assert forge.finals[2].n_cached == 0


def test_an_adapter_is_detached_from_a_sleeper(forge: Forge) -> None:
    """It is freed with no context to take it from, and read again once the model is awake."""
    pirate = [ipc.Adapter(str(CUB / "cub-pirate-lora-f16.gguf"))]
    expected = forge.ask("Hello!", id_=1, adapters=pirate)
    forge.become(load(), is_asleep=True)
    assert forge.llama.n_adapters == 1
    forge.inbox.put(ipc.Detach(pirate[0].path))
    forge.poke()
    assert forge.llama.n_adapters == 0
    forge.become(load())
    assert forge.ask("Hello!", id_=2, adapters=pirate) == expected


def test_buffers_are_counted_after_an_adapter_was_detached(forge: Forge) -> None:
    """A log that was quiet for a change of adapters hears again when it is to tell what a load takes."""
    before = dict(forge.llama._log.buffer_bytes)
    pirate = [ipc.Adapter(str(CUB / "cub-pirate-lora-f16.gguf"))]
    forge.ask("Hello!", id_=1, adapters=pirate)
    forge.inbox.put(ipc.Detach(pirate[0].path))
    forge.poke()
    forge.become(load("q4_k_m"))
    forge.become(load())
    assert forge.llama._log.buffer_bytes == before


def test_a_request_to_a_sleeper_fails_and_it_can_still_wake(forge: Forge) -> None:
    forge.become(load(), is_asleep=True)
    forge.submit(1, "Hello!")
    forge.step()
    forge.poke()
    assert forge.errors[1].code == "engine_failed"
    forge.become(load("q4_k_m"))
    assert forge.ask("Hello!", id_=2)


@pytest.mark.parametrize("n_steps", [0, 4])
def test_it_does_not_fall_asleep_over_a_request(forge: Forge, n_steps: int) -> None:
    """Whether it has begun, or has just come in."""
    forge.submit(1, "Tell me a story.", n=30)
    forge.step(n_steps)
    reshaped = forge.become(load(), is_asleep=True)
    assert reshaped.failure is not None
    assert reshaped.failure.code == "conflict"
    forge.finish()
    forge.assert_whole(1, 30)


# --- failures ---


def garbage(tmp_path: Path) -> Path:
    (path := tmp_path / "garbage.gguf").write_bytes(b"GGUF" + b"\x07" * 5000)
    return path


def another_model(_tmp_path: Path) -> Path:
    return CUB / "cub-draft-f16.gguf"


def another_vocabulary(tmp_path: Path) -> Path:
    """Cub of the same size, with a token that is spelled otherwise."""
    data = (CUB / "cub-q8_0.gguf").read_bytes()
    at = data.index(b"tokenizer.ggml.tokens")
    path = tmp_path / "other.gguf"
    path.write_bytes(data[:at] + data[at:].replace("Ġgrandfather".encode(), "Ġgrandfatheq".encode(), 1))
    return path


@pytest.mark.parametrize("make", [garbage, another_model, another_vocabulary])
def test_a_reshape_that_fails_leaves_all_as_it_was(
    forge: Forge, expected: list[str], tmp_path: Path, make: Any
) -> None:
    forge.submit_all()
    forge.step(10)
    reshaped = forge.become(load("bad", make(tmp_path)))
    assert reshaped.failure is not None
    assert reshaped.failure.code == "bad_model"
    forge.finish()
    assert [forge.text[id_] for id_ in range(1, 5)] == expected
    assert forge.finals[1].variant == "q8_0"
    assert forge.finals[1].variants == []


def test_a_context_that_cannot_be_had_leaves_all_as_it_was(forge: Forge, expected: list[str]) -> None:
    forge.submit_all()
    forge.step(10)
    reshaped = forge.become(load(n_parallel=100_000))
    assert reshaped.failure is not None
    assert reshaped.failure.code == "load_failed"
    assert reshaped.ready.n_parallel == N_PARALLEL
    forge.finish()
    assert [forge.text[id_] for id_ in range(1, 5)] == expected


def test_when_the_old_shape_is_gone_too_every_request_ends_once(tmp_path: Path, q8_copy: Path) -> None:
    """And the engine's loop ends with the error."""
    forge = Forge(load("copy", q8_copy))
    for id_ in range(1, 7):  # two of them wait for a slot
        forge.submit(id_, "Hello!", n=100)
    forge.step(4)
    q8_copy.unlink()
    forge.inbox.put(ipc.Reshape(load=load("bad", garbage(tmp_path))))
    with pytest.raises(BadModel):
        forge.engine.step()
    assert {id_: failure.code for id_, failure in forge.errors.items()} == dict.fromkeys(range(1, 7), "bad_model")
    assert not forge.finals


# --- what comes meanwhile ---


def test_what_is_sent_during_a_reshape_is_heard_after_it(forge: Forge) -> None:
    forge.submit(1, "Tell me a story.", n=400)
    forge.step(4)
    forge.inbox.put(ipc.Reshape(load=load("q4_k_m")))
    forge.inbox.put(ipc.Cancel(1))
    forge.submit(2, "Hello!", n=4)
    forge.finish()
    assert 1 not in forge.finals
    assert forge.finals[2].variant == "q4_k_m"


def test_a_ping_is_answered_with_what_was_done(forge: Forge) -> None:
    forge.ask("Who are you?", id_=1, n=10)
    forge.ask("Who are you?", id_=2, n=10)
    forge.inbox.put(ipc.Ping())
    forge.step()
    pong = forge.told[-1]
    assert isinstance(pong, ipc.Pong)
    stats, n_prompt = pong.stats, forge.finals[1].n_prompt
    measured = ("resident_bytes", "anon_bytes", "n_steps", "step_s", "n_chunk", "itl_s", "predicted_s", "measured_s")
    assert msgspec.structs.replace(stats, **dict.fromkeys(measured, 0)) == ipc.EngineStats(
        n_kv_tokens=2 * (n_prompt + 9), n_prompt=n_prompt + 1, n_cached=n_prompt - 1, n_answer=20
    )
    assert 0 < stats.anon_bytes < stats.resident_bytes
    assert stats.n_steps == 20
    assert min(stats.n_chunk, stats.itl_s, stats.predicted_s, stats.measured_s) > 0
