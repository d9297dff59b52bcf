"""Divides a Modelfile into its instructions, as Ollama's parser does (``parser/parser.go``)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from beastd.errors import BadModel
from beastd.nearest import did_you_mean

INSTRUCTIONS = (
    *("FROM", "ADAPTER", "DRAFT", "PARAMETER", "TEMPLATE", "SYSTEM", "MESSAGE"),
    *("LICENSE", "REQUIRES", "RENDERER", "PARSER"),
)
HEADED = {"PARAMETER": "a name", "MESSAGE": "a role"}
"""Instructions with a word before the value, and what it is."""
MAY_BE_EMPTY = ("SYSTEM", "MESSAGE")
"""Instructions that two quotes with nothing between them are enough for."""

_LINE = re.compile(r"(?P<text>[^\r\n]*)(?:\r\n|\r|\n|\Z)")
_WORDS = re.compile(r"[ \t]*(?P<name>[^\s:]+)(?P<rest>(?:[ \t].*)?)")
_HEAD = re.compile(r"[ \t]*(?P<head>\S*)[ \t]*")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction as it stands in the file."""

    name: str
    """In upper case, one of INSTRUCTIONS."""
    head: str
    """A parameter's name or a message's role; else empty."""
    value: str
    """Without its quotes."""
    is_quoted: bool
    line: int
    """On which name and value begin."""
    what: str
    """The file."""

    def broken(self, problem: str) -> BadModel:
        """The error for a wrong instruction: file, line, instruction, problem."""
        return BadModel(f"{self}: {problem}")

    def __str__(self) -> str:
        return f"{self.what} line {self.line}: {self.name}"


def is_significant(line: str) -> bool:
    """Whether a line is neither blank nor a comment."""
    return not line.isspace() and line != "" and not line.lstrip(" \t").startswith("#")


def instructions(text: str, what: str) -> Iterator[Instruction]:
    """The instructions of a Modelfile; ``what`` names it for messages. Raises BadModel.

    A value that begins with ``"`` or with three of them ends at the first line that ends with the same. Characters
    that cannot be printed stay; Ollama drops them.
    """
    lines = enumerate(_LINE.finditer(text), 1)
    for n, line in lines:
        if not is_significant(line["text"]):
            continue
        name, start = _name(line["text"], f"{what} line {n}")
        start += line.start()
        head = ""
        if name in HEADED:
            match = _HEAD.match(text, start, line.end("text"))
            head, start = (match["head"], match.end()) if match else ("", start)
        value = text[start : line.end("text")].strip()
        quotes = _quotes(value)
        if quotes and not (value.endswith(quotes) and len(value) >= 2 * len(quotes)):
            end = next((it.end("text") for _, it in lines if it["text"].rstrip().endswith(quotes)), None)
            if end is None:
                raise BadModel(f"{what} line {n}: {name}: the value has no end; close it with {quotes} at a line's end")
            value = text[start:end].strip()
        unquoted = value[len(quotes) : len(value) - len(quotes)]
        found = Instruction(name, head, unquoted, bool(quotes), n, what)
        if (name in HEADED and not head) or (not unquoted.strip() and not (quotes and name in MAY_BE_EMPTY)):
            raise found.broken(f"it needs {f'{HEADED[name]} and ' if name in HEADED else ''}a value")
        yield found


def _name(line: str, where: str) -> tuple[str, int]:
    """The instruction's name, and where the rest of its line begins."""
    match = _WORDS.fullmatch(line)
    name = match["name"].upper() if match else ""
    if match is None or name not in INSTRUCTIONS:
        word = re.split(r"[\s:]", line.strip(), maxsplit=1)[0]
        hint = did_you_mean(word, INSTRUCTIONS)
        raise BadModel(f"{where}: '{word[:40]}' is no instruction{hint}; there are {', '.join(INSTRUCTIONS)}")
    return name, match.start("rest")


def _quotes(value: str) -> str:
    return '"""' if value.startswith('"""') else '"' if value.startswith('"') else ""
