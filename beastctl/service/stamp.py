"""A mark in the files we write, by which we know later that nobody has edited them."""

from __future__ import annotations

import re
from hashlib import sha256

_MARK = "Made by `beast service install`, which replaces it while nobody edits it; check "
_STAMP = re.compile(re.escape(_MARK) + r"([0-9a-f]{16})\b")


def stamped(text: str, *, line: int = 0, comment: str = "# {}") -> str:
    """``text`` with the mark as its line number ``line``, in a comment of the file's own language."""
    lines = text.splitlines()
    lines.insert(line, comment.format(_MARK + _digest(lines)))
    return "\n".join(lines) + "\n"


def is_untouched(text: str) -> bool:
    """Whether we wrote it and it is as we wrote it."""
    lines = text.splitlines()
    for i, line in enumerate(lines):
        if (match := _STAMP.search(line)) is not None:
            return match[1] == _digest(lines[:i] + lines[i + 1 :])
    return False


def _digest(lines: list[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()[:16]
