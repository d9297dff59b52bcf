"""Real daemons for tests: each in a short BEAST_HOME of its own, ended for good afterwards."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import RunningDaemon, StartDaemon


@pytest.fixture(scope="module")
def short_home() -> Iterator[Path]:
    """A short folder (socket paths are limited to about 100 bytes) for the files of one test file's daemon."""
    home = Path(tempfile.mkdtemp(prefix="beast-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def daemon(short_home: Path) -> Iterator[RunningDaemon]:
    """One daemon with the defaults, for all tests of a file."""
    running = RunningDaemon(short_home, [], {})
    yield running
    running.stop()


@pytest.fixture
def beast_home() -> Iterator[Path]:
    """A short folder for the daemons of one test."""
    home = Path(tempfile.mkdtemp(prefix="beast-"))
    yield home
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def start_daemon(beast_home: Path) -> Iterator[StartDaemon]:
    """Start daemons in beast_home: ``start_daemon(*arguments, **environment)``."""
    started: list[RunningDaemon] = []

    def start(*arguments: str, **env: str) -> RunningDaemon:
        started.append(RunningDaemon(beast_home, list(arguments), env))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture(scope="module")
def module_port() -> int:
    """A TCP port nobody listens on, for the daemon of one test file."""
    return _free_port()


@pytest.fixture
def free_port() -> int:
    """A TCP port nobody listens on."""
    return _free_port()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
