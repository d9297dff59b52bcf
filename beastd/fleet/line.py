"""The line for memory: models that need some, and who waits for them, by priority and age."""

from __future__ import annotations

from collections.abc import Iterator

from beastd.contract import Priority
from beastd.fleet.entry import Claim, Ticket
from beastd.fleet.spec import Want

HEAD_START = 64
"""Places in line: as many later requests of a class may pass one of the next lower class."""
_LEVELS: dict[Priority, int] = {"high": 0, "normal": 1, "low": 2}


def order_of(number: int, priority: Priority) -> int:
    """The place of the request of this number, unlike any other's: high before normal before low, but not for ever."""
    level = _LEVELS[priority]
    return (number + HEAD_START * level) * len(_LEVELS) + level


class Line:
    """Claims by the variants they take; one that asks for what is in line already joins it there.

    Who insists on a variant has a place of its own, where nobody waits for it who could have a smaller one now.
    """

    def __init__(self) -> None:
        self._claims: dict[tuple[str, ...], Claim] = {}

    def __iter__(self) -> Iterator[Claim]:
        """The claims of this moment, next first."""
        return iter(tuple(self._claims.values()))

    @property
    def n_waiting(self) -> int:
        """Requests in line."""
        return sum(len(claim.tickets) for claim in self._claims.values())

    def add(self, ticket: Ticket, want: Want, order: int) -> Claim:
        """Give a request its model's place, or one by its order."""
        claim = self._claims.setdefault(want.keys, Claim(want, order, {}))
        claim.tickets[ticket] = want
        claim.want = _largest(claim)
        if order < claim.order or len(claim.tickets) == 1:
            claim.order = order
            self._claims = dict(sorted(self._claims.items(), key=lambda item: item[1].order))
        return claim

    def take(self, claim: Claim) -> None:
        """The claim is served."""
        del self._claims[claim.want.keys]

    def leave(self, ticket: Ticket, claim: Claim) -> None:
        """A request waits no longer; the last one takes its place with it."""
        del claim.tickets[ticket]
        if claim.tickets:
            claim.want = _largest(claim)
        else:
            self.take(claim)

    def clear(self) -> list[Claim]:
        """Everybody out, in order."""
        claims = list(self)
        self._claims.clear()
        return claims

    def position(self, ticket: Ticket, claim: Claim) -> int:
        """The request's place: 1 is next."""
        n_before = sum(len(other.tickets) for other in self._claims.values() if other.order < claim.order)
        return n_before + list(claim.tickets).index(ticket) + 1


def _largest(claim: Claim) -> Want:
    """What answers all at a place: the request of the most context."""
    return max(claim.tickets.values(), key=lambda want: want.n_ctx)
