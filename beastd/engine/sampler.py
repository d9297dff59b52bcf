"""Chooses the next token of one sequence from its logits.

The chain is llama.cpp's (``common_sampler_init``, order of ``common_params_sampling``): logit bias, penalties, DRY,
top-k, typical, top-p, min-p, XTC, temperature, draw. Mirostat 2 stands in for the truncations and XTC; unlike there,
penalties and DRY still act before it, because a request that sets both means both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

import numpy as np

from beastd.engine import filters, together
from beastd.engine.filters import Candidates, FloatArray
from beastd.engine.penalties import LARGEST_LOGIT, Dry, Penalties
from beastd.errors import BadRequest
from beastd.ipc import Sampling


class Grammar(Protocol):
    """What an answer may look like, one token further with each ``accept``."""

    def is_allowed(self, token: int) -> bool:
        """Whether this token may come next."""

    def mask(self, logits: FloatArray) -> None:
        """Set the logits of all tokens that may not come next to -inf, in place."""

    def accept(self, token: int) -> None:
        """The token was chosen; it is one that was allowed."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A chosen token. Log-probabilities are natural, of the model's own logits before any sampler."""

    token: int
    logprob: float | None = None
    """None when none were asked for."""
    top: list[tuple[int, float]] = field(default_factory=list)
    """The most probable tokens at this place with their log-probabilities, most probable first."""


