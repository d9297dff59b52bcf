"""The log: one line a record, that no client can forge."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.log import MAX_FILE_BYTES, MAX_VALUE_CHARS, N_FILES, log_handler, log_request, logfmt, setup_logging


@pytest.fixture
def root():
    """The root logger, put back as it was."""
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    for handler in set(logger.handlers) - set(handlers):
        handler.close()
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_a_request_is_one_line(root, tmp_path):
    """All fields that are known, in order, after time and level."""
    setup_logging(tmp_path / "log")
    log_request(
        id=7, client="unix", verb="chat", model="cub:latest", status=200, reason="stop", n_answer=3, total_ms=12.345
    )
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith("time=")
    head = "level=info id=7 client=unix verb=chat model=cub:latest"
    assert line.endswith(f"{head} status=200 reason=stop n_answer=3 total_ms=12.3")


def test_other_records_are_one_line_each(root, tmp_path):
    """A message of many lines, as an attacker may send in a name, stays on its own."""
    setup_logging(tmp_path / "log")
    logging.getLogger("beastd.x").warning("lost %s", "a\nlevel=error from=forged")
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.endswith(r'level=warning from=beastd.x msg="lost a\nlevel=error from=forged"')


def test_a_traceback_cannot_pass_for_records(root, tmp_path):
    """Its lines are indented, whatever the exception's text."""
    setup_logging(tmp_path / "log")
    try:
        raise ValueError("x\ntime=forged\x1b[2J")
    except ValueError:
        logging.getLogger("beastd.x").exception("broke")
    first, *rest = (tmp_path / "log").read_text().splitlines()
    assert first.endswith("msg=broke")
    assert any("time=forged" in line for line in rest)
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain", "a=plain"),
        ("", 'a=""'),
        ("two words", 'a="two words"'),
        ("k=v", 'a="k=v"'),
        ('q"', r'a="q\""'),
        ("back\\slash", r'a="back\\slash"'),
        ("\n\r\t", r'a="\n\r\t"'),
        ("\x1b\u2028", r'a="\u{1b}\u{2028}"'),
        ("été", "a=été"),
        (1.26, "a=1.3"),
        (3, "a=3"),
        (None, ""),
    ],
)
def test_values_are_quoted_where_needed(value, text):
    """Readable when harmless, escaped when not."""
    assert logfmt({"a": value}) == text


@given(st.text())
def test_no_value_leaves_its_field(value):
    """Any text stays printable, on one line, bounded, and inside its quotes."""
    line = logfmt({"a": value, "b": 1})
    assert line.isprintable()
    assert line.startswith("a=")
    assert line.endswith(" b=1")
    inner = line.removeprefix("a=").removesuffix(" b=1")
    assert len(inner) <= 10 * MAX_VALUE_CHARS + 3
    if not inner.startswith('"'):
        assert inner == value
    else:
        assert '"' not in inner[1:-1].replace("\\\\", "").replace('\\"', "")


def test_files_rotate_within_their_bound(tmp_path):
    """The log takes a bounded share of the disk."""
    handler = log_handler(tmp_path / "log")
    assert isinstance(handler, logging.handlers.RotatingFileHandler)
    assert (handler.maxBytes, handler.backupCount + 1) == (MAX_FILE_BYTES, N_FILES)
    handler.close()


def test_the_foreground_logs_to_stderr(root, capsys):
    """Nothing of the log reaches stdout."""
    setup_logging(None)
    logging.getLogger("beastd.x").info("hello")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("level=info from=beastd.x msg=hello\n")
