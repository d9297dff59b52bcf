"""Suggestions for misspelt names."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def near(word: str, known: Iterable[str], n_most: int = 3) -> list[str]:
    """The known words most like this one, best first; case does not count."""
    spelling = {name.lower(): name for name in known}
    return [spelling[match] for match in get_close_matches(word.lower(), spelling, n_most)]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` to append to a message, or nothing when no known word is near."""
    matches = near(word, known, 1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
