"""Drafts from a model's own heads, on tiny models whose heads are always right, know nothing, or repeat."""

from __future__ import annotations

import random
import string
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models

from beastd import ipc
from beastd.engine.llama import Llama
from beastd.engine.mtp import Heads
from beastd.errors import LoadFailed

N_DRAFT = 4
N_ANSWER = 40
PROMPTS = ["".join(random.Random(seed).choices(string.ascii_lowercase, k=90 + 50 * seed)) for seed in range(3)]


def opened(kind: str, folder: Path, *, mtp: bool = True, heads: str = "ignorant") -> Llama:
    path = tiny_models.write(kind, folder / "model.gguf", seed=4, heads=heads)
    settings = ipc.LoadSettings(
        n_ctx=512, n_parallel=4, n_batch=64, flash_attn="off", n_threads=1, mtp=mtp, n_rollback=N_DRAFT
    )
    return Llama(ipc.Load(paths=[str(path)], label=kind, settings=settings), lambda _fraction: None, n_outputs=32)


@pytest.fixture(
    params=[(kind, heads) for kind in ("mtp", "delta") for heads in ("right", "ignorant", "echo")], ids="-".join
)
def llama(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Llama]:
    llama = opened(request.param[0], tmp_path, heads=request.param[1])
    yield llama
    llama.close(keeps_model=False)


def piece(slot: int, tokens: list[int], start: int, n_outputs: int = 1) -> Any:
    return SimpleNamespace(slot=slot, tokens=tokens, start=start, n_outputs=n_outputs)


class Writer:
    """One answer: what the target has said, and where it is."""

    def __init__(self, slot: int, prompt: str) -> None:
        self.slot, self.n, self.prompt = slot, 0, list(prompt.encode())
        self.said: list[int] = []

    def checks(self, draft: list[int]) -> Any:
        return piece(self.slot, [self.said[-1], *draft], self.n, 1 + len(draft))


def prefill(llama: Llama, heads: Heads | None, n_step: int = 20) -> list[Writer]:
    """All prompts side by side, in steps of so many tokens each."""
    llama.forget_all()
    writers = [Writer(slot, prompt) for slot, prompt in enumerate(PROMPTS)]
    while waiting := [writer for writer in writers if writer.n < len(writer.prompt)]:
        step = [piece(it.slot, it.prompt[it.n : it.n + n_step], it.n) for it in waiting]
        rows = llama.decode(step).argmax(axis=1)
        if heads:
            heads.follow(step)
        for writer, chunk, token in zip(waiting, step, rows, strict=True):
            writer.n += len(chunk.tokens)
            writer.said = [int(token)]
    return writers


def answers(llama: Llama) -> list[list[int]]:
    writers = prefill(llama, None)
    for _ in range(N_ANSWER):
        for writer in writers:
            (row,) = llama.decode([writer.checks([])])
            writer.n += 1
            writer.said.append(int(row.argmax()))
    return [writer.said for writer in writers]


def speculate(llama: Llama, heads: Heads) -> tuple[list[list[int]], int, int, int]:
    """Answers, tokens drafted, tokens accepted, tokens that repeat the last one."""
    writers, n_drafted, n_accepted, n_echoed = prefill(llama, heads), 0, 0, 0
    while going := [writer for writer in writers if len(writer.said) <= N_ANSWER]:
        drafts = heads.draft({it.slot: (it.said[-1], it.n) for it in going}, N_DRAFT)
        n_echoed += sum(drafts[it.slot].count(it.said[-1]) for it in going)
        steps = [it.checks(drafts[it.slot]) for it in going]
        rows = iter(llama.decode(steps).argmax(axis=1))
        heads.follow(steps)
        for writer in going:
            draft = drafts[writer.slot]
            truth = [int(next(rows)) for _ in range(N_DRAFT + 1)]
            n_right = next((i for i in range(N_DRAFT) if draft[i] != truth[i]), N_DRAFT)
            n_drafted, n_accepted = n_drafted + N_DRAFT, n_accepted + n_right
            writer.said += truth[: n_right + 1]
            writer.n += n_right + 1
            assert llama.forget(writer.slot, writer.n)
            heads.forget(writer.slot, writer.n)
    return [writer.said[: N_ANSWER + 1] for writer in writers], n_drafted, n_accepted, n_echoed


def test_drafts_change_no_answer_and_right_ones_are_all_accepted(llama: Llama, request: pytest.FixtureRequest) -> None:
    """Three sequences at once, of different lengths; wrong drafts are cut off again.

    An echo is heard only where each token comes with the state before it, at the right place of the right sequence.
    """
    expected = answers(llama)
    heads = Heads(llama)
    said, n_drafted, n_accepted, n_echoed = speculate(llama, heads)
    heads.close()
    assert said == expected
    _, kind = request.node.callspec.params["llama"]
    assert (n_accepted == n_drafted) is (kind == "right")
    assert (n_echoed == n_drafted) is (kind == "echo")


def test_drafts_do_not_depend_on_the_steps_of_the_prompt(llama: Llama) -> None:
    heads, drafts = Heads(llama), []
    for n_step in (1, 7, 20):
        for slot in range(len(PROMPTS)):
            heads.forget(slot, 0)
        writers = prefill(llama, heads, n_step)
        drafts.append(heads.draft({it.slot: (it.said[-1], it.n) for it in writers}, N_DRAFT))
    heads.close()
    assert drafts == [drafts[0]] * 3


def test_a_slot_that_was_not_followed_is_drafted_for_all_the_same(llama: Llama) -> None:
    """As after a prefix that came from another slot or from disk."""
    writer = prefill(llama, None)[0]
    heads = Heads(llama)
    assert len(heads.draft({0: (writer.said[0], writer.n)}, N_DRAFT)[0]) == N_DRAFT
    heads.close()


@pytest.mark.parametrize(("kind", "mtp"), [("plain", True), ("mtp", False)])
def test_a_model_without_heads_is_refused(tmp_path: Path, kind: str, *, mtp: bool) -> None:
    llama = opened(kind, tmp_path, mtp=mtp)
    with pytest.raises(LoadFailed, match="head"):
        Heads(llama)
    llama.close(keeps_model=False)
