"""Templates that write one turn: how Ollama knows them, and where it stops in the last (``template/template.go``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from beastd.registry.gotemplate.syntax import (
    Action,
    Block,
    Call,
    Dot,
    Expression,
    Field,
    Origin,
    Pipeline,
    Statement,
    Variable,
)

RESPONSE = Action(Pipeline(Field(Dot(0), ("Response",), 0)), 0)
"""What Ollama adds to a template that mentions neither messages nor a response."""


def names(statements: Sequence[Statement]) -> Iterator[str]:
    """The fields a template mentions, in lower case: Ollama's ``Vars``."""
    for statement in statements:
        if isinstance(statement, Action | Block):
            yield from (name.lower() for name in _names(statement.pipeline.value))
        if isinstance(statement, Block):
            yield from names(statement.body)
            yield from names(statement.otherwise)


def _names(expression: Expression) -> Iterator[str]:
    match expression:
        case Field(Dot() | Variable(), found):
            yield from found
        case Call(_, arguments):
            for argument in arguments:
                yield from _names(argument)


def before_response(statements: Sequence[Statement], origin: Origin) -> tuple[Statement, ...]:
    """The template up to where it prints the response, with what leads there: Ollama's ``deleteNode``.

    The response itself stays, for an answer that was begun. Raises Unsupported where Ollama's own way ends in a crash
    or in half an expression.
    """
    return _Cut(origin).kept(statements)


class _Cut:
    def __init__(self, origin: Origin) -> None:
        self._origin = origin
        self._is_done = False

    def kept(self, statements: Sequence[Statement]) -> tuple[Statement, ...]:
        found: list[Statement] = []
        for statement in statements:
            if self._is_done:
                break
            found.append(self._kept_of(statement))
        return tuple(found)

    def _kept_of(self, statement: Statement) -> Statement:
        match statement:
            case Action(Pipeline(Field(Dot(), fields))) if "Response" in fields:
                self._is_done = True
            case Action(Pipeline(value), line) if _holds_response(value):
                raise self._origin.unsupported(line, ".Response is used in an expression, not printed by itself")
            case Block():
                body = self.kept(statement.body)
                if self._is_done and statement.otherwise:
                    raise self._origin.unsupported(statement.line, ".Response stands in a block that has an else")
                return replace(statement, body=body, otherwise=self.kept(statement.otherwise))
        return statement


def _holds_response(expression: Expression) -> bool:
    """Whether ``.Response`` is in it; ``$.Response`` does not count for Ollama."""
    if isinstance(expression, Call):
        return any(_holds_response(argument) for argument in expression.arguments)
    return isinstance(expression, Field) and isinstance(expression.base, Dot) and "Response" in expression.names
