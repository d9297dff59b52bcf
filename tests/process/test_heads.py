"""A model with a head of its own, as clients see it: the head drafts where drafts are wanted, and nowhere else."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
import tiny_models
from harness import RunningDaemon

PROMPT = "".join(random.Random(1).choices(string.ascii_lowercase, k=100))  # it does not repeat itself
N_ANSWER = 40
N_CTX = 16384
"""More than a model is loaded with unless a request needs it."""


@pytest.fixture(scope="module")
def daemon(daemon: RunningDaemon, short_home: Path) -> RunningDaemon:
    """A daemon with a model of each kind that a head may be of, and with one that has none."""
    for kind in ("mtp", "delta", "plain"):
        path = tiny_models.write(kind, short_home / f"{kind}.gguf", seed=4, heads="right", n_ctx=N_CTX)
        for mode in ("auto", "draft", "ngram", "off"):
            modelfile = f"variants: {{f32: {path}}}\nparameters: {{speculative: {mode}}}\n"
            body = {"model": f"{kind}-{mode}", "modelfile": modelfile, "folder": str(short_home)}
            status, reply = daemon.request("POST", "/api/create", body)
            assert status == 200, reply
    return daemon


def ask(daemon: RunningDaemon, model: str, **options: Any) -> tuple[int, Any]:
    options = {"temperature": 0, "num_predict": N_ANSWER, **options}
    body = {"model": model, "prompt": PROMPT, "raw": True, "stream": False, "options": options}
    return daemon.request("POST", "/api/generate", body)


def answer(daemon: RunningDaemon, model: str, **options: Any) -> Any:
    status, reply = ask(daemon, model, **options)
    assert status == 200, reply
    assert reply["eval_count"] == N_ANSWER
    return reply


@pytest.mark.parametrize("model", ["mtp-auto", "mtp-draft", "delta-draft"])
def test_a_right_head_is_believed_and_the_answer_is_the_same(daemon: RunningDaemon, model: str) -> None:
    """Also when it says nothing of itself: it was loaded to draft."""
    drafted = answer(daemon, model, speculative="draft")
    plain = answer(daemon, model, speculative="off")
    assert drafted["response"] == plain["response"]
    assert drafted["draft_count"] == drafted["draft_accepted_count"] > 0
    assert not plain.get("draft_count")
    assert answer(daemon, model)["response"] == plain["response"]


@pytest.mark.parametrize("model", ["mtp-off", "mtp-ngram", "delta-auto", "plain-draft"])
def test_a_head_that_is_not_loaded_is_not_silently_left_out(daemon: RunningDaemon, model: str) -> None:
    status, reply = ask(daemon, model, speculative="draft")
    assert status == 400
    assert "speculative" in reply["error"]
    assert answer(daemon, model, speculative="auto")["done"]


def test_a_head_changes_its_shape_with_its_model(daemon: RunningDaemon) -> None:
    """That it drafts on, where it pays, tests/real/test_heads.py has with costs that do not depend on the machine."""
    before = answer(daemon, "mtp-draft")
    pids = daemon.worker_pids()
    after = answer(daemon, "mtp-draft", num_ctx=N_CTX)
    assert after["response"] == before["response"]
    assert set(pids) == set(daemon.worker_pids())
