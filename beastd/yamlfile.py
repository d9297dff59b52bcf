"""One strict reader for Beast's YAML files: plain data with the line of each field, and no surprises.

Scalars follow YAML 1.2's core schema (``on`` and ``2024-01-01`` are text). Aliases, tags, repeated keys and several
documents in a file are refused, and size and depth are bounded, so no small file becomes large data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isfinite
from stat import S_ISREG
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAX_FILE_BYTES = 256 * 1024
MAX_DEPTH = 8

_PARSER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, ten times faster, where PyYAML has it
_WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}
_INT = re.compile(r"[-+]?[0-9]{1,19}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]{1,30}|[0-9]{1,30}(\.[0-9]{0,30})?)([eE][-+]?[0-9]{1,3})?")

Trail = tuple[str, ...]
"""Keys from the top of the file down to a field; list items by their index."""


class YamlError(Exception):
    """The text is not YAML that Beast takes. ``line`` counts from 1; None when it is about the whole file."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


@dataclass(frozen=True, slots=True)
class Document:
    """A file's text, its top-level mapping, and the line (from 1) of each field in it."""

    text: str
    data: dict[str, Any]
    lines: dict[Trail, int]


def read_yaml(path: Path) -> Document:
    """Read a file. Raises YamlError for what is in it, OSError when it cannot be read."""
    return parse_yaml(read_text(path))


def read_text(path: Path) -> str:
    """The text of a file that may be YAML. Raises as ``read_yaml``."""
    if not S_ISREG(path.stat().st_mode):  # opening a pipe would wait for ever
        raise YamlError("not a regular file")
    with path.open("rb") as stream:
        raw = stream.read(MAX_FILE_BYTES + 1)
    if len(raw) > MAX_FILE_BYTES:
        raise YamlError(f"the file is larger than {MAX_FILE_BYTES} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError as e:
        raise YamlError("the file is not UTF-8 text", raw.count(b"\n", 0, e.start) + 1) from e


def parse_yaml(text: str) -> Document:
    """Parse a text whose top level is a mapping (or nothing). Raises YamlError."""
    lines: dict[Trail, int] = {}
    try:
        data = _Builder(yaml.parse(text, Loader=_PARSER), lines).document()
    except yaml.MarkedYAMLError as e:
        raise YamlError(e.problem or "not YAML", e.problem_mark.line + 1 if e.problem_mark else None) from e
    except yaml.YAMLError as e:
        raise YamlError(str(e)) from e
    if not isinstance(data, dict):
        raise YamlError("the top level must be `field: value` lines", 1)
    return Document(text, data, lines)


def scalar(text: str) -> str | int | float | bool | None:
    """The value of an unquoted word."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _FLOAT.fullmatch(text) and isfinite(float(text)):
        return float(text)
    return text


class _Builder:
    """Turns parser events into data."""

    def __init__(self, events: Iterator[Any], lines: dict[Trail, int]) -> None:
        self._events = events
        self._lines = lines

    def document(self) -> object:
        next(self._events)  # the stream's start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return {}
        value = self._value(next(self._events), ())
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise YamlError("more than one document in the file", _line(event))
        return {} if value is None else value

    def _value(self, event: Any, trail: Trail) -> object:
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            raise YamlError("anchors (&) and aliases (*) are not taken; quote the text if it begins so", _line(event))
        if event.tag is not None:
            raise YamlError("tags (!) are not taken; quote the text if it begins so", _line(event))
        if isinstance(event, yaml.ScalarEvent):
            return scalar(event.value) if event.implicit[0] else event.value
        if len(trail) >= MAX_DEPTH:
            raise YamlError(f"nested deeper than {MAX_DEPTH} levels", _line(event))
        return self._mapping(trail) if isinstance(event, yaml.MappingStartEvent) else self._sequence(trail)

    def _mapping(self, trail: Trail) -> dict[str, object]:
        found: dict[str, object] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            if not isinstance(event, yaml.ScalarEvent):
                raise YamlError("a key must be a word", _line(event))
            key = event.value
            if key in found:
                raise YamlError(f"'{key}' is given twice", _line(event))
            self._lines[(*trail, key)] = _line(event)
            found[key] = self._value(next(self._events), (*trail, key))
        return found

    def _sequence(self, trail: Trail) -> list[object]:
        found: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            here = (*trail, str(len(found)))
            self._lines[here] = _line(event)
            found.append(self._value(event, here))
        return found


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1
