"""A line of the log, as data and as colours."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.logline import as_object, painted
from beastd.log import log_handler, logfmt

keys = st.from_regex(r"[a-z]{1,8}", fullmatch=True)


@given(st.dictionaries(keys, st.text(max_size=60), min_size=1, max_size=5))
def test_what_the_daemon_writes_is_read_back(fields: dict[str, str]) -> None:
    """Whatever text a client put into it."""
    assert as_object(logfmt(dict(fields))) == fields


def test_numbers_are_numbers() -> None:
    """By their names; an id of digits stays text."""
    line = logfmt({"id": "17", "status": 200, "n_prompt": 5, "ttft_ms": 12.5, "model": "7"})
    assert as_object(line) == {"id": "17", "status": 200, "n_prompt": 5, "ttft_ms": 12.5, "model": "7"}


@pytest.mark.parametrize("line", ["    File x=1, line 3", "plain words", "", 'a="b', "=x"])
def test_a_line_of_another_kind_is_text(line: str) -> None:
    """As those of a traceback, or of llama.cpp."""
    assert as_object(line) == {"text": line}


@pytest.mark.parametrize(("level", "colour"), [("INFO", "2"), ("WARNING", "33"), ("ERROR", "31"), ("CRITICAL", "31")])
def test_the_head_has_the_colour_of_the_level(level: str, colour: str) -> None:
    """The rest of the line keeps the terminal's own."""
    record = logging.LogRecord("x", logging.getLevelName(level), "", 0, "said", None, None)
    line = log_handler(None).format(record)
    head = line[: line.index(" from=")]
    assert painted(line) == f"\033[{colour}m{head}\033[0m from=x msg=said"


def test_nothing_in_a_line_steers_the_terminal() -> None:
    """A worker's log holds names out of a model's file."""
    assert painted("name \033[2J") == "name ␛[2J"
