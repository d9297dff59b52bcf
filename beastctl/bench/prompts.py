"""Prompts of a wanted length in tokens that share no prefix unless asked to. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

_COMMON = (
    "time year people way day man thing woman life child world school state family student group country problem "
    "hand part place case week company system program question work night point home water room mother area money "
    "story fact month lot right study book eye job word business issue side kind head house service friend father "
    "power hour game line end member law car city name team minute idea body back face level door health person "
    "art "
)
WORDS = tuple(_COMMON.split())
"""Common words: most vocabularies have a token for each, with its space."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How a server's tokens follow from the words of a prompt: fixed ones, and some for each word."""

    n_fixed: float
    n_per_word: float

    @classmethod
    def through(cls, small: tuple[int, int], large: tuple[int, int]) -> Scale:
        """The line through two measured (words, tokens) points."""
        n_per_word = max((large[1] - small[1]) / (large[0] - small[0]), 0.1)
        return cls(max(small[1] - n_per_word * small[0], 0.0), n_per_word)

    def n_words(self, n_tokens: int) -> int:
        """Words that make a prompt of about ``n_tokens``; at least one."""
        return max(round((n_tokens - self.n_fixed) / self.n_per_word), 1)


def text(random: Random, n_words: int) -> str:
    """So many random words."""
    return " ".join(random.choices(WORDS, k=n_words))


def with_prefix(prefix: str, random: Random, n_words: int) -> str:
    """``n_words`` in all that begin with ``prefix``; at least one is the prompt's own."""
    n_own = max(n_words - len(prefix.split()), 1)
    return f"{prefix} {text(random, n_own)}".strip()