class Sampler:
    """The sampling state of one sequence: its history, its random numbers, its grammar."""

    def __init__(
        self,
        sampling: Sampling,
        *,
        n_vocab: int,
        logit_bias: Mapping[int, float],
        breakers: frozenset[int],
        eog: frozenset[int],
        history: Sequence[int],
        grammar: Grammar | None,
    ) -> None:
        """Take the settings and the prompt's tokens (``history``), which penalties see as in llama-server.

        ``breakers`` are the tokens that end a repetition for DRY; ``eog`` those that ``ignore_eos`` excludes.
        Raises ``BadRequest`` if ``logit_bias`` names a token outside of the vocabulary.
        """
        self._sampling = sampling
        biases = {**logit_bias, **dict.fromkeys(eog, -math.inf)} if sampling.ignore_eos else logit_bias
        if outside := [token for token in biases if not 0 <= token < n_vocab]:
            raise BadRequest(f"logit_bias names token {outside[0]}, but the vocabulary ends at {n_vocab - 1}")
        self._biased = np.fromiter(biases, np.intp, len(biases))
        self._biases = np.clip(np.fromiter(biases.values(), float, len(biases)), -math.inf, LARGEST_LOGIT)
        self._penalties = Penalties(sampling, history) if Penalties.is_needed(sampling) else None
        self._dry = Dry(sampling, breakers, history) if Dry.is_needed(sampling) else None
        self._grammar = grammar
        self._random = Random(None if sampling.seed == -1 else sampling.seed)
        self._max_surprise = 2 * sampling.mirostat_tau
        self._is_common = together.is_common(sampling)

    def sample(self, logits: FloatArray, n_top_logprobs: int | None) -> Sampled:
        """Choose a token and remember it.

        ``logits`` is float32 of shape (n_vocab,) and is edited in place. ``n_top_logprobs`` None means no
        log-probabilities, 0 those of the chosen token alone. The grammar is asked about the chosen token first, and
        masks the vocabulary only if it refuses (as llama.cpp's ``common_sampler_sample``). Raises ``BadModel`` if the
        logits are NaN or infinite, ``BadRequest`` if the request's own constraints leave no token.
        """
        own_logits = None if n_top_logprobs is None else logits.copy()
        with np.errstate(over="ignore"):  # what overflows to -inf is a token never chosen
            self._edit(logits)
            token, probability = self._choose(logits)
            token = self._settle(logits, token, probability)
        if own_logits is None:
            return Sampled(token)
        return _with_logprobs(token, own_logits, n_top_logprobs or 0)

    @staticmethod
    def sample_together(samplers: Sequence[Sampler], logits: FloatArray) -> list[Sampled | Exception]:
        """As ``sample`` without log-probabilities, of a row for each sampler; all are such as ``is_common``.

        What one of them would raise stands in its place.
        """
        with np.errstate(over="ignore"):
            faults = [sampler._try_edit(row) for sampler, row in zip(samplers, logits, strict=True)]
            us = [1.0 - sampler._random.random() for sampler in samplers]
            tokens, probabilities = together.draw(logits, [sampler._sampling for sampler in samplers], us)
            found = zip(samplers, faults, logits, us, tokens, probabilities, strict=True)
            return [fault or sampler._try_settle(*rest) for sampler, fault, *rest in found]

    @property
    def is_common(self) -> bool:
        """Whether ``sample_together`` may have it."""
        return self._is_common

    def _try_edit(self, logits: FloatArray) -> Exception | None:
        try:
            self._edit(logits)
        except Exception as error:  # its neighbours have no part in it
            return error
        return None

    def _try_settle(self, logits: FloatArray, u: float, token: int, probability: float) -> Sampled | Exception:
        try:
            if token < 0:
                token, probability = filters.draw(self._truncate(logits), self._sampling.temperature, u)
            return Sampled(self._settle(logits, token, probability))
        except Exception as error:
            return error

    def _settle(self, logits: FloatArray, token: int, probability: float) -> int:
        """Take the token that was drawn, or if the grammar refuses it another one, and remember it."""
        if self._grammar and not self._grammar.is_allowed(token):
            self._grammar.mask(logits)
            token, probability = self._choose(logits)
        self._accept(token, probability)
        return token

    def _edit(self, logits: FloatArray) -> None:
        if len(self._biased):
            logits[self._biased] += self._biases
        if self._penalties:
            self._penalties.apply(logits)
        if self._dry:
            self._dry.apply(logits)

    def _choose(self, logits: FloatArray) -> tuple[int, float]:
        """A token, and its probability in the distribution it was drawn from. Leaves the history as it is."""
        temperature = self._sampling.temperature
        if temperature <= 0:
            best = int(logits.argmax())
            filters.check_best(float(logits[best]))
            return best, 1.0
        if self._sampling.mirostat:
            candidates = filters.surprise_below(filters.whole(logits), temperature, self._max_surprise)
        else:
            candidates = self._truncate(logits)
        return filters.draw(candidates, temperature, 1.0 - self._random.random())

    def _truncate(self, logits: FloatArray) -> Candidates:
        sampling = self._sampling
        candidates = filters.top_k(logits, sampling.top_k) if sampling.top_k > 0 else filters.whole(logits)
        if sampling.typical_p < 1:
            candidates = filters.typical(candidates, sampling.typical_p)
        if sampling.top_p < 1:
            candidates = filters.top_p(candidates, sampling.top_p)
        if sampling.min_p > 0:
            candidates = filters.min_p(candidates, sampling.min_p)
        if sampling.xtc_probability > 0 and self._random.random() <= sampling.xtc_probability:
            candidates = filters.xtc(candidates, sampling.xtc_threshold)
        return candidates

    def _accept(self, token: int, probability: float) -> None:
        if self._sampling.mirostat:
            error = -math.log2(probability) - self._sampling.mirostat_tau
            self._max_surprise -= self._sampling.mirostat_eta * error
        if self._penalties:
            self._penalties.accept(token)
        if self._dry:
            self._dry.accept(token)
        if self._grammar:
            self._grammar.accept(token)


def _with_logprobs(token: int, logits: FloatArray, n_top: int) -> Sampled:
    best = float(logits.max())
    filters.check_best(best)
    total = best + math.log(np.exp(logits - best).sum(dtype=np.float64))
    top = filters.largest(logits, n_top).tolist() if n_top else []
    return Sampled(token, float(logits[token]) - total, [(i, float(logits[i]) - total) for i in top])
