"""Bounds of what a request may ask for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beastd.contract import MOST_MESSAGES, ChatRequest, Options


@pytest.mark.parametrize(
    "options",
    [
        {"stop": "x" * 1025},
        {"stop": ["x" * 1025]},
        {"stop": ["x"] * 65},
        {"dry_sequence_breakers": ["x"] * 65},
        {"dry_sequence_breakers": ["x" * 1025]},
        {"logit_bias": {str(n): 1.0 for n in range(4097)}},
        {"logit_bias": {"x" * 1025: 1.0}},
        {"logit_bias": {"1": -1.1e6}},
        {"temperature": 1e308},
        {"repeat_penalty": 5e-324},
        {"repeat_penalty": 1e308},
        {"presence_penalty": -1e308},
        {"frequency_penalty": 1e308},
        {"dry_multiplier": 1e308},
        {"dry_base": 1e308},
        {"mirostat_tau": 1e308},
        {"mirostat_eta": 1e308},
        {"seed": 2**70},
        {"top_k": 2**31},
        {"num_ctx": 10**30},
        {"num_predict": 10**30},
    ],
    ids=lambda options: f"{next(iter(options))}",
)
def test_an_option_beyond_all_sense_is_refused_by_name(options: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError, match=next(iter(options))):
        msgspec.convert(options, Options)


@pytest.mark.parametrize(
    "options",
    [
        {"stop": "</s>"},
        {"stop": ["\n\n", "User:"]},
        {"presence_penalty": -2, "frequency_penalty": 2.0, "repeat_penalty": 1.1, "temperature": 2},
        {"logit_bias": {"15": -100, " Rome": 100.5}},
        {"seed": 2**32 - 1, "top_k": 0, "num_predict": -1, "num_ctx": 131072},
        {"dry_multiplier": 0.8, "dry_base": 1.75, "mirostat_tau": 5.0, "mirostat_eta": 0.1},
    ],
)
def test_what_people_ask_for_is_taken(options: dict[str, Any]) -> None:
    msgspec.convert(options, Options)


def test_a_chat_has_a_bounded_number_of_messages() -> None:
    messages = [{"role": "user", "content": "x"}] * MOST_MESSAGES
    msgspec.convert({"messages": messages}, ChatRequest)
    with pytest.raises(msgspec.ValidationError, match=str(MOST_MESSAGES)):
        msgspec.convert({"messages": [*messages, messages[0]]}, ChatRequest)
