"""A Jinja environment in which a hostile chat template reaches no Python object, and neither hangs nor eats memory.

Attributes and filters are those on a list. Every loop turn, call, filter and growing value is charged to a meter,
which ends the rendering when the work or the processor time it was given is used up; what one operation would make
large is charged before it is made.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from jinja2 import Template, filters, nodes
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter, safe_range
from jinja2.utils import Namespace

from beastd.engine.metering import LimitExceeded, Meter, Metering, size_of

MAX_INTEGER_BITS = 256
MAX_JSON_SPACING = 32

_STRING_METHODS = frozenset(
    {"capitalize", "count", "endswith", "find", "format", "index", "isalnum", "isalpha", "isdigit", "islower"}
    | {"isspace", "isupper", "join", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "replace"}
    | {"rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip", "title", "upper"}
)
_METHODS: dict[type, frozenset[str]] = {
    str: _STRING_METHODS,
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset(),
    float: frozenset(),
    type: frozenset(),
}
_FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "e", "escape", "first", "float", "int", "items"),
    *("last", "length", "list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "select"),
    *("selectattr", "sort", "title", "trim", "unique", "upper", "wordcount"),
)
_WIDE_FORMAT = re.compile(r"\d{3}")


class Refusal(Exception):
    """The template called ``raise_exception``."""


class _Namespace(Namespace):
    def __repr__(self) -> str:  # the inherited one prints all values, of which there may be exponentially many
        return "<namespace>"


class _Generation(Extension):
    """``{% generation %}``, with which templates mark the assistant's part for training; it changes no text."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Formatter(SandboxedFormatter):
    """``str.format`` without wide fields, each field charged."""

    def __init__(self, sandbox: Sandbox) -> None:
        super().__init__(sandbox)
        self._sandbox = sandbox

    def format_field(self, value: Any, format_spec: str) -> str:
        if _WIDE_FORMAT.search(format_spec):
            raise LimitExceeded(f"it formats a field of {format_spec!r}")
        text = format(self._sandbox.text(value) if not format_spec else value, format_spec)
        self._sandbox.meter.charge(len(text))
        return text


class Sandbox(ImmutableSandboxedEnvironment):
    """Where chat templates are compiled and rendered; ``meter`` is set anew for each rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, meter: Meter) -> None:
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[LoopControlExtension, _Generation]
        )
        self.meter = meter
        self.finalize = self.text
        self.globals = {"range": safe_range, "dict": dict, "namespace": _Namespace, "raise_exception": _refuse}
        self.filters = {name: self._charged(filters.FILTERS[name]) for name in _FILTERS}
        self.filters |= {"join": self._join, "replace": self._replace, "indent": self._indent, "tojson": self._to_json}
        self.filters |= {"string": self.text, "safe": self.text}
        self.filters |= {"beast_turns": self._turns, "beast_checked": self._checked, "beast_sliced": self._sliced}

    def compile_metered(self, source: str) -> Template:
        """The template's code, with everything metered. Raises ``jinja2.TemplateSyntaxError`` and RecursionError."""
        tree = self.parse(source)
        Metering().visit(tree)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    # --- what the sandbox asks ---

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Whether a template may read this attribute: for Python's own types, the methods on the list."""
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call as the sandbox does, after a charge; the string methods that can grow text are ours."""
        self.meter.charge()
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str) and obj.__name__ in ("join", "replace"):
            return self._join(args[0], owner) if obj.__name__ == "join" else self._replace(owner, *args)
        return self._checked(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Refuse or charge what could grow beyond measure; then compute."""
        if operator == "%" and isinstance(left, str):
            raise LimitExceeded("it formats text with %, which is not offered; templates may use ~ or format")
        if operator in ("*", "**"):
            self._charge_product(left, right, operator)
        return self._checked(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """``str.format`` as our formatter does it."""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") != "format":
            return None
        return lambda *args, **kwargs: _Formatter(self).vformat(owner, args, kwargs)

    # --- metering ---

    def text(self, value: Any) -> str:
        """The value as text, charged; Jinja's ``string`` filter, and what ``{{ }}`` prints."""
        if isinstance(value, str):
            return str(value)
        self.meter.charge(size_of(value))
        return str(value)

    def _charged(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)  # which copies what Jinja marked it with
        def charged(*args: Any, **kwargs: Any) -> Any:
            self.meter.charge()
            return self._checked(function(*args, **kwargs))

        return charged

    def _checked(self, value: Any) -> Any:
        """A value that was made, charged for its own size, and refused if it holds too much inside."""
        if isinstance(value, str):
            self.meter.charge(len(value))
        elif isinstance(value, (list, tuple, dict)):
            self.meter.charge(len(value))
            size_of(value)
        elif isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
            raise LimitExceeded("it computes a huge number")
        return value

    def _sliced(self, value: Any) -> Any:
        if isinstance(value, (str, list, tuple)):
            self.meter.charge(len(value))
        return value

    def _turns(self, values: Iterable[Any] | None) -> Iterator[Any]:
        for value in values if values is not None else ():  # many templates loop over ``tools``, which may be none
            self.meter.charge()
            yield value

    def concat(self, pieces: Iterable[str], /) -> str:
        """Join what a template, a macro or a block printed, charged."""
        parts = []
        for piece in pieces:
            self.meter.charge(len(piece))
            parts.append(piece)
        return "".join(parts)

    def _charge_product(self, left: Any, right: Any, operator: str) -> None:
        if isinstance(left, int) and isinstance(right, int):
            n_bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            if n_bits > 2 * MAX_INTEGER_BITS:
                raise LimitExceeded("it computes a huge number")
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
                self.meter.charge(len(sequence) * max(times, 0))

    # --- filters that can make much of little ---

    def _join(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        separator = self.text(d)
        attribute_of = filters.make_attrgetter(self, attribute) if attribute is not None else None
        parts = []
        for value in values:
            parts.append(self.text(attribute_of(value) if attribute_of else value))
            self.meter.charge(len(parts[-1]) + len(separator))
        return separator.join(parts)

    def _replace(self, s: Any, old: Any, new: Any, count: int | None = None) -> str:
        text, old, new = self.text(s), self.text(old), self.text(new)
        n_replaced = text.count(old) if count is None or count < 0 else min(count, text.count(old))
        self.meter.charge(len(text) + n_replaced * max(len(new) - len(old), 0))
        return text.replace(old, new, n_replaced)

    def _indent(self, s: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = self.text(s)
        n_width = len(width) if isinstance(width, str) else width
        self.meter.charge(len(text) + (text.count("\n") + 1) * max(n_width, 0))
        return filters.do_indent(text, width, first, blank)

    def _to_json(
        self,
        x: Any,
        ensure_ascii: bool = False,
        indent: int | str | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        """JSON as Hugging Face's templates expect it: neither ASCII only nor escaped for HTML."""
        self.meter.charge(size_of(x))
        n_indent = len(indent) if isinstance(indent, str) else indent or 0
        if n_indent > MAX_JSON_SPACING or len("".join(separators or ())) > MAX_JSON_SPACING:
            raise LimitExceeded("it writes JSON with wide spaces")
        encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
        return self.concat(encoder.iterencode(x))


def strftime_at(now: datetime) -> Callable[[str], str]:
    """``strftime_now`` for templates that write the date."""

    def strftime_now(form: str) -> str:
        if len(form) > 100 or _WIDE_FORMAT.search(form):
            raise LimitExceeded("it formats a date at length")
        return now.strftime(form)

    return strftime_now


def _refuse(message: str) -> None:
    raise Refusal(message)
