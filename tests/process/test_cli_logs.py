"""`beast logs` beside a real daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from harness import RunningDaemon, StartDaemon

from beastd.log import MAX_FILE_BYTES

BEAST = str(Path(sys.executable).with_name("beast"))


@pytest.fixture
def logged(start_daemon: StartDaemon) -> RunningDaemon:
    """A daemon that logs to its file."""
    return start_daemon("--background")


def start(daemon: RunningDaemon, *arguments: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [BEAST, "logs", *arguments],
        env=daemon.env,
        stdout=pipe,
        stderr=pipe,
        text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - ignored in background jobs
    )


def beast(daemon: RunningDaemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    process = start(daemon, *arguments)
    out, err = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def follower(logged: RunningDaemon) -> Iterator[subprocess.Popen[str]]:
    """`beast logs -f`, from the first line on."""
    process = start(logged, "-f", "-n", "1000000")
    yield process
    process.kill()
    process.communicate()


def ask_for(daemon: RunningDaemon, model: str) -> None:
    """A request that is refused, and logged with the model's name."""
    assert daemon.request("POST", "/api/generate", {"model": model, "prompt": "x"})[0] == 404


def await_line(process: subprocess.Popen[str], text: str) -> list[str]:
    """The lines up to the one with ``text``."""
    assert process.stdout is not None
    found: list[str] = []
    while not found or text not in found[-1]:
        found.append(process.stdout.readline())
        assert found[-1], process.communicate()
    return found


def test_it_shows_the_last_lines_without_colours(logged: RunningDaemon) -> None:
    """A pipe gets the file's own bytes; --json gets objects."""
    ask_for(logged, "no-such-model")
    written = (logged.home / "logs" / "beastd.log").read_text().splitlines()
    assert beast(logged).stdout.splitlines() == written[-50:]
    assert beast(logged, "-n", "1").stdout.splitlines() == written[-1:]
    last = json.loads(beast(logged, "-n", "1", "--json").stdout)
    assert (last["verb"], last["status"], last["model"]) == ("generate", 404, "no-such-model")


def test_following_misses_nothing_when_the_log_is_rotated(start_daemon: StartDaemon, beast_home: Path) -> None:
    """Nor when the daemon ends and another starts."""
    log = beast_home / "logs" / "beastd.log"
    log.parent.mkdir()
    with log.open("w") as file:
        file.truncate(MAX_FILE_BYTES - 700)
        file.seek(0, os.SEEK_END)
        file.write("\nlast of long ago\n")
    daemon = start_daemon("--background")
    process = start(daemon, "-f", "-n", "1")
    try:
        await_line(process, "listens on")
        asked = [f"model-{n}" for n in range(20)]
        for n, model in enumerate(asked):
            ask_for(daemon, model)
            if n == 10:
                daemon.stop()
                daemon = start_daemon("--background")
        lines = await_line(process, "model-19 ")
        assert log.with_name("beastd.log.1").exists()
        assert [model for line in lines for model in asked if f"model={model} " in line] == asked
        assert any("msg=stopped" in line for line in lines)
    finally:
        process.kill()
        process.communicate()


def test_interrupting_it_is_no_failure_to_explain(follower: subprocess.Popen[str]) -> None:
    """Ctrl-C ends it with 130 and without a word."""
    await_line(follower, "listens on")
    follower.send_signal(signal.SIGINT)
    _, err = follower.communicate(timeout=30)
    assert (follower.returncode, err) == (130, "")


def test_it_ends_when_nobody_reads_it(follower: subprocess.Popen[str]) -> None:
    """Even though nothing more is logged, as with ``| head -1``."""
    await_line(follower, "listens on")
    assert follower.stdout is not None
    assert follower.stderr is not None
    follower.stdout.close()
    assert (follower.wait(30), follower.stderr.read()) == (141, "")


def test_a_workers_log_is_found_by_its_model(logged: RunningDaemon) -> None:
    """Also after the worker has ended; a name nobody had is answered with those there are."""
    logged.request("POST", "/api/generate", {"model": "cub", "prompt": "x", "stream": False, "keep_alive": 0})
    (log,) = (logged.home / "logs").glob("worker-cub*.log")
    assert beast(logged, "--worker", "cub", "-n", "100000").stdout.splitlines() == log.read_text().splitlines()
    done = beast(logged, "--worker", "bear")
    assert done.returncode == 1
    assert "no worker of 'bear'" in done.stderr
    assert "cub" in done.stderr


def test_without_a_log_it_says_who_would_write_one(start_daemon: StartDaemon) -> None:
    """A daemon in the foreground does not."""
    done = beast(start_daemon())
    assert done.returncode == 1
    assert "there is no log at" in done.stderr
