"""What a JSON Schema's ``pattern`` costs as a grammar, found before anything is made of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_PIECE = re.compile(r"\\.|\[(?:\\.|[^\]\\])*+\]|\{[^}]*\}|[^\\\[\]{}]", re.DOTALL)


class PatternRefused(Exception):
    """The pattern is no regular expression that llama.cpp's converter comes to an end with."""


@dataclass(slots=True)
class _Part:
    """A run of the pattern, repetitions written out."""

    n_items: int = 0
    n_optional: int = 0
    """Of them, how many may be left out."""

    def __iadd__(self, other: _Part) -> _Part:
        self.n_items += other.n_items
        self.n_optional += other.n_optional
        return self

    def repeated(self, least: int, most: int | None) -> _Part:
        times = max(most if most is not None else least, 1)
        is_open = least == 0 or most is None
        return _Part(self.n_items * times, self.n_optional * times + is_open)


@dataclass(slots=True)
class _Group:
    """What stands between two parentheses, the last item apart: a quantifier may follow it."""

    before: _Part = field(default_factory=_Part)
    last: _Part = field(default_factory=_Part)

    def push(self, item: _Part) -> None:
        self.before += self.last
        self.last = item

    def total(self) -> _Part:
        self.push(_Part())
        return self.before


def cost(pattern: str) -> int:
    """Items of the grammar with all repetitions written out, times those of them that may be left out.

    llama.cpp follows every way to leave items out at once: at ``(a?){400}`` each token takes it seconds. Raises
    ``PatternRefused`` for brackets that do not match: the converter would look for their end for ever.
    """
    groups = [_Group()]
    for piece in _pieces(pattern):
        if piece == "(":
            groups.append(_Group())
        elif piece == ")" and len(groups) > 1:
            inner = groups.pop().total()
            groups[-1].push(inner)
        elif bounds := _bounds(piece):
            groups[-1].last = groups[-1].last.repeated(*bounds)
        else:
            groups[-1].push(_Part(n_items=1))
    whole = _Part()
    for group in groups:
        whole += group.total()
    return whole.n_items * max(whole.n_optional, 1)


def _pieces(pattern: str) -> Iterator[str]:
    place = 0
    while place < len(pattern):
        piece = _PIECE.match(pattern, place)
        if piece is None:
            raise PatternRefused(f"its {pattern[place]!r} at character {place + 1} has no counterpart; escape it")
        yield piece[0]
        place = piece.end()


def _bounds(piece: str) -> tuple[int, int | None] | None:
    """How often a quantifier has its item at least and at most (None: without end); None for another piece."""
    if piece in "*+?":
        return int(piece == "+"), 1 if piece == "?" else None
    if not piece.startswith("{"):
        return None
    least, comma, most = piece[1:-1].partition(",")
    try:
        return int(least.strip() or 0), (int(most) if most.strip() else None) if comma else int(least)
    except ValueError as error:
        raise PatternRefused(f"{piece} is no number of repetitions") from error
