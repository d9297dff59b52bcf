"""Models whose memory is not one cache of all tokens: what is reused of it changes no answer.

Flash attention is off: then llama.cpp's results do not depend on how a prompt is cut into steps, and answers are equal
to the last bit.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace
from typing import Any

import llama_cpp.llama_cpp as lib
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

KINDS = (*tiny_models.KINDS, "narrow")
"""The narrow one is the model with a window whose cache is no larger than the window needs."""
N_PARALLEL = 4
LAYOUTS = [(kind, "partitioned") for kind in KINDS] + [("plain", "unified")]
N_ANSWER = 24
SHAPE = {"n_ctx": 1024, "n_parallel": N_PARALLEL, "n_batch": 64, "n_ubatch": 32, "flash_attn": "off", "n_threads": 1}
"""A narrow window's cache has 256 cells then: of a longer text it holds the end only."""


def text(n: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase + " ", k=n))


def opened(kind: str, layout: str, folder: Path) -> Llama:
    path = tiny_models.write("window" if kind == "narrow" else kind, folder / f"{kind}.gguf", seed=4)
    settings = ipc.LoadSettings(kv_layout=layout, **SHAPE)
    load = ipc.Load(paths=[str(path)], label=kind, settings=settings)
    with pytest.MonkeyPatch.context() as patch:
        if kind == "narrow":
            patch.setattr(lib, "llama_context_default_params", narrow_params)
        return Llama(load, lambda _fraction: None)


def narrow_params(default: Callable[[], Any] = lib.llama_context_default_params) -> Any:
    params = default()
    params.swa_full = False
    return params


class Forge:
    """An engine with an empty cache, whose steps the test takes."""

    def __init__(self, llama: Llama, n_slots: int = N_PARALLEL) -> None:
        llama.forget_all()
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.finals: dict[int, Final] = {}
        self.errors: list[ipc.Failure] = []
        self.scheduler = new_scheduler(llama, Pace(1.0, llama.n_batch, 64))
        self.engine = Engine(llama, Intake(llama, None), self.scheduler, self.inbox, Outbox(self._hear))

    def _hear(self, step: ipc.Step) -> None:
        self.finals |= {delta.id: delta.final for delta in step.deltas if delta.final}
        self.errors += [delta.error for delta in step.deltas if delta.error]

    def submit(self, id_: int, prompt: str) -> None:
        sampling = ipc.Sampling(temperature=0, num_predict=N_ANSWER)
        self.inbox.put(ipc.Submit(id=id_, prompt=ipc.Prompt(raw=prompt), sampling=sampling))

    def finish(self) -> None:
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()
        assert not self.errors

    def answer(self, id_: int) -> str:
        return bytes(self.finals[id_].context[-N_ANSWER:]).decode()  # a token is a byte

    def ask(self, prompt: str) -> str:
        id_ = 1 + len(self.finals)
        self.submit(id_, prompt)
        self.finish()
        return self.answer(id_)


@pytest.fixture(scope="module", params=LAYOUTS, ids="-".join)
def llama(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Llama]:
    llama = opened(*request.param, tmp_path_factory.mktemp("tiny"))
    yield llama
    llama.close(keeps_model=False)


PROMPT = text(400)


@pytest.mark.parametrize(
    "prompts",
    [
        pytest.param([PROMPT, PROMPT], id="the same again"),
        pytest.param([PROMPT, PROMPT[:200]], id="its first half"),
        pytest.param([PROMPT, PROMPT[:100]], id="its first quarter"),
        pytest.param([PROMPT, PROMPT[:-1]], id="all but its end"),
        pytest.param([PROMPT, PROMPT[:200] + text(200, 1)], id="another second half"),
        pytest.param([PROMPT, PROMPT[:100] + text(300, 1)], id="another end of three quarters"),
        pytest.param([PROMPT, PROMPT[:390] + text(200, 1)], id="another end"),
        pytest.param([PROMPT[:20], PROMPT[:10] + text(300, 1), PROMPT[:20]], id="a short one"),
        pytest.param([PROMPT, text(400, 1), PROMPT, text(400, 1) + PROMPT, PROMPT[:300]], id="in turns"),
    ],
)
def test_prompts_one_after_another_are_answered_as_by_a_fresh_engine(llama: Llama, prompts: list[str]) -> None:
    expected = [Forge(llama).ask(prompt) for prompt in prompts]
    forge = Forge(llama, n_slots=1)  # each has to take what the one before left
    assert [forge.ask(prompt) for prompt in prompts] == expected


def test_a_chat_that_goes_on_is_answered_as_by_a_fresh_engine_and_computes_only_what_is_new(llama: Llama) -> None:
    forge, prompt = Forge(llama), PROMPT
    for turn in range(1, 4):
        answer = forge.ask(prompt)
        assert forge.finals[turn].n_cached == (0 if turn == 1 else forge.finals[turn - 1].n_prompt + N_ANSWER - 1)
        prompt += answer + text(50, turn)
    after, expected = forge.ask(prompt), Forge(llama).ask(prompt)
    assert after == expected


