"""The functions of Go's templates and Ollama's own, as Jinja (``text/template/funcs.go``, ``template/template.go``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from beastd.registry.gotemplate.values import ELEMENTS, ENTRIES, TEXTS, Kind, Value, as_json, printed, quoted

NO_EQUAL = ("call", "html", "js", "println", "urlquery", "yesterdayDate")
"""Functions that Ollama offers and Jinja, in our sandbox, cannot do."""

_DIRECTIVE = re.compile(r"%(.?)", re.DOTALL)
_COMPARED = {
    Kind.TEXT: "text",
    Kind.ASCII: "text",
    Kind.NUMBER: "number",
    Kind.BYTES: "number",
    Kind.TRUTH: "truth",
    Kind.ANY: "any",
    Kind.NIL: "any",
}
"""What can be compared: with its like, and with any."""

Arguments = Sequence[Value]


class WrongUse(Exception):
    """Go refuses the call, or would fail at it."""


class NoEqual(Exception):
    """Go does it, Jinja cannot."""


def _count(arguments: Arguments, least: int, most: int = 100) -> None:
    if not least <= len(arguments) <= most:
        raise WrongUse(f"it takes {least if least == most else f'at least {least}'} arguments, not {len(arguments)}")


def _either(word: str) -> Callable[[Arguments], Value]:
    def either(arguments: Arguments) -> Value:
        _count(arguments, 1)
        kinds = {argument.kind for argument in arguments}
        kind = kinds.pop() if len(kinds) == 1 else Kind.TEXT if kinds <= TEXTS else Kind.MIXED
        return Value(f"({f' {word} '.join(argument.jinja for argument in arguments)})", kind)

    return either


def _not(arguments: Arguments) -> Value:
    _count(arguments, 1, 1)
    return Value(f"(not {arguments[0].jinja})", Kind.TRUTH)


def _equal(arguments: Arguments) -> Value:
    """``eq a b c``: a is b or c."""
    _count(arguments, 2)
    first, *others = arguments
    return Value(f"({' or '.join(_comparison('==', first, other) for other in others)})", Kind.TRUTH)


def _compare(symbol: str) -> Callable[[Arguments], Value]:
    def compare(arguments: Arguments) -> Value:
        _count(arguments, 2, 2)
        if symbol != "!=" and {argument.kind for argument in arguments} & {Kind.TRUTH, Kind.NIL}:
            raise WrongUse("it compares numbers or texts")
        return Value(f"({_comparison(symbol, *arguments)})", Kind.TRUTH)

    return compare


def _comparison(symbol: str, left: Value, right: Value) -> str:
    likes = [_COMPARED.get(value.kind, value.kind.value) for value in (left, right)]
    if (likes[0] != likes[1] and "any" not in likes) or not set(likes) <= set(_COMPARED.values()):
        raise WrongUse(f"{left.kind.value} is not compared with {right.kind.value}")
    if Kind.BYTES in (left.kind, right.kind) and "0" not in (left.jinja, right.jinja):
        raise NoEqual("counts the bytes of a text; only whether there are any can be asked for")
    return f"{left.jinja} {symbol} {right.jinja}"


def _length(arguments: Arguments) -> Value:
    _count(arguments, 1, 1)
    value = arguments[0]
    if value.kind not in {*TEXTS, *ELEMENTS, *ENTRIES}:
        raise WrongUse(f"{value.kind.value} has no length")
    length = value.length or f"({value.jinja} | length)"
    return Value(length, Kind.BYTES if value.kind is Kind.TEXT else Kind.NUMBER)


def _slice(arguments: Arguments) -> Value:
    _count(arguments, 1, 4)
    value, *bounds = arguments
    if value.kind is Kind.TEXT or len(bounds) > 2:
        raise NoEqual("cuts a text at its bytes, or sets a capacity")
    if value.kind not in {Kind.ASCII, *ELEMENTS} or any(bound.kind is not Kind.NUMBER for bound in bounds):
        raise WrongUse("it takes a list and numbers")
    start, end = [*(bound.jinja for bound in bounds), "", ""][:2]
    length = f"(({value.jinja} | length) - {start})" if len(bounds) == 1 else None
    return Value(f"{value.jinja}[{start}:{end}]", value.kind, length=length)


def _index(arguments: Arguments) -> Value:
    _count(arguments, 1)
    value, *keys = arguments
    for key in keys:
        if value.kind in ELEMENTS and key.kind is Kind.NUMBER:
            value = Value(f"{value.jinja}[{key.jinja}]", ELEMENTS[value.kind])
        elif value.kind in ENTRIES and key.kind in TEXTS:
            value = Value(f"{value.jinja}[{key.jinja}]", ENTRIES[value.kind])
        else:
            raise WrongUse(f"{value.kind.value} is not indexed by {key.kind.value}")
    return value


def _json(arguments: Arguments) -> Value:
    _count(arguments, 1, 1)
    jinja = as_json(arguments[0])
    if jinja is None:
        raise NoEqual(f"writes {arguments[0].kind.value} with Go's names of fields")
    return Value(jinja, Kind.TEXT)


def _print(arguments: Arguments) -> Value:
    """``fmt.Sprint``: blanks only between two that are no texts."""
    pieces = [_piece(argument) for argument in arguments]
    for n, (left, right) in reversed(list(enumerate(pairwise(arguments), 1))):
        if left.kind not in TEXTS and right.kind not in TEXTS:
            pieces.insert(n, quoted(" "))
    return Value(f"({' ~ '.join(pieces or [quoted('')])})", Kind.TEXT)


def _printf(arguments: Arguments) -> Value:
    """``fmt.Sprintf`` with a constant format of %s, %v and %d."""
    _count(arguments, 1)
    form, *rest = arguments
    if form.constant is None:
        raise NoEqual("takes its format from a value")
    pieces, at = [quoted("")], 0
    for directive in _DIRECTIVE.finditer(form.constant):
        pieces.append(quoted(form.constant[at : directive.start()]))
        at = directive.end()
        if directive[1] == "%":
            pieces.append(quoted("%"))
        elif rest and _suits(directive[1], rest[0].kind):
            pieces.append(_piece(rest.pop(0)))
        else:
            raise NoEqual(f"formats with {directive[0]!r}")
    if rest:
        raise WrongUse("it has more arguments than its format")
    return Value(f"({' ~ '.join([*pieces, quoted(form.constant[at:])])})", Kind.TEXT)


def _suits(directive: str, kind: Kind) -> bool:
    return directive == "v" or (directive == "s" and kind in TEXTS) or (directive == "d" and kind is Kind.NUMBER)


def _piece(value: Value) -> str:
    jinja = printed(value) if value.kind in {*TEXTS, Kind.NUMBER, Kind.TRUTH, Kind.MAP} else None
    if jinja is None:
        raise NoEqual(f"prints {value.kind.value} in Go's notation")
    return jinja


def _today(arguments: Arguments) -> Value:
    """Ollama takes a format, and does not use it."""
    if any(argument.kind not in TEXTS for argument in arguments):
        raise WrongUse("it takes texts")
    return Value("strftime_now('%Y-%m-%d')", Kind.ASCII)


def _typescript(arguments: Arguments) -> Value:
    """Only tools have properties, and Beast passes none to templates; when it does, this says so."""
    _count(arguments, 1, 1)
    return Value("raise_exception('toTypeScriptType of an Ollama template is not known to Beast')", Kind.TEXT)


FUNCTIONS: dict[str, Callable[[Arguments], Value]] = {
    "and": _either("and"),
    "or": _either("or"),
    "not": _not,
    "eq": _equal,
    "ne": _compare("!="),
    "lt": _compare("<"),
    "le": _compare("<="),
    "gt": _compare(">"),
    "ge": _compare(">="),
    "len": _length,
    "slice": _slice,
    "index": _index,
    "json": _json,
    "print": _print,
    "printf": _printf,
    "currentDate": _today,
    "toTypeScriptType": _typescript,
}
"""What each makes of its arguments. They raise WrongUse and NoEqual."""
