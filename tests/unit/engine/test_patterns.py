"""What a pattern costs as a grammar."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.patterns import PatternRefused, cost


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", 0),
        ("abc", 3),
        (r"\d[^\]}]\.", 3),
        ("a{7}", 7),
        ("a{2,7}", 7),
        ("(ab){7}c", 15),
        ("((ab){3}c){10}", 70),
        ("a?b?c", 3 * 2),
        ("(a?){20}", 20 * 20),
        ("((a?){16}){16}", 256 * 256),
        ("(a{0,12}){12}", 144 * 12),
        ("a{,5}", 5),
        ("(a", 2),
    ],
)
def test_repetitions_are_written_out_and_options_multiply(pattern: str, expected: int) -> None:
    """Only options together are costly: each may be left out with every other."""
    assert cost(pattern) <= expected <= cost(pattern) + 1  # an open parenthesis may count for one


@pytest.mark.parametrize("pattern", ["a]", "a}b", "[ab", "a{3", "\\", "a{b}", "a{1,2,3}"])
def test_brackets_without_a_counterpart_are_refused(pattern: str) -> None:
    """The converter would look for their end for ever, or not know what to do."""
    with pytest.raises(PatternRefused):
        cost(pattern)


@given(st.text(alphabet="a(){}[]*+?|\\,0123.-", max_size=60))
def test_any_text_has_a_cost_or_is_refused(pattern: str) -> None:
    with suppress(PatternRefused):
        assert cost(pattern) >= 0