def test_prompts_at_once_are_answered_as_by_a_fresh_engine(llama: Llama) -> None:
    prompts = [PROMPT, PROMPT[:300] + text(100, 1), text(350, 2), PROMPT[:200], PROMPT + text(60, 3), PROMPT]
    expected = [Forge(llama).ask(prompt) for prompt in prompts]
    forge = Forge(llama)
    for first in (1, 101):  # the second time with all that the first has left
        for id_, prompt in enumerate(prompts, first):
            forge.submit(id_, prompt)
            forge.engine.step()
        forge.finish()
        assert [forge.answer(id_) for id_ in range(first, first + len(prompts))] == expected


# --- slots saved, restored, shared ---


def feed(llama: Llama, slot: int, text: str, start: int = 0) -> int:
    """Compute a text in a slot from position ``start``; returns the likeliest next token."""
    for at in range(0, len(text), 32):
        piece = list(text[at : at + 32].encode())
        chunk: Any = SimpleNamespace(slot=slot, start=start + at, tokens=piece, n_outputs=1)
        (logits,) = llama.decode([chunk])
    return int(logits.argmax())


def go_on(llama: Llama, slot: int, token: int, start: int, n: int = N_ANSWER) -> str:
    said = ""
    for position in range(start, start + n):
        said += chr(token)
        token = feed(llama, slot, chr(token), position)
    return said


def answered(llama: Llama, prompt: str) -> str:
    llama.forget_all()
    return go_on(llama, 0, feed(llama, 0, prompt), len(prompt))


def test_a_slot_is_restored_to_another_one(llama: Llama) -> None:
    expected = answered(llama, PROMPT)
    llama.forget_all()
    token = feed(llama, 0, PROMPT)
    state = llama.save(0)
    llama.forget_all()
    feed(llama, 1, PROMPT[:200])
    assert llama.restore(2, state, 0, len(PROMPT))
    assert go_on(llama, 2, token, len(PROMPT)) == expected


def test_a_whole_slot_is_shared(llama: Llama) -> None:
    """Each goes on for itself."""
    expected = answered(llama, PROMPT)
    llama.forget_all()
    token = feed(llama, 0, PROMPT)
    for slot in (1, 2):
        llama.share(0, slot, len(PROMPT))
    assert [go_on(llama, slot, token, len(PROMPT)) for slot in (1, 2, 0)] == [expected] * 3


def test_a_shared_slot_is_cut_where_its_memory_can_be(llama: Llama) -> None:
    """Else it is dropped; the other one goes on in either case."""
    other = PROMPT[:300] + text(50, 1)
    expected = answered(llama, other), answered(llama, PROMPT)
    llama.forget_all()
    feed(llama, 0, PROMPT[:310])
    llama.share(0, 1, 310)
    can_be_cut = llama.can_reuse(1, 300)
    assert can_be_cut is not llama.is_recurrent
    assert llama.forget(1, 300) is can_be_cut
    n_kept = 300 if can_be_cut else 0
    assert go_on(llama, 1, feed(llama, 1, other[n_kept:], n_kept), len(other)) == expected[0]
    assert go_on(llama, 0, feed(llama, 0, PROMPT[310:], 310), len(PROMPT)) == expected[1]


def test_an_answer_depends_on_the_whole_prompt(llama: Llama) -> None:
    """Else no test here could fail."""
    answer = Forge(llama).ask(PROMPT)
    for at in (0, 200, 390):
        other = PROMPT[:at] + text(8, at + 1) + PROMPT[at + 8 :]
        assert Forge(llama).ask(other) != answer


def test_a_slot_that_was_just_shared_to_is_restored_or_refused(llama: Llama) -> None:
    """The copy does not come after what was restored."""
    expected = answered(llama, PROMPT)
    llama.forget_all()
    token = feed(llama, 0, PROMPT)
    state = llama.save(0)
    llama.forget_all()
    feed(llama, 1, PROMPT[:40])
    llama.share(1, 2, 40)
    llama.forget(2, 0)
    if not llama.restore(2, state, 0, len(PROMPT)):
        token = feed(llama, 2, PROMPT)
    assert go_on(llama, 2, token, len(PROMPT)) == expected


def test_a_slot_whose_copy_is_still_to_be_made_is_not_saved(llama: Llama) -> None:
    """What it holds is not yet what it will hold."""
    llama.forget_all()
    feed(llama, 1, PROMPT[:40])
    llama.share(1, 2, 40)
    is_copied_at_once = llama.n_swa == 0
    assert bool(len(llama.save(2))) is is_copied_at_once
    feed(llama, 0, PROMPT[:10])
    assert len(llama.save(2))
