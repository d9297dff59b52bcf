"""Parses a Go template, as far as chat templates use the language (Go's ``text/template/parse/parse.go``)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from beastd.registry.gotemplate.lexer import Kind, Token
from beastd.registry.gotemplate.syntax import (
    Action,
    Block,
    Call,
    Dot,
    Expression,
    Field,
    Jump,
    Literal,
    Origin,
    Pipeline,
    Statement,
    Text,
    Variable,
)

MAX_BLOCKS = 64
"""Blocks inside of blocks."""
MAX_CALLS = 32
"""Parentheses and pipes in one action: what they build, Jinja must parse again, by recursion."""

_NUMBER = re.compile(r"[+-]?(0|[1-9][0-9]{0,14})(\.[0-9]{1,15})?")
_BLOCKS = ("if", "range", "with")
_JUMPS = ("break", "continue")
_NAMED_TEMPLATES = ("define", "template", "block")
_CONSTANTS = {"true": True, "false": False, "nil": None}
_KEYWORDS = frozenset({*_BLOCKS, *_JUMPS, *_NAMED_TEMPLATES, "else", "end"})


def parse(tokens: Iterable[Token], origin: Origin) -> tuple[Statement, ...]:
    """The template's statements. Raises BadModel, and Unsupported for named templates."""
    parser = _Parser(tokens, origin)
    statements, stop = parser.statements(0)
    if stop.kind is not Kind.END:
        raise origin.broken(stop.line, f"{{{{ {stop.text} }}}} has no block that it belongs to")
    return statements


