"""What becomes of a request before it is scheduled, with the model played by the test."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from beastd import ipc
from beastd.engine.intake import Intake
from beastd.errors import Unsupported


def intake(*, has_drafter: bool = False) -> Intake:
    llama: Any = SimpleNamespace(
        template=None,
        bos=1,
        eos=2,
        eog=frozenset({2}),
        n_ctx=100,
        n_vocab=10,
        text=lambda _token: "",
        tokenize=lambda text, **_: [3] * len(text),
        load=SimpleNamespace(label="cub", variant="q8_0"),
    )
    return Intake(cast("Any", llama), None, has_drafter=has_drafter)


def submit(*, insists: bool) -> ipc.Submit:
    sampling = ipc.Sampling(speculative="draft")
    return ipc.Submit(id=1, prompt=ipc.Prompt(raw="hello"), sampling=sampling, insists_on_drafter=insists)


def test_a_request_that_asks_for_drafts_that_nobody_makes_is_refused() -> None:
    with pytest.raises(Unsupported, match="without a draft model"):
        intake().sequence(submit(insists=True))


@pytest.mark.parametrize(("has_drafter", "speculative"), [(False, "auto"), (True, "draft")])
def test_a_default_to_draft_fails_no_request(*, has_drafter: bool, speculative: str) -> None:
    """One configuration serves models with a drafter and those without."""
    assert intake(has_drafter=has_drafter).sequence(submit(insists=False)).speculative == speculative
