"""Turn what the daemon says into words for people: units, tables, timings, and text that cannot steer a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

MIN_COLUMN = 8
"""Cells that a column of a table keeps, however narrow the terminal."""
MIN_PROSE = 30
"""Cells that sentences beside a table take at least; with fewer they stand below their row."""
_UNITS = ("B", "kB", "MB", "GB", "TB")
_SPANS = ((86400.0, "day"), (3600.0, "hour"), (60.0, "minute"), (1.0, "second"))
# C0 and C1 control characters and DEL become their pictures: a model must not send escape codes to a terminal.
_VISIBLE: Mapping[int, str | int | None] = {
    **{code: 0x2400 + code for code in range(0x20)},
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
    0x7F: 0x2421,
    0x09: "\t",
    0x0A: "\n",
    0x0D: None,
}


def say(text: str) -> None:
    """Tell a person something, apart from the data: one line on standard error."""
    print(f"beast: {text}", file=sys.stderr, flush=True)


def visible(text: str) -> str:
    """``text`` with its control characters made visible (line feeds and tabs stay, carriage returns go)."""
    return text.translate(_VISIBLE)


def size(n_bytes: float) -> str:
    """Bytes in decimal units with three digits, as file managers show them: ``36.2 MB``."""
    for unit in _UNITS[:-1]:
        if n_bytes < 999.5:
            return f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.3g} {_UNITS[-1]}"


def span(seconds: float) -> str:
    """A length of time in its largest fitting unit: ``4 minutes``."""
    for length, unit in _SPANS:
        if seconds >= length:
            n = round(seconds / length)
            return f"{n} {unit}" + "s" * (n != 1)
    return "less than a second"


def seconds(nanoseconds: float) -> str:
    """A duration for reading off: ``183 ms``, ``2.51 s``."""
    return f"{nanoseconds / 1e9:.2f} s" if nanoseconds >= 1e9 else f"{nanoseconds / 1e6:.3g} ms"


def when(stamp: str, now: datetime | None = None) -> str:
    """An ISO 8601 moment as seen from ``now``: ``3 hours ago``, ``in 4 minutes``, ``never`` beyond fifty years."""
    try:
        distance = (datetime.fromisoformat(stamp) - (now or datetime.now(UTC))).total_seconds()
    except ValueError:
        return stamp
    if abs(distance) > 50 * 365 * 86400:
        return "never"
    return f"in {span(distance)}" if distance > 0 else f"{span(-distance)} ago"


def cells(text: str) -> int:
    """Columns of a terminal that a line of visible text takes."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(char) else 1 + (east_asian_width(char) in "WF") for char in text)


def clip(text: str, width: int, n_tail: int = 0) -> str:
    """``text`` in at most ``width`` cells: what is left out becomes "…", before the last ``n_tail`` characters."""
    if cells(text) <= width:
        return text
    tail = text[-n_tail:] if n_tail else ""
    head = text[: max(width - 1 - len(tail), 0)]
    while head and cells(head) + cells(tail) >= width:
        head = head[:-1]
    return f"{head}…{tail}"


def terminal_width(out: TextIO) -> int | None:
    """Columns of the terminal that ``out`` is; None when it is none."""
    import os

    try:
        return os.get_terminal_size(out.fileno()).columns or None if out.isatty() else None
    except OSError:
        return None


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    spare: Sequence[int] = (),
    elastic: Sequence[int] = (),
    width: int | None = None,
) -> str:
    """Columns as wide as their widest cell, three spaces apart; the last one ragged.

    With ``width``, a line is made to fit in that: the columns numbered ``spare`` are left out, the first of them first,
    only as many as it takes; then those numbered ``elastic`` give way, the widest first; what is still too much is cut
    off at the right.
    """
    lines = [[visible(cell) for cell in row] for row in (header, *rows)]
    widths = {i: max(map(cells, column)) for i, column in enumerate(zip(*lines, strict=True))}
    for column in spare:
        if _n_over(widths, width) > 0:
            del widths[column]
    for _ in range(_n_over(widths, width) if elastic else 0):
        widest = max(elastic, key=lambda column: widths[column])
        widths[widest] = min(widths[widest], max(widths[widest] - 1, MIN_COLUMN))
    padded = [[_padded(clip(row[i], n), n) for i, n in widths.items()] for row in lines]
    joined = ["   ".join(row).rstrip() for row in padded]
    return "\n".join(clip(line, width) if width else line for line in joined)


def prose_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """A table whose last column holds sentences: with ``width`` they are wrapped, not cut off."""
    lines = table(header[:-1], [row[:-1] for row in rows], width=width).split("\n")
    left = max(map(cells, lines)) + 3
    is_beside = width is None or width - left >= MIN_PROSE
    texts = [visible(row[-1]) for row in (header, *rows)]
    if is_beside:
        return "\n".join(_beside(line, text, left, width) for line, text in zip(lines, texts, strict=True))
    return "\n".join(
        part for line, text in zip(lines, texts, strict=True) for part in (line, _beside("", text, 4, width))
    )


def _beside(line: str, text: str, left: int, width: int | None) -> str:
    """A line, and from column ``left`` on a text, wrapped there."""
    from textwrap import wrap

    first, *rest = wrap(text, max(width - left, 1)) if width and text else [text]
    return "\n".join([_padded(line, left) + first, *(" " * left + it for it in rest)]).rstrip()


def _n_over(widths: Mapping[int, int], width: int | None) -> int:
    """Cells that a line of these columns has too many; none where there is no limit."""
    return sum(widths.values()) + 3 * (len(widths) - 1) - width if width else 0


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def count(n: float) -> str:
    """A number of things in three digits: ``40``, ``596M``, ``1.7B``."""
    for unit in ("", "k", "M"):
        if n < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g}B"


def print_json(value: object) -> None:
    """Data for machines: indented JSON on standard output."""
    import json

    print(json.dumps(value, indent=2, ensure_ascii=False))


def timings(final: Mapping[str, Any]) -> str:
    """What an answer cost, a line each, from the last line of its stream (durations there are nanoseconds)."""
    n_prompt, n_answer = final.get("prompt_eval_count", 0), final.get("eval_count", 0)
    prompt_ns, answer_ns = final.get("prompt_eval_duration", 0), final.get("eval_duration", 0)
    n_computed = n_prompt - final.get("prompt_eval_cached_count", 0)
    rows = (
        ("total duration", seconds(final.get("total_duration", 0))),
        ("load duration", seconds(final.get("load_duration", 0))),
        ("prompt eval count", f"{n_prompt} tokens"),
        ("prompt cached count", f"{n_prompt - n_computed} tokens"),
        ("prompt eval duration", seconds(prompt_ns)),
        ("prompt eval rate", _rate(n_computed, prompt_ns)),
        ("eval count", f"{n_answer} tokens"),
        ("eval duration", seconds(answer_ns)),
        ("eval rate", _rate(n_answer, answer_ns)),
    )
    return "\n".join(f"{name + ':':22}{value}" for name, value in rows)


def _rate(n_tokens: int, nanoseconds: float) -> str:
    return f"{n_tokens * 1e9 / nanoseconds:.2f} tokens/s" if nanoseconds else "-"