class _Parser:
    """Recursive descent with one token of foresight; ``_depth`` and ``_n_calls`` bound the recursion."""

    def __init__(self, tokens: Iterable[Token], origin: Origin) -> None:
        self._tokens = iter(tokens)
        self._origin = origin
        self._next = next(self._tokens)
        self._n_calls = 0
        self._n_ranges = 0

    # --- statements ---

    def statements(self, depth: int) -> tuple[tuple[Statement, ...], Token]:
        """Up to an ``else``, an ``end`` or the template's end, which is returned, too."""
        found: list[Statement] = []
        while self._next.kind is not Kind.END:
            token = self._take()
            if token.kind is Kind.TEXT:
                found.append(Text(token.text))
                continue
            self._n_calls = 0
            if self._is_word("else", "end"):
                return tuple(found), self._stop()
            found.append(self._statement(depth))
        return tuple(found), self._next

    def _stop(self) -> Token:
        """An ``end`` with its braces, or an ``else``, after which an ``if`` may follow."""
        word = self._take()
        if word.text == "end":
            self._expect(Kind.CLOSE, "}}")
        return word

    def _statement(self, depth: int) -> Statement:
        token = self._next
        if self._is_word(*_BLOCKS):
            return self._block(self._take(), depth)
        if self._is_word(*_NAMED_TEMPLATES):
            raise self._origin.unsupported(
                token.line, f"{{{{ {token.text} }}}}, a named template, has no equal in Jinja"
            )
        if self._is_word(*_JUMPS):
            word = self._take()
            self._expect(Kind.CLOSE, "}}")
            if not self._n_ranges:
                raise self._origin.broken(word.line, f"{{{{ {word.text} }}}} stands in no range")
            return Jump(word.text, word.line)
        action = Action(self._pipeline(""), token.line)
        self._expect(Kind.CLOSE, "}}")
        return action

    def _block(self, word: Token, depth: int) -> Block:
        if depth >= MAX_BLOCKS:
            raise self._origin.unsupported(word.line, f"more than {MAX_BLOCKS} blocks stand inside of each other")
        pipeline = self._pipeline(word.text)
        self._expect(Kind.CLOSE, "}}")
        self._n_ranges += word.text == "range"
        body, stop = self.statements(depth + 1)
        self._n_ranges -= word.text == "range"
        otherwise: tuple[Statement, ...] = ()
        if stop.text == "else":
            otherwise, stop = self._otherwise(word, depth)
        if stop.text != "end" or stop.kind is Kind.END:
            raise self._origin.broken(word.line, f"{{{{ {word.text} }}}} has no {{{{ end }}}}")
        return Block(word.text, pipeline, body, otherwise, word.line)

    def _otherwise(self, word: Token, depth: int) -> tuple[tuple[Statement, ...], Token]:
        """What follows an ``else``, and the token that ends it; ``else if`` shares its end with the ``if``."""
        if word.text in ("if", "with") and self._is_word(word.text):
            chained = self._block(self._take(), depth + 1)
            return (chained,), Token(Kind.WORD, "end", chained.line)
        self._expect(Kind.CLOSE, "}}")
        return self.statements(depth + 1)

    # --- expressions ---

    def _pipeline(self, word: str) -> Pipeline:
        """``$x := value`` or a value; a range may set two variables."""
        names: list[str] = []
        if self._next.kind is not Kind.VARIABLE:
            return Pipeline(self._value())
        variable = self._take()
        first: Expression = Variable(variable.text, variable.line)
        while self._is_sign(",") and word == "range" and not names:
            names.append(variable.text)
            self._take()
            variable = self._expect(Kind.VARIABLE, "a variable")
        if self._is_sign(":=", "="):
            is_assignment = self._take().text == "="
            return Pipeline(self._value(), (*names, variable.text), is_assignment)
        if names:
            raise self._origin.broken(variable.line, "a range's variables are set with :=")
        return Pipeline(self._value(first))

    def _value(self, first: Expression | None = None) -> Expression:
        """Commands with ``|`` between them: each is the last argument of the next."""
        value = self._command(first, None)
        while self._is_sign("|"):
            self._count(self._take())
            value = self._command(None, value)
        return value

    def _command(self, first: Expression | None, piped: Expression | None) -> Expression:
        token = self._next
        is_function = first is None and token.kind is Kind.WORD and token.text not in _CONSTANTS
        head = self._operand() if first is None else self._fields(first)
        arguments: list[Expression] = []
        while self._next.is_spaced and self._starts_operand():
            arguments.append(self._operand())
        if piped is not None:
            arguments.append(piped)
        if not arguments:
            return head
        if not is_function or not isinstance(head, Call):
            raise self._origin.broken(token.line, f"{token.text or 'a text'} is no function and takes no arguments")
        return Call(head.function, tuple(arguments), token.line)

    def _operand(self) -> Expression:
        if not self._starts_operand():
            raise self._origin.broken(self._next.line, f"a value is expected, not {self._next.text[:40]!r}")
        return self._fields(self._term())

    def _fields(self, base: Expression) -> Expression:
        names: list[str] = []
        while self._next.kind is Kind.FIELD and not self._next.is_spaced:
            names.append(self._take().text[1:])
        if names and isinstance(base, Literal | Dot):
            raise self._origin.broken(base.line, f"a constant or a dot has no field .{names[0]}")
        if isinstance(base, Field):
            return Field(base.base, (*base.names, *names), base.line)
        return Field(base, tuple(names), base.line) if names else base

    def _term(self) -> Expression:
        token = self._take()
        if token.kind is Kind.SIGN and token.text == "(":
            return self._parenthesized(token)
        term = self._constant(token) or self._name(token)
        if term is None:
            raise self._origin.broken(token.line, f"a value is expected, not {token.text[:40]!r}")
        return term

    def _constant(self, token: Token) -> Literal | None:
        if token.kind is Kind.STRING:
            return Literal(token.text, token.line)
        if token.kind is Kind.NUMBER:
            return Literal(self._number(token), token.line)
        is_constant = token.kind is Kind.WORD and token.text in _CONSTANTS
        return Literal(_CONSTANTS[token.text], token.line) if is_constant else None

    def _name(self, token: Token) -> Expression | None:
        match token.kind:
            case Kind.DOT:
                return Dot(token.line)
            case Kind.FIELD:
                return Field(Dot(token.line), (token.text[1:],), token.line)
            case Kind.VARIABLE:
                return Variable(token.text, token.line)
            case Kind.WORD if token.text not in _KEYWORDS:
                return Call(token.text, (), token.line)
        return None

    def _parenthesized(self, opening: Token) -> Expression:
        self._count(opening)
        value = self._value()
        if self._is_sign(":=", "="):
            raise self._origin.unsupported(opening.line, "a variable is set inside of parentheses")
        if not self._is_sign(")"):
            raise self._origin.broken(opening.line, "a parenthesis is not closed")
        self._take()
        return value

    def _number(self, token: Token) -> int | float:
        """Decimal numbers; the other forms have never been seen in a chat template."""
        if not _NUMBER.fullmatch(token.text):
            raise self._origin.unsupported(token.line, f"{token.text[:20]} is not a plain decimal number")
        return float(token.text) if "." in token.text else int(token.text)

    # --- tokens ---

    def _count(self, token: Token) -> None:
        self._n_calls += 1
        if self._n_calls > MAX_CALLS:
            raise self._origin.unsupported(token.line, f"an action holds more than {MAX_CALLS} parentheses and pipes")

    def _starts_operand(self) -> bool:
        return self._next.kind not in (Kind.TEXT, Kind.CLOSE, Kind.END, Kind.SIGN) or self._is_sign("(")

    def _is_word(self, *words: str) -> bool:
        return self._next.kind is Kind.WORD and self._next.text in words

    def _is_sign(self, *signs: str) -> bool:
        return self._next.kind is Kind.SIGN and self._next.text in signs

    def _expect(self, kind: Kind, what: str) -> Token:
        if self._next.kind is not kind:
            raise self._origin.broken(self._next.line, f"{what} is expected, not {self._next.text[:40]!r}")
        return self._take()

    def _take(self) -> Token:
        token = self._next
        self._next = next(self._tokens, token)
        return token
