"""Suggestions for misspelt names."""

from __future__ import annotations

from beastd.nearest import did_you_mean, near


def test_near_words_come_best_first_whatever_their_case():
    """And in their own spelling."""
    assert near("contxt", ["parallel", "Context", "content"])[0] == "Context"


def test_without_a_near_word_nothing_is_suggested():
    """A wrong guess would mislead."""
    assert did_you_mean("zzz", ["context"]) == ""
    assert did_you_mean("treads", ["threads"]) == " (did you mean 'threads'?)"
