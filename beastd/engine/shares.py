"""What each client has had of the machine: start-time fair queueing over seconds of work. Pure.

A client's virtual time is the work done for it divided by its weight; who has the least goes first (Goyal et al. 1996;
Sheng et al. 2024 for tokens). Work under way counts as done by what it is expected to take, else whoever is behind
would get every slot at once. Who comes back after a pause starts where those who wait are: nobody saves up
time, but for a bounded credit, and nobody pays for what was computed while others had no use for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from beastd.engine.sequence import Sequence


@dataclass(slots=True)
class _Account:
    """One client's."""

    time_s: float
    """Virtual time of what was computed."""
    weight: float
    waiting: set[int] = field(default_factory=set)
    """Sequences that wait for a slot."""
    promised_s: dict[int, float] = field(default_factory=dict)
    """Sequence that has a slot → work it is expected to take still."""

    @property
    def under_way_s(self) -> float:
        """Virtual time of what is promised."""
        return sum(self.promised_s.values()) / self.weight

    @property
    def is_idle(self) -> bool:
        """Nothing of it waits or runs."""
        return not self.waiting and not self.promised_s


class Shares:
    """Virtual time by client."""

    def __init__(self, credit_s: float = 0.0) -> None:
        """``credit_s``: so far behind those who wait may a client be that comes back."""
        self._credit_s = credit_s
        self._accounts: dict[str, _Account] = {}
        self._now_s = 0.0
        """The least virtual time among clients that wait, or the most of all when none does; it never goes back."""

    def on_wait(self, sequence: Sequence) -> None:
        """A sequence waits for a slot: a new one, or one that lost its."""
        self._advance()
        account = self._accounts.setdefault(sequence.client, _Account(0.0, sequence.weight))
        account.weight = sequence.weight
        account.promised_s.pop(sequence.id, None)
        if not account.waiting:
            account.time_s = max(account.time_s, self._now_s - self._credit_s)
        account.waiting.add(sequence.id)

    def on_admit(self, sequence: Sequence, expected_s: float) -> None:
        """It has a slot, and is expected to take so much work."""
        account = self._accounts[sequence.client]
        account.waiting.discard(sequence.id)
        account.promised_s[sequence.id] = expected_s
        self._advance()

    def on_computed(self, sequence: Sequence, work_s: float) -> None:
        """So much work was done for it."""
        account = self._accounts[sequence.client]
        account.time_s += work_s / account.weight
        account.promised_s[sequence.id] = max(0.0, account.promised_s[sequence.id] - work_s)

    def on_end(self, sequence: Sequence) -> None:
        """It is over; clients that would start afresh anyhow are forgotten."""
        account = self._accounts[sequence.client]
        account.waiting.discard(sequence.id)
        account.promised_s.pop(sequence.id, None)
        self._advance()
        is_over = all(account.is_idle for account in self._accounts.values())
        start_s = self._now_s - self._credit_s
        for client, account in tuple(self._accounts.items()):
            if account.is_idle and (is_over or account.time_s <= start_s):
                del self._accounts[client]

    def time_s(self, client: str) -> float:
        """The client's virtual time, with what is under way."""
        account = self._accounts[client]
        return account.time_s + account.under_way_s

    def ahead_s(self, client: str) -> float:
        """How far the client is ahead of one that comes with its whole credit.

        Of what was computed twice the credit at most counts, and all that is under way.
        """
        account = self._accounts[client]
        computed_s = account.time_s - self._now_s + self._credit_s
        return min(2 * self._credit_s, max(0.0, computed_s)) + account.under_way_s

    def _advance(self) -> None:
        waiting = [account.time_s for account in self._accounts.values() if account.waiting]
        latest_s = max((account.time_s for account in self._accounts.values()), default=0.0)
        self._now_s = max(self._now_s, min(waiting, default=latest_s))
