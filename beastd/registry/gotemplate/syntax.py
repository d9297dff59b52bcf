"""What a Go template is made of: its parts as a tree, and where in which file a part stands."""

from __future__ import annotations

from dataclasses import dataclass

from beastd.errors import BadModel, Unsupported


@dataclass(frozen=True, slots=True)
class Origin:
    """Names a place of the template for a message."""

    what: str
    """The file, or the request's field, that holds the template."""
    first_line: int = 1
    """Line of that file on which the template begins."""

    def broken(self, line: int, problem: str) -> BadModel:
        """The error for a template that Go would not take either."""
        return BadModel(f"{self._at(line)}: {problem}")

    def unsupported(self, line: int, construct: str) -> Unsupported:
        """The error for what Go takes and Jinja has no equal of."""
        return Unsupported(f"{self._at(line)}: {construct}; write the template without it, or in Jinja in a YAML file")

    def _at(self, line: int) -> str:
        return f"{self.what} line {self.first_line + line - 1}"


# --- expressions ---


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant; None is ``nil``."""

    value: str | int | float | bool | None
    line: int


@dataclass(frozen=True, slots=True)
class Dot:
    """``.``, what the block around it is about."""

    line: int


@dataclass(frozen=True, slots=True)
class Variable:
    """``$name``; the name "$" alone is the template's data."""

    name: str
    line: int


@dataclass(frozen=True, slots=True)
class Field:
    """``base.A.B``."""

    base: Expression
    names: tuple[str, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments; a pipeline ``a | f b`` is the call ``f b a``."""

    function: str
    arguments: tuple[Expression, ...]
    line: int


Expression = Literal | Dot | Variable | Field | Call


@dataclass(frozen=True, slots=True)
class Pipeline:
    """An expression, and the variables its value goes to."""

    value: Expression
    variables: tuple[str, ...] = ()
    is_assignment: bool = False
    """``=`` to variables that are there, instead of ``:=``."""


# --- statements ---


@dataclass(frozen=True, slots=True)
class Text:
    """Text as it is."""

    text: str


@dataclass(frozen=True, slots=True)
class Action:
    """``{{ pipeline }}``: prints its value, or sets a variable."""

    pipeline: Pipeline
    line: int


@dataclass(frozen=True, slots=True)
class Block:
    """``if``, ``with`` or ``range``."""

    word: str
    pipeline: Pipeline
    body: tuple[Statement, ...]
    otherwise: tuple[Statement, ...]
    line: int


@dataclass(frozen=True, slots=True)
class Jump:
    """``break`` or ``continue``."""

    word: str
    line: int


Statement = Text | Action | Block | Jump
