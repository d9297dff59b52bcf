"""Words for people."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl import render

NOW = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


@given(st.text())
def test_visible_text_holds_no_control_character(text: str) -> None:
    """Nothing a model says can steer the terminal."""
    assert not [c for c in render.visible(text) if unicodedata.category(c) == "Cc" and c not in "\n\t"]


def test_visible_keeps_what_is_text() -> None:
    """Only controls change; an escape code can be seen for what it is."""
    assert render.visible("häß 🐻\n\tx\r\n") == "häß 🐻\n\tx\n"
    assert render.visible("\x1b[31mred") == "␛[31mred"


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (36_200_000, "36.2 MB"),
        (999_600, "1 MB"),
        (12_345_678_901, "12.3 GB"),
        (5e15, "5e+03 TB"),
    ],
)
def test_sizes(n_bytes: float, text: str) -> None:
    """Three digits and a decimal unit."""
    assert render.size(n_bytes) == text


@pytest.mark.parametrize(
    ("stamp", "text"),
    [
        ("2030-01-02T03:09:05Z", "in 5 minutes"),
        ("2030-01-02T02:04:05+00:00", "1 hour ago"),
        ("2129-01-01T00:00:00Z", "never"),
        ("2030-01-02T03:04:05Z", "less than a second ago"),
        ("soon", "soon"),
    ],
)
def test_moments(stamp: str, text: str) -> None:
    """Moments are told from where the reader stands."""
    assert render.when(stamp, NOW) == text


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), max_size=5))
def test_a_table_has_a_line_for_each_row(rows: list[tuple[str, str]]) -> None:
    """Names with odd characters in them do not break the columns apart."""
    clean = [tuple(cell.replace("\n", "") for cell in row) for row in rows]
    assert len(render.table(("A", "B"), clean).split("\n")) == len(rows) + 1


def test_columns_line_up() -> None:
    """Cells begin below their header."""
    lines = render.table(("NAME", "SIZE"), [("a-long-name", "1"), ("b", "2")]).splitlines()
    assert {line.index(word) for line, word in zip(lines, ("SIZE", "1", "2"), strict=True)} == {14}


def test_timings_do_not_credit_cached_tokens_to_the_prompt_rate() -> None:
    """Only tokens that were computed count for the speed."""
    final = {"prompt_eval_count": 100, "prompt_eval_cached_count": 90, "prompt_eval_duration": 10**9, "eval_count": 5}
    assert "prompt eval rate:     10.00 tokens/s" in render.timings(final)
    assert "eval rate:            -" in render.timings(final)


def test_elastic_columns_give_way_to_the_terminal() -> None:
    """The widest first, and none below what can still be read; nothing changes where there is room."""
    header, rows = ("A", "B", "C"), [("name", "b" * 20, "c" * 30), ("n", "short", "x")]
    lines = render.table(header, rows, elastic=(1, 2), width=40).splitlines()
    assert max(map(len, lines)) == 40
    assert lines[1] == "name   " + "b" * 14 + "…   " + "c" * 14 + "…"
    assert render.table(header, rows, elastic=(1, 2), width=200) == render.table(header, rows)
    narrow = render.table(header, rows, elastic=(1, 2), width=22).splitlines()
    assert narrow[1] == "name   bbbbbbb…   ccc…"
    assert render.table(("A", "B"), [("a" * 30, "b")], elastic=(1,), width=10).splitlines()[1] == "a" * 9 + "…"


def test_spare_columns_are_left_out_of_a_narrow_table() -> None:
    """Only as many as it takes, in the order told, and before an elastic one gives way."""
    header, rows = ("NAME", "ID", "SIZE", "UNTIL"), [("a-long-name", "0123456789", "36 MB", "never")]
    full = "a-long-name   0123456789   36 MB   never"
    assert render.table(header, rows, spare=(1, 2), elastic=(0,), width=len(full)).splitlines()[1] == full
    narrower = render.table(header, rows, spare=(1, 2), elastic=(0,), width=len(full) - 1)
    assert narrower.splitlines()[1] == "a-long-name   36 MB   never"
    narrowest = render.table(header, rows, spare=(1, 2), elastic=(0,), width=17)
    assert narrowest.splitlines() == ["NAME        UNTIL", "a-long-n…   never"]


def test_sentences_in_a_table_are_wrapped() -> None:
    """Beside their row where there is room, else below it; none of their words is lost."""
    header, rows = ("MODEL", "WHY"), [("bear", "nobody came for it in the last five minutes"), ("cub", "told to")]
    assert render.prose_table(header, rows).splitlines()[1:] == [
        "bear    nobody came for it in the last five minutes",
        "cub     told to",
    ]
    assert render.prose_table(header, rows, width=40).splitlines() == [
        "MODEL   WHY",
        "bear    nobody came for it in the last",
        "        five minutes",
        "cub     told to",
    ]
    assert render.prose_table(header, rows, width=30).splitlines()[2:] == [
        "bear",
        "    nobody came for it in the",
        "    last five minutes",
        "cub",
        "    told to",
    ]


@given(st.lists(st.tuples(st.text(max_size=40), st.text(max_size=40)), max_size=5), st.integers(1, 100))
def test_a_table_never_wraps(rows: list[tuple[str, str]], width: int) -> None:
    """However narrow the terminal is."""
    clean = [tuple(cell.replace("\n", "").replace("\t", "") for cell in row) for row in rows]
    lines = render.table(("NAME", "SIZE"), clean, elastic=(1,), width=width).split("\n")
    assert max(map(render.cells, lines)) <= width


@pytest.mark.parametrize(
    ("text", "width", "n_tail", "clipped"),
    [
        ("model.gguf", 10, 0, "model.gguf"),
        ("model.gguf", 6, 0, "model…"),
        ("model-00001.gguf", 10, 5, "mode….gguf"),
        ("模型模型", 5, 0, "模型…"),
        ("模型模型", 4, 1, "…型"),
    ],
)
def test_what_is_too_long_is_clipped_to_cells(text: str, width: int, n_tail: int, clipped: str) -> None:
    """Wide characters take two."""
    assert render.clip(text, width, n_tail) == clipped
    assert render.cells(clipped) <= width


@pytest.mark.parametrize(("n", "text"), [(40, "40"), (999, "999"), (2050, "2.05k"), (596e6, "596M"), (1.7e9, "1.7B")])
def test_counts_have_three_digits(n: float, text: str) -> None:
    """For parameters and tokens."""
    assert render.count(n) == text
