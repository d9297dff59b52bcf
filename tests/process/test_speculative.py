"""Drafts through a daemon: who may ask for them, what replies say of them, and that they change no answer."""

from __future__ import annotations

from typing import Any

import pytest
from harness import RunningDaemon, StartDaemon

POEM = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\nLife is but a dream.\n\n"
)
LONG = {"temperature": 0, "num_predict": 120, "ignore_eos": True}


def go_on(daemon: RunningDaemon, **options: Any) -> dict[str, Any]:
    body = {"model": "cub", "prompt": POEM * 5, "raw": True, "stream": False, "options": LONG | options}
    status, reply = daemon.request("POST", "/api/generate", body)
    assert status == 200, reply
    return reply


def test_a_daemon_with_a_draft_model_answers_as_without_any(start_daemon: StartDaemon) -> None:
    """Asked for in the configuration it is loaded, used and counted; a request may do without."""
    daemon = start_daemon(BEAST_SPECULATIVE="draft", BEAST_THREADS="1")
    plain = go_on(daemon, speculative="off")
    assert (plain["draft_count"], plain["draft_accepted_count"]) == (0, 0)
    drafted = [go_on(daemon, speculative=mode) for mode in ("draft", "ngram", "auto")]
    assert {reply["response"] for reply in drafted} == {plain["response"]}
    n_drafted = sum(reply["draft_count"] for reply in drafted)
    assert n_drafted > 0
    assert all(0 <= reply["draft_accepted_count"] <= reply["draft_count"] for reply in drafted)


def test_a_draft_model_that_is_not_loaded_cannot_be_asked_for(daemon: RunningDaemon) -> None:
    """By default it is only where it is small enough to pay: Cub's is more than half of Cub."""
    body = {"model": "cub", "prompt": "Hi", "stream": False, "options": {"speculative": "draft"}}
    status, reply = daemon.request("POST", "/api/generate", body)
    assert status == 400
    assert "runs without a draft model" in reply["error"]


@pytest.mark.parametrize("mode", ["on", 1])
def test_another_word_is_refused_with_those_there_are(daemon: RunningDaemon, mode: object) -> None:
    body = {"model": "cub", "prompt": "Hi", "stream": False, "options": {"speculative": mode}}
    status, reply = daemon.request("POST", "/api/generate", body)
    assert status == 400
    assert "speculative" in reply["error"]
