"""Cuts a Go template into tokens: text, and what stands in actions (Go's ``text/template/parse/lex.go``)."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from beastd.registry.gotemplate.syntax import Origin

_SPACE = " \t\r\n"
_OPEN = re.compile(r"\{\{(?P<trim>-[ \t\r\n])?(?P<comment>/\*)?")
_COMMENT_END = re.compile(r"\*/(?P<trim>[ \t\r\n]-)?\}\}")
_SPACES = re.compile(r"[ \t\r\n]+")
_TOKEN = re.compile(
    r"""(?P<FIELD>\.[^\W\d]\w*) | (?P<NUMBER>[+-]?\.?[0-9][\w.]*) | (?P<DOT>\.) | (?P<VARIABLE>\$\w*) | (?P<WORD>\w+)
      | (?P<STRING>"(?:[^"\\\n]|\\[^\n])*") | (?P<RAW>`[^`]*`) | (?P<CHARACTER>'(?:[^'\\\n]|\\[^\n])*')
      | (?P<SIGN>:=|[=|(),])""",
    re.VERBOSE,
)
_ENDS_NAME = re.compile(r"[ \t\r\n.,|:()]|\}\}|\Z")
_ESCAPE = re.compile(
    r"\\(?:([abfnrtv\\\"])|x([0-7][0-9a-fA-F])|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([01][0-7]{2})|(.?))"
)
_NAMED = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_NAMES = frozenset({"FIELD", "VARIABLE", "WORD"})


class Kind(Enum):
    """What a token is."""

    TEXT = auto()
    OPEN = auto()
    CLOSE = auto()
    FIELD = auto()
    DOT = auto()
    VARIABLE = auto()
    WORD = auto()
    NUMBER = auto()
    STRING = auto()
    SIGN = auto()
    END = auto()


@dataclass(frozen=True, slots=True)
class Token:
    """One token. The text of a string is its value."""

    kind: Kind
    text: str
    line: int
    is_spaced: bool = False
    """Blanks stand before it."""


def tokens(source: str, origin: Origin) -> Iterator[Token]:
    """The template's tokens, with an END last. Raises BadModel."""
    return _Lexer(source, origin).tokens()


class _Lexer:
    def __init__(self, source: str, origin: Origin) -> None:
        self._source = source
        self._origin = origin
        self._at = 0
        self._line = 1

    def tokens(self) -> Iterator[Token]:
        has_trim = False
        while (opening := _OPEN.search(self._source, self._at)) is not None:
            yield from self._text(opening.start(), has_trim, opening["trim"] is not None)
            self._move(opening.end())
            if opening["comment"]:
                has_trim = self._comment()
            else:
                yield Token(Kind.OPEN, "{{", self._line)
                has_trim = yield from self._action()
        yield from self._text(len(self._source), has_trim, False)
        yield Token(Kind.END, "the template's end", self._line)

    def _text(self, end: int, has_left_trim: bool, has_right_trim: bool) -> Iterator[Token]:
        text, line = self._source[self._at : end], self._line
        self._move(end)
        text = text.lstrip(_SPACE) if has_left_trim else text
        text = text.rstrip(_SPACE) if has_right_trim else text
        if text:
            yield Token(Kind.TEXT, text, line)

    def _comment(self) -> bool:
        end = self._source.find("*/", self._at)
        closing = _COMMENT_END.match(self._source, end) if end >= 0 else None
        if closing is None:
            raise self._origin.broken(self._line, "the comment is not closed with */}}")
        self._move(closing.end())
        return closing["trim"] is not None

    def _action(self) -> Generator[Token, None, bool]:
        """The tokens up to the closing braces; returns whether those trim the text after them."""
        opened = self._line
        while True:
            spaces = _SPACES.match(self._source, self._at)
            is_spaced = spaces is not None or self._source[self._at - 1] in _SPACE
            if spaces:
                self._move(spaces.end())
            for closing in ("-}}", "}}") if is_spaced else ("}}",):
                if self._source.startswith(closing, self._at):
                    yield Token(Kind.CLOSE, closing, self._line)
                    self._move(self._at + len(closing))
                    return closing == "-}}"
            if self._at >= len(self._source):
                raise self._origin.broken(opened, "an action is not closed with }}")
            yield self._token(is_spaced)

    def _token(self, is_spaced: bool) -> Token:
        match = _TOKEN.match(self._source, self._at)
        if match is None or match.lastgroup is None:
            raise self._origin.broken(self._line, f"{self._source[self._at]!r} is not understood here")
        line, name, text = self._line, match.lastgroup, match[0]
        self._move(match.end())
        if name in _NAMES and not _ENDS_NAME.match(self._source, self._at):
            raise self._origin.broken(line, f"{self._source[self._at]!r} is not understood after {text[:40]}")
        if name == "CHARACTER":
            raise self._origin.unsupported(line, f"the character constant {text[:20]} has no equal in Jinja")
        if name in ("STRING", "RAW"):
            return Token(Kind.STRING, self._unquoted(name, text, line), line, is_spaced)
        return Token(Kind[name], text, line, is_spaced)

    def _unquoted(self, name: str, text: str, line: int) -> str:
        if name == "RAW":
            return text[1:-1].replace("\r", "")

        def character(escape: re.Match[str]) -> str:
            named, *codes, other = escape.groups()
            if named:
                return _NAMED[named]
            code = next((int(digits, 8 if n == 3 else 16) for n, digits in enumerate(codes) if digits), 0x110000)
            if other is not None or code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise self._origin.broken(line, f"the escape {escape[0][:10]} is not understood")
            return chr(code)

        return _ESCAPE.sub(character, text[1:-1])

    def _move(self, to: int) -> None:
        self._line += self._source.count("\n", self._at, to)
        self._at = to
