"""One line of a log: as an object for machines, or painted by its level for a terminal."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from beastctl.render import visible

_PAIR = r'([A-Za-z_][A-Za-z0-9_]*)=(?:"((?:[^"\\]|\\.)*)"|([^ "]*))'
_LINE = re.compile(rf"{_PAIR}(?: {_PAIR})*")
_ESCAPE = re.compile(r"\\(?:u\{([0-9a-f]{1,6})\}|(.))")
_SHORT: Mapping[str, str] = {"n": "\n", "r": "\r", "t": "\t"}
_HEAD = re.compile(r"time=\S+ level=(\w+)")
_DIM, _YELLOW, _RED = "2", "33", "31"
_COLOURS: Mapping[str, str] = {"warning": _YELLOW, "error": _RED, "critical": _RED}


def as_object(line: str) -> dict[str, str | int | float]:
    """The fields of a line of the daemon's; any other line, as a traceback's, is all ``text``."""
    if not _LINE.fullmatch(line):
        return {"text": line}
    return {pair[1]: _value(pair[1], pair[2], pair[3]) for pair in re.finditer(_PAIR, line)}


def _value(key: str, quoted: str | None, bare: str | None) -> str | int | float:
    if quoted is not None:
        return _ESCAPE.sub(lambda found: chr(int(found[1], 16)) if found[1] else _SHORT.get(found[2], found[2]), quoted)
    text = bare or ""
    kind: Callable[[str], int | float] | None = (
        int if key == "status" or key.startswith("n_") else float if key.endswith(("_ms", "_s")) else None
    )
    try:
        return kind(text) if kind else text
    except ValueError:
        return text


def painted(line: str) -> str:
    """The line for a terminal: what could steer it made visible, the head in the colour of its level."""
    text = visible(line)
    if (head := _HEAD.match(text)) is None:
        return text
    return f"\033[{_COLOURS.get(head[1], _DIM)}m{head[0]}\033[0m{text[head.end() :]}"
