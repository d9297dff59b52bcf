"""What may be written where a value is none of those there are: msgspec does not say."""

from __future__ import annotations

from typing import Annotated, Literal, get_args, get_origin, get_type_hints

_REFUSED = "Invalid enum value "


def with_choices(problem: str, kind: type, field: str) -> str:
    """Msgspec's ``problem`` with a field of the struct ``kind``, with what may be written there."""
    if not problem.startswith(_REFUSED):
        return problem
    *others, last = _choices(get_type_hints(kind, include_extras=True)[field])
    return f"{problem.removeprefix(_REFUSED)} is not possible; write {', '.join(others)}{' or ' * bool(others)}{last}"


def _choices(hint: object) -> list[str]:
    if hint in (int, float):
        return ["a number"]
    if get_origin(hint) is Literal:
        return [str(value) for value in get_args(hint)]
    parts = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [text for part in parts for text in _choices(part)]
