"""`beast` in this process, against a daemon that says what the test tells it to."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from fakedaemon import FakeDaemon

from beastctl.hub import TOKEN_NAMES
from beastctl.main import main


class Outcome(NamedTuple):
    """What a command left."""

    status: int
    out: str
    err: str


Beast = Callable[..., Outcome]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    """A daemon that knows no route but those a test gives it; commands find it."""
    home = Path(tempfile.mkdtemp(prefix="beast-"))  # a short name: socket paths are limited
    monkeypatch.setenv("BEAST_HOME", str(home))
    monkeypatch.setenv("BEAST_SOCKET", str(home / "s"))
    for name in TOKEN_NAMES:
        monkeypatch.delenv(name, raising=False)
    found = FakeDaemon()
    with found.serving(home / "s"):
        yield found
    shutil.rmtree(home)


@pytest.fixture
def beast(fake: FakeDaemon, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Beast:
    """Run a command line: ``beast("pull", "qwen3")``."""

    def run(*words: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["beast", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        assert isinstance(ended.value.code, int | None)
        return Outcome(ended.value.code or 0, out, err)

    return run
