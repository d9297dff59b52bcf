"""Bars and sentences of long work."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl import render
from beastctl.progress import Board, is_done, sentence, short_time

LINE = {
    "status": "pulling model-q4_k_m.gguf",
    "item": "model-q4_k_m.gguf",
    "completed": 1_200_000_000,
    "total": 2_600_000_000,
    "unit": "bytes",
    "rate": 34.2e6,
    "eta_s": 41,
}


def board_of(*lines: dict[str, Any], title: str = "m") -> Board:
    board = Board()
    for line in lines:
        board.take(title, line)
    return board


def test_a_wide_row_tells_all() -> None:
    """What, how much of it, how fast, how much longer."""
    (row,) = board_of(LINE).rows(100, 10, 0)
    assert row.startswith("pulling model-q4_k_m.gguf  ━━━")
    assert re.split(r"  +", row)[2:] == ["46%", "1.2 GB/2.6 GB", "34.2 MB/s", "41s"]


@pytest.mark.parametrize(
    ("width", "kept", "dropped"),
    [(60, ["46%", "41s", "34.2 MB/s"], ["GB"]), (40, ["46%", "41s"], ["GB", "MB/s"]), (20, ["46%"], ["━", "41s"])],
)
def test_a_narrow_row_leaves_out_what_matters_least(width: int, kept: list[str], dropped: list[str]) -> None:
    """The amount goes first, the share last; a bar fills what is left."""
    (row,) = board_of(LINE).rows(width, 10, 0)
    assert all(word in row for word in kept)
    assert not any(word in row for word in dropped)


@given(
    width=st.integers(20, 200),
    height=st.integers(1, 30),
    status=st.text(min_size=1, max_size=80),
    completed=st.integers(0, 2**50),
    total=st.integers(0, 2**50),
    rate=st.floats(0, 1e12),
    eta_s=st.none() | st.floats(0, 1e12),
    unit=st.sampled_from(["bytes", "tensors", "chunks", "tokens"]),
    n_items=st.integers(1, 40),
)
def test_rows_always_fit_the_terminal(width: int, height: int, n_items: int, status: str, **fields: Any) -> None:
    """Whatever is counted, and however many things are."""
    board = board_of(*({"status": status, "item": f"file-{n}", **fields} for n in range(n_items)))
    rows = board.rows(width, height, 7)
    assert len(rows) == min(n_items, height)
    assert all(render.cells(row) <= width for row in rows)
    assert not any(char in row for row in rows for char in "\x1b\r")


def test_what_is_done_gives_way_when_there_is_no_room() -> None:
    """Rows go to what is under way; the rest is counted."""
    done = [{**LINE, "item": str(n), "status": f"done {n}", "completed": LINE["total"]} for n in range(5)]
    rows = board_of(*done, LINE).rows(80, 3, 0)
    assert rows[0].startswith("pulling")
    assert rows[2] == "… and 4 more"


def test_only_what_is_done_shows_a_hundred_percent() -> None:
    """Shares are rounded down."""
    nearly = {**LINE, "completed": LINE["total"] - 1}
    assert " 99%" in board_of(nearly).rows(100, 5, 0)[0]
    assert not is_done(nearly)
    full = board_of({**LINE, "completed": LINE["total"]}).rows(100, 5, 0)[0]
    assert "100%" in full
    assert "MB/s" not in full


def test_a_job_s_own_status_gives_way_to_what_it_counts() -> None:
    """And comes back as the last row when it says something again."""
    board = board_of({"status": "resolving"}, LINE)
    assert len(board.rows(80, 5, 0)) == 1
    board.take("m", {"status": "writing manifest"})
    assert [row.split()[0] for row in board.rows(80, 5, 0)] == ["pulling", "writing"]


def test_several_jobs_are_told_apart_and_leave_when_they_end() -> None:
    """A status without an item names its job; nothing remains of one that is over."""
    board = board_of({"status": "resolving"}, title="a")
    board.take("b", {"status": "resolving"})
    assert [row.split("  ")[0] for row in board.rows(80, 5, 0)] == ["a: resolving", "b: resolving"]
    board.end("b")
    assert len(board.rows(80, 5, 0)) == 1
    board.end("a")
    assert (board.rows(80, 5, 0), board.sentence()) == ([], "")


def test_a_sentence_for_logs() -> None:
    """Everything known, without control codes; nothing made up where it is not known."""
    assert sentence(LINE) == "pulling model-q4_k_m.gguf: 46% of 2.6 GB, 34.2 MB/s, 41s left"
    assert sentence({"status": "verifying\x1b[0m"}) == "verifying␛[0m"
    assert sentence({"status": "reading", "completed": 5_000_000}) == "reading: 5 MB"
    counted = {"status": "quantizing", "completed": 120, "total": 291, "unit": "tensors"}
    assert sentence(counted) == "quantizing: 41% of 291 tensors"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "0s"), (59.6, "1m00s"), (72, "1m12s"), (7500, "2h05m"), (273_600, "3d04h"), (1e12, "ages")],
)
def test_times_to_wait_are_short(seconds: float, text: str) -> None:
    """Two units, so that they keep their place."""
    assert short_time(seconds) == text
