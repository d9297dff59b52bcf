"""Writes the expressions of a Go template in Jinja."""

from __future__ import annotations

from collections.abc import Mapping

from beastd.nearest import did_you_mean
from beastd.registry.gotemplate import functions
from beastd.registry.gotemplate.scopes import Scopes
from beastd.registry.gotemplate.syntax import Call, Dot, Expression, Field, Literal, Origin, Variable
from beastd.registry.gotemplate.values import ENTRIES, FIELDS, ONCE_KNOWN, Kind, Value, quoted

MAX_VALUE_CHARS = 8 * 1024
"""Of one expression."""


class Expressions:
    """What expressions give, where the variables in scope and the data are known."""

    def __init__(self, root: Mapping[str, Value], scopes: Scopes, origin: Origin) -> None:
        self._root = root
        self._scopes = scopes
        self._origin = origin

    def value(self, expression: Expression, dot: Value) -> Value:
        """The expression's value, where ``.`` is ``dot``. Raises BadModel and Unsupported."""
        value = self._value(expression, dot)
        if len(value.jinja) > MAX_VALUE_CHARS:
            raise self._origin.unsupported(expression.line, "an action is too long to be written in Jinja")
        return value

    def _value(self, expression: Expression, dot: Value) -> Value:
        match expression:
            case Literal(constant):
                return _literal(constant)
            case Dot():
                return dot
            case Variable(name, line):
                return self.variable(name, line)
            case Field(base, names, line):
                value = self.value(base, dot)
                for name in names:
                    value = self._field(value, name, line)
                return value
            case Call():
                return self._called(expression, dot)

    def variable(self, name: str, line: int) -> Value:
        """What the variable means here."""
        value = self._scopes.get(name)
        if value is None:
            hint = did_you_mean(name, self._scopes.names())
            raise self._origin.broken(line, f"there is no variable {name[:40]} here{hint}")
        return value

    def _field(self, value: Value, name: str, line: int) -> Value:
        is_absent = value.kind is Kind.ROOT and name not in self._root and name in ONCE_KNOWN
        if value.kind is Kind.NIL or is_absent:
            return Value("none", Kind.NIL)
        if value.kind in ENTRIES:
            return Value(f"{value.jinja}[{quoted(name)}]", ENTRIES[value.kind])
        if value.kind is Kind.ROOT and name in self._root:
            return self._root[name]
        fields = FIELDS.get(value.kind, {})
        if name in fields:
            form, kind = fields[name]
            return Value(form.format(value.jinja), kind)
        hint = did_you_mean(name, self._root if value.kind is Kind.ROOT else fields)
        raise self._origin.broken(line, f"{value.kind.value} has no field .{name[:40]}{hint}")

    def _called(self, call: Call, dot: Value) -> Value:
        arguments = [self.value(argument, dot) for argument in call.arguments]
        name = call.function[:40]
        if name in functions.NO_EQUAL:
            raise self._origin.unsupported(call.line, f"the function {name} has no equal in Jinja")
        if name not in functions.FUNCTIONS:
            raise self._origin.broken(
                call.line, f"there is no function {name}{did_you_mean(name, functions.FUNCTIONS)}"
            )
        try:
            return functions.FUNCTIONS[name](arguments)
        except functions.WrongUse as error:
            raise self._origin.broken(call.line, f"{name}: {error}") from None
        except functions.NoEqual as error:
            raise self._origin.unsupported(call.line, f"{name} {error}, which Jinja cannot") from None


def _literal(constant: str | float | bool | None) -> Value:
    match constant:
        case str():
            return Value(quoted(constant), Kind.ASCII if constant.isascii() else Kind.TEXT, constant)
        case bool():
            return Value("true" if constant else "false", Kind.TRUTH)
        case None:
            return Value("none", Kind.NIL)
    return Value(str(constant), Kind.NUMBER)
