"""Drafts from the text itself: what followed the last time that the text ended as it does now. Pure.

Editing, quoting, code and structured answers repeat what is in the prompt or was said before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHORTEST = 2
"""Tokens that must have come before together: a single one says too little of what follows."""
LONGEST = 16
"""A longer match is no better."""


class Lookup:
    """The text of one sequence, searched as it grows. A search takes microseconds, and no index: 4 bytes a token."""

    def __init__(self) -> None:
        self._tokens = np.empty(1024, np.int32)
        self.n_tokens = 0

    def follow(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Take in what has come to prompt and answer; together they only ever grow."""
        n = len(prompt) + len(answer)
        if n > len(self._tokens):
            self._tokens = np.resize(self._tokens, 2 * n)
        if self.n_tokens < len(prompt):
            self._tokens[self.n_tokens : len(prompt)] = prompt[self.n_tokens :]
            self.n_tokens = len(prompt)
        if self.n_tokens < n:
            self._tokens[self.n_tokens : n] = answer[self.n_tokens - len(prompt) :]
            self.n_tokens = n

    def since(self, start: int) -> list[int]:
        """The tokens from a position on."""
        found: list[int] = self._tokens[start : self.n_tokens].tolist()
        return found

    def guess(self, n_most: int) -> tuple[list[int], int]:
        """What may follow, at most so many tokens, and how many tokens before it are the same as at the text's end.

        Of the longest matches the last one counts. Nothing where fewer than SHORTEST match.
        """
        n, tokens = self.n_tokens, self._tokens
        ends = np.flatnonzero(tokens[: max(0, n - 1)] == tokens[n - 1])
        n_same = 0
        while len(ends) and n_same < LONGEST:
            last, n_same = int(ends[-1]), n_same + 1
            ends = ends[ends >= n_same]
            ends = ends[tokens[ends - n_same] == tokens[n - 1 - n_same]]
        if n_same < SHORTEST:
            return [], n_same
        followed = tokens[last + 1 : min(n, last + 1 + n_most)]
        guessed: list[int] = np.resize(followed, n_most).tolist()  # a text that repeats itself goes on doing so
        return guessed, n_same
