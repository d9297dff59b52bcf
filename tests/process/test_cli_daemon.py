"""The command line finds, starts and stops the daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import RunningDaemon, StartDaemon

BEAST = str(Path(sys.executable).with_name("beast"))


class Cli:
    """Runs `beast` in a home without a daemon."""

    def __init__(self, home: Path) -> None:
        self.env = {**os.environ, "BEAST_HOME": str(home)}

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(
            [BEAST, *arguments], env=self.env, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True
        )

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=90)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


@pytest.fixture
def cli(beast_home: Path) -> Iterator[Cli]:
    commands = Cli(beast_home)
    yield commands
    commands.run("shutdown")


def test_questions_about_the_daemon_do_not_start_it(cli: Cli, beast_home: Path) -> None:
    """They say that it is not running; only status makes that a failure."""
    for command, status in (("status", 1), ("ps", 0), ("shutdown", 0), ("version", 0)):
        done = cli.run(command)
        assert (command, done.returncode) == (command, status)
        assert "not running" in done.stderr + done.stdout
    assert cli.run("stop", "cub").returncode == 0
    assert json.loads(cli.run("ps", "--json").stdout) == {"models": [], "waiting": []}
    assert not (beast_home / "run").exists()


def test_the_first_command_starts_it_and_says_so_once(cli: Cli) -> None:
    """Later ones find it; it outlives the command that started it."""
    first = cli.run("list")
    assert (first.returncode, first.stderr) == (0, "beast: starting beastd …\n")
    second = cli.run("list")
    assert (second.returncode, second.stderr, second.stdout) == (0, "", first.stdout)


def test_commands_that_start_it_at_once_share_one(cli: Cli) -> None:
    """The lock lets one daemon live, and every command is answered by it."""
    processes = [cli.start("list") for _ in range(3)]
    outcomes = [(*process.communicate(timeout=90), process.returncode) for process in processes]
    assert [status for *_, status in outcomes] == [0, 0, 0], outcomes
    assert len({out for out, *_ in outcomes}) == 1
    assert json.loads(cli.run("status", "--json").stdout)["status"] == "ok"


def test_a_daemon_that_cannot_start_is_quoted(cli: Cli, beast_home: Path) -> None:
    """The error ends with what the daemon's log says."""
    (beast_home / "config.yaml").write_text("colour: green\n")
    done = cli.run("list")
    assert done.returncode == 1
    assert "colour" in done.stderr
    assert "Traceback" not in done.stderr


def test_shutdown_waits_for_the_end(cli: Cli, beast_home: Path) -> None:
    """Afterwards nothing is left that answers, and the next command starts another."""
    cli.run("list")
    pid = json.loads(cli.run("status", "--json").stdout)["pid"]
    done = cli.run("shutdown")
    assert done.returncode == 0
    assert str(pid) in done.stderr
    assert not (beast_home / "run" / "beast.sock").exists()
    assert "starting beastd" in cli.run("list").stderr


def test_a_lock_file_nobody_holds_leads_to_no_process(cli: Cli, beast_home: Path) -> None:
    """A pid left over may be anybody's by now: it is not signalled."""
    (beast_home / "run").mkdir(mode=0o700)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bystander:
        (beast_home / "run" / "beastd.lock").write_text(f"{bystander.pid}\n")
        assert "not running" in cli.run("shutdown").stderr
        bystander.communicate(b"\n", timeout=30)
        assert bystander.returncode == 0


def test_a_daemon_that_does_not_end_is_reported(start_daemon: StartDaemon) -> None:
    """With what to do about it."""
    daemon: RunningDaemon = start_daemon()
    daemon.process.send_signal(signal.SIGSTOP)
    try:
        done = Cli(daemon.home).run("shutdown", "--timeout", "0.5")
    finally:
        daemon.process.send_signal(signal.SIGCONT)
    assert done.returncode == 1
    assert f"kill -9 {daemon.pid}" in done.stderr


def test_a_daemon_on_its_way_out_is_waited_for(cli: Cli, start_daemon: StartDaemon) -> None:
    """It ends its answers in peace, then another is started."""
    old: RunningDaemon = start_daemon()
    answer = cli.start("run", "cub", "Tell me a story.", "--ignore-eos", "--num-predict", "200")
    assert answer.stdout is not None
    first = answer.stdout.read(1)
    old.process.send_signal(signal.SIGTERM)
    while (old.home / "run" / "beast.sock").exists() and cli.run("status").returncode == 0:
        pass
    done = cli.run("list")
    rest, _ = answer.communicate(timeout=60)
    assert (done.returncode, answer.returncode) == (0, 0), done.stderr
    assert len(first + rest) > 100
    assert old.process.wait(60) == 0


def test_serve_is_the_daemon_in_the_foreground(cli: Cli, free_port: int) -> None:
    """Its process is the daemon, with the settings given, and SIGTERM ends it well."""
    process = cli.start("serve", "--tcp", f"127.0.0.1:{free_port}", "--set", "context=2048")
    assert process.stderr is not None
    while "listens on" not in (line := process.stderr.readline()):
        assert line, "beastd ended"
    health = json.loads(cli.run("status", "--json").stdout)
    assert (health["pid"], health["tcp"]) == (process.pid, [f"127.0.0.1:{free_port}"])
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 0
