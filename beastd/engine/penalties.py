"""Lowers the logits of tokens that were said before: llama.cpp's repetition penalties and DRY."""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from beastd.engine.filters import FloatArray
from beastd.ipc import Sampling

LARGEST_LOGIT = 1e30
"""No edit raises a logit above this: an infinite one would make every probability undefined."""
_LOG_LARGEST_FLOAT = 88.7228391


class Penalties:
    """Repeat, frequency and presence penalty over the last ``repeat_last_n`` tokens."""

    def __init__(self, sampling: Sampling, history: Sequence[int]) -> None:
        self._repeat = sampling.repeat_penalty
        self._frequency = sampling.frequency_penalty
        self._presence = sampling.presence_penalty
        self._n_window = sampling.repeat_last_n if sampling.repeat_last_n >= 0 else sys.maxsize
        self._window: deque[int] = deque()
        self._counts: dict[int, int] = {}
        for token in history[max(len(history) - self._n_window, 0) :]:
            self.accept(token)

    @staticmethod
    def is_needed(sampling: Sampling) -> bool:
        """Whether these settings change any logit."""
        strengths = (sampling.repeat_penalty, sampling.frequency_penalty, sampling.presence_penalty)
        return sampling.repeat_last_n != 0 and strengths != (1.0, 0.0, 0.0)

    def accept(self, token: int) -> None:
        """The token was said."""
        self._window.append(token)
        self._counts[token] = self._counts.get(token, 0) + 1
        if len(self._window) > self._n_window:
            oldest = self._window.popleft()
            self._counts[oldest] -= 1
            if not self._counts[oldest]:
                del self._counts[oldest]

    def apply(self, logits: FloatArray) -> None:
        """Lower the logits of the window's tokens in place.

        A negative logit is multiplied by the repeat penalty and a positive one divided, so that both fall
        (``llama_sampler_penalties_apply``).
        """
        ids = np.fromiter(self._counts, np.intp, len(self._counts))
        found = logits[ids]
        found = np.where(found <= 0, found * self._repeat, found / self._repeat)
        if self._frequency or self._presence:
            counts = np.fromiter(self._counts.values(), np.float32, len(self._counts))
            found -= counts * self._frequency + self._presence
        logits[ids] = np.minimum(found, LARGEST_LOGIT)


class Dry:
    """DRY ("don't repeat yourself"): the longer the repetition a token would continue, the lower its logit.

    The rule is llama.cpp's (``llama_sampler_dry_apply``), with breakers of one token. Beside each earlier place
    stands how many tokens up to it equal the tokens up to the end, none of them before a breaker. The Z-algorithm
    finds these lengths for the prompt in linear time; each further token then changes all of them in one pass.
    """

    def __init__(self, sampling: Sampling, breakers: frozenset[int], history: Sequence[int]) -> None:
        self._sampling = sampling
        self._breakers = breakers
        base = sampling.dry_base
        self._max_exponent = int(_LOG_LARGEST_FLOAT / math.log(base)) if base > 1.000001 else math.inf
        self._n = len(history)
        self._tokens = np.zeros(max(2 * self._n, 512), np.int32)
        self._tokens[: self._n] = history
        self._lengths = np.zeros(len(self._tokens), np.int32)
        limit = next((i for i, token in enumerate(reversed(history)) if token in breakers), self._n)
        self._lengths[: self._n] = np.minimum(suffix_lengths(history), limit)

    @staticmethod
    def is_needed(sampling: Sampling) -> bool:
        """Whether these settings change any logit."""
        return sampling.dry_multiplier != 0 and sampling.dry_penalty_last_n != 0

    def accept(self, token: int) -> None:
        """The token was said: matches it continues grow by one, the others end, and a breaker ends all."""
        if self._n == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._lengths = np.concatenate((self._lengths, np.zeros_like(self._lengths)))
        n = self._n
        grown = np.empty(n, np.int32)
        grown[:1] = 1
        grown[1:] = self._lengths[: max(n - 1, 0)] + 1
        self._lengths[:n] = grown * (self._tokens[:n] == token) * (token not in self._breakers)
        self._tokens[n] = token
        self._n += 1

    def apply(self, logits: FloatArray) -> None:
        """Lower the logits of tokens that would continue a repetition, in place; breakers are free."""
        sampling = self._sampling
        for token, length in self._continuations():
            exponent = min(length - sampling.dry_allowed_length, self._max_exponent)
            logits[token] -= sampling.dry_multiplier * sampling.dry_base**exponent

    def _continuations(self) -> Iterable[tuple[int, int]]:
        """Tokens that would continue a repetition, each with the longest one's length so far."""
        last_n = self._sampling.dry_penalty_last_n
        start = max(self._n - last_n, 0) if last_n > 0 else 0
        lengths = self._lengths[start : max(self._n - 1, start)]
        lengths = np.minimum(lengths, np.arange(1, len(lengths) + 1))
        places = np.flatnonzero(lengths >= self._sampling.dry_allowed_length)
        longest: dict[int, int] = {}
        for token, length in zip(self._tokens[start + 1 + places].tolist(), lengths[places].tolist(), strict=True):
            if token not in self._breakers:
                longest[token] = max(length, longest.get(token, 0))
        return longest.items()


def suffix_lengths(tokens: Sequence[int]) -> list[int]:
    """For each place, how many tokens up to and with it equal the last tokens of all; 0 at the last place.

    The Z-algorithm on the reversed tokens: linear, because a known match is copied and only its edge compared.
    """
    text = tokens[::-1]
    n = len(text)
    matches = [0] * n
    left = right = 0  # the match found that reaches furthest: text[left:right] == text[: right - left]
    for i in range(1, n):
        length = min(matches[i - left], right - i) if i < right else 0
        while i + length < n and text[length] == text[i + length]:
            length += 1
        matches[i] = length
        if i + length > right:
            left, right = i, i + length
    return matches[::-1]
