"""Finds what fits: tries what was asked for, and where that does not, less of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from beastd.config import Config
from beastd.fit.fit import CTX_STEP, Budget, Option, Verdict, judge, largest_context, with_weights
from beastd.fit.ledger import Case, Ledger
from beastd.fit.settings import load_settings
from beastd.fit.stalls import Candidate, Stall

MIN_CTX = 512
"""A smaller context is no way out."""
_MOST_TRIES = 3
"""Exact looks at a context found by interpolation, each a step smaller than the one that was over."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A candidate, and how to load it."""

    candidate: Candidate
    n_ctx: int
    n_parallel: int


class Search:
    """One question. Every need in it is the ledger's."""

    def __init__(self, ledger: Ledger, config: Config, budget: Budget, kv_type: str) -> None:
        self._ledger = ledger
        self._config = config
        self._budget = budget
        self._kv_type = kv_type

    async def verdict(self, stall: Stall, n_ctx: int, n_parallel: int) -> Verdict:
        """The verdict over the stall's asked variant; raises what ``Stall.smaller`` raises."""
        asked = Trial(stall.asked, n_ctx, n_parallel)
        (option,) = await self._options([asked])
        if self._budget.has_room_for(option.need):
            return judge(option, [], self._budget)
        smaller = await stall.smaller(lambda less: self._budget.has_room_for(with_weights(option, "", less).need))
        return judge(option, await self._less(asked, option, smaller), self._budget)

    def case(self, trial: Trial) -> Case:
        """How the ledger knows it."""
        it = trial.candidate
        settings = load_settings(self._config, it.shape, trial.n_ctx, trial.n_parallel, self._kv_type)
        return Case(it.digest, it.paths, it.variant, it.shape, settings)

    async def _less(self, asked: Trial, option: Option, smaller: Sequence[Candidate]) -> list[Option]:
        """Smaller variants, fewer sequences, and the largest contexts of each variant that fit."""
        n_ctx, n_parallel = asked.n_ctx, asked.n_parallel
        n_small, n_smaller = min(n_ctx, MIN_CTX), len(smaller)
        full = [Trial(it, n_ctx, n_parallel) for it in smaller]
        small = [Trial(it, n_small, n_parallel) for it in (asked.candidate, *smaller)]
        single = [Trial(it, n_ctx, 1) for it in (asked.candidate,) if n_parallel > 1]
        tried = await self._options([*full, *small, *single])
        larges, smalls = [option, *tried[:n_smaller]], tried[n_smaller : 2 * n_smaller + 1]
        ends = zip((asked.candidate, *smaller), smalls, larges, strict=True)
        between = [await self._largest(*end) for end in ends if not self._budget.has_room_for(end[2].need)]
        return [*tried, *(it for it in between if it is not None)]

    async def _largest(self, candidate: Candidate, small: Option, large: Option) -> Option | None:
        """The option of the largest context between two that fits, and more than the small one; None without any."""
        n_ctx = largest_context(small, large, self._budget) or 0
        for n_less in range(_MOST_TRIES):
            n_tokens = n_ctx - n_less * CTX_STEP
            if n_tokens <= small.n_ctx:
                return None
            (option,) = await self._options([Trial(candidate, n_tokens, small.n_parallel)])
            if self._budget.has_room_for(option.need):
                return option
        return None

    async def _options(self, trials: Sequence[Trial]) -> list[Option]:
        needs = await self._ledger.needs([self.case(it) for it in trials])
        return [
            Option(it.candidate.variant, it.n_ctx, it.n_parallel, self._kv_type, need)
            for it, need in zip(trials, needs, strict=True)
        ]
