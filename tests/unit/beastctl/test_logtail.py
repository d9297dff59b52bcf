"""Following a log that is written, rotated and emptied meanwhile."""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl import logtail
from beastctl.logtail import LogTail, worker_logs
from beastd.fleet.process import log_path


def test_the_last_lines_reach_into_older_files(tmp_path: Path) -> None:
    """So that a rotation a moment ago hides nothing."""
    (tmp_path / "log.2").write_text("a\nb\n")
    (tmp_path / "log.1").write_text("c\n")
    (tmp_path / "log").write_text("d\ne\nunfin")
    for n, wanted in ((0, []), (1, [b"e"]), (3, [b"c", b"d", b"e"]), (9, [b"a", b"b", b"c", b"d", b"e"])):
        with LogTail(tmp_path / "log") as tail:
            assert tail.last(n) == wanted
            assert tail.unfinished() == [b"unfin"]


@given(lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line), max_size=30), n=st.integers(0, 35))
def test_the_last_lines_are_the_last_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], n: int
) -> None:
    """Wherever the blocks that are read begin."""
    path = tmp_path_factory.mktemp("t") / "log"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    with pytest.MonkeyPatch.context() as patch, LogTail(path) as tail:
        patch.setattr(logtail, "BLOCK_BYTES", 7)
        assert tail.last(n) == (lines[-n:] if n else [])


@given(st.lists(st.sampled_from(["write", "read"]), max_size=60), st.integers(1, 3))
def test_no_rotation_loses_a_line(tmp_path_factory: pytest.TempPathFactory, acts: list[str], n_per_file: int) -> None:
    """Each line is read once and in order, while no more files were put aside between two looks than are kept."""
    path, written, read = tmp_path_factory.mktemp("t") / "log", [], []
    writer = RotatingFileHandler(path, maxBytes=8 * n_per_file, backupCount=9)
    with LogTail(path) as tail:
        assert tail.last(5) == []
        n_unread = 0
        for act in [*acts, "read"]:
            if act == "write" and n_unread < 8:
                written.append(f"{len(written):06}")
                writer.emit(logging.LogRecord("x", 0, "", 0, written[-1], None, None))
                n_unread += 1
            else:
                read += [line.decode() for line in tail.fresh()]
                n_unread = 0
    writer.close()
    assert read == written


def test_a_file_that_was_emptied_is_read_anew(tmp_path: Path) -> None:
    """As a worker's is, by the next worker of the model."""
    path = tmp_path / "log"
    path.write_text("old line one\nold line two\n")
    with LogTail(path) as tail:
        tail.last(9)
        path.write_text("new\n")
        assert list(tail.fresh()) == [b"new"]


def test_a_line_comes_when_it_has_ended(tmp_path: Path) -> None:
    """Unless it never seems to."""
    path = tmp_path / "log"
    with LogTail(path) as tail, path.open("ab", buffering=0) as file:
        assert list(tail.fresh()) == []
        file.write(b"half")
        assert list(tail.fresh()) == []
        file.write(b" and half\n" + b"x" * (logtail.MAX_LINE_BYTES + 1))
        assert [len(line) for line in tail.fresh()] == [13, logtail.MAX_LINE_BYTES + 1]


def test_a_log_that_comes_later_is_found(tmp_path: Path) -> None:
    """From its first line on."""
    with LogTail(tmp_path / "log") as tail:
        assert tail.last(5) == []
        assert list(tail.fresh()) == []
        (tmp_path / "log").write_text("first\n")
        assert list(tail.fresh()) == [b"first"]


def test_workers_logs_tell_whose_they_are(tmp_path: Path) -> None:
    """By the name that the fleet gave the file."""
    path = log_path(tmp_path, "my-model:7b@q8_0", "key")
    path.touch()
    (tmp_path / "beastd.log").touch()
    assert worker_logs(tmp_path) == {path: "my-model_7b_q8_0"}
