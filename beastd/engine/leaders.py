"""A burst of prompts with a common beginning computes it once: those that follow wait for the one that leads. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from beastd.engine.prefixes import common_prefix

if TYPE_CHECKING:
    from beastd.engine.sequence import Sequence

MIN_GAIN = 32
"""Tokens that following must save: fewer are computed with the next step at hardly any cost."""


@dataclass(frozen=True, slots=True)
class _Lead:
    leader: Sequence
    n: int
    """Tokens of its prompt that the follower has as well."""


class Leaders:
    """Who waits for whose prefix. A leader that ends or is paused leads nobody."""

    def __init__(self) -> None:
        self._leads: dict[int, _Lead] = {}

    def is_led(self, sequence: Sequence, peers: Collection[Sequence]) -> bool:
        """Whether it follows one of these that has still to compute what both have; else it follows nobody any more."""
        lead = self._leads.get(sequence.id)
        if lead is None:
            return False
        if lead.leader in peers and _leads_on(lead):
            return True
        self.forget(sequence)
        return False

    def can_follow(self, sequence: Sequence, running: Iterable[Sequence], n_there: int) -> bool:
        """Whether a running one is computing more of its prompt than the ``n_there`` tokens it has; then it follows."""
        lead = self._find(sequence, running, n_there)
        if lead is not None:
            self._leads[sequence.id] = lead
        return lead is not None

    def forget(self, sequence: Sequence) -> None:
        """It follows nobody any more."""
        self._leads.pop(sequence.id, None)

    @staticmethod
    def _find(sequence: Sequence, running: Iterable[Sequence], n_there: int) -> _Lead | None:
        leads = (
            _Lead(one, min(common_prefix(one.prompt, sequence.prompt), len(sequence.prompt) - 1))
            for one in running
            if one.n_prefill_left > MIN_GAIN and one.adapters == sequence.adapters
        )
        best = max((lead for lead in leads if _leads_on(lead)), key=lambda lead: lead.n, default=None)
        return best if best and best.n - n_there >= MIN_GAIN else None


def _leads_on(lead: _Lead) -> bool:
    """The leader has still to compute some of what both have."""
    slot = lead.leader.slot
    return slot is not None and len(slot.tokens) < lead.n
