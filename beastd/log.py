"""The daemon's log: one line for each record and each finished request, as ``key=value`` pairs nobody can forge."""

from __future__ import annotations

import logging
import re
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

MAX_FILE_BYTES = 10 * 10**6
N_FILES = 3
MAX_VALUE_CHARS = 500
"""A longer value is cut: names and messages can come from a client."""

Field = str | int | float | None

_requests = logging.getLogger("beastd.requests")
_SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t", '"': '\\"', "\\": "\\\\"}


def setup_logging(file: Path | None) -> None:
    """Send every record of the process to a rotating file (its folder exists), or to stderr when it is None."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.handlers[:] = [log_handler(file)]


def log_handler(file: Path | None) -> logging.Handler:
    """The handler behind setup_logging: at most N_FILES files of MAX_FILE_BYTES."""
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler()
    else:
        handler = RotatingFileHandler(file, maxBytes=MAX_FILE_BYTES, backupCount=N_FILES - 1, encoding="utf-8")
    handler.setFormatter(_Formatter())
    return handler


def log_request(
    *,
    id: int | str,  # noqa: A002 - the field's name in the log
    client: str,
    verb: str,
    status: int,
    total_ms: float,
    model: str | None = None,
    variant: str | None = None,
    reason: str | None = None,
    n_prompt: int | None = None,
    n_cached: int | None = None,
    n_answer: int | None = None,
    ttft_ms: float | None = None,
    error: str | None = None,
) -> None:
    """Write the one line of a finished request; a field of None is left out.

    ``client`` is "unix" or an address, ``reason`` the answer's done_reason or "cancelled", ``error`` an error's code.
    """
    fields = {
        "id": id,
        "client": client,
        "verb": verb,
        "model": model,
        "variant": variant,
        "status": status,
        "reason": reason,
        "n_prompt": n_prompt,
        "n_cached": n_cached,
        "n_answer": n_answer,
        "ttft_ms": ttft_ms,
        "total_ms": total_ms,
        "error": error,
    }
    _requests.info("request", extra={"fields": fields})


def readable_label(label: str) -> str:
    """The part of a worker's log file name that tells whose it is: a model's name, safe as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip("._")[:80]


def logfmt(fields: dict[str, Field]) -> str:
    """``key=value`` pairs on one line; values are quoted where needed, and unprintable characters escaped."""
    return " ".join(f"{key}={_value(value)}" for key, value in fields.items() if value is not None)


def _value(value: str | float) -> str:
    if isinstance(value, float):
        return f"{value:.1f}"
    text = str(value)
    if len(text) > MAX_VALUE_CHARS:
        text = text[:MAX_VALUE_CHARS] + "…"
    escaped = "".join(_escape(char) for char in text)
    return escaped if escaped == text and text and not set(text) & set(" =") else f'"{escaped}"'


def _escape(char: str) -> str:
    if char in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[char]
    return char if char.isprintable() else f"\\u{{{ord(char):x}}}"


class _Formatter(logging.Formatter):
    """A record as one line; the lines of a traceback follow it, indented, so that none can pass for a record."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        head: dict[str, Field] = {"time": when, "level": record.levelname.lower()}
        fields: dict[str, Field] = getattr(record, "fields", None) or {"from": record.name, "msg": record.getMessage()}
        line = logfmt(head | fields)
        if record.exc_info is None:
            return line
        traceback = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *("    " + "".join(map(_printable, text)) for text in traceback)])


def _printable(char: str) -> str:
    return char if char.isprintable() else _escape(char)
