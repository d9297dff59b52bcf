"""The commands of the library against a real daemon: real files, real jobs, a real Ctrl-C and a real terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from harness import RunningDaemon, StartDaemon

import beastd

BEAST = str(Path(sys.executable).with_name("beast"))
CUB = Path(beastd.__file__).parent / "builtin" / "cub"
WAIT_S = 60


class Cli:
    """Runs `beast` for one daemon's home, in a folder of the test's."""

    def __init__(self, daemon: RunningDaemon, folder: Path) -> None:
        self.folder = folder
        self.env = daemon.env

    def run(self, *arguments: str, stdin: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BEAST, *arguments],
            cwd=self.folder,
            env=self.env | env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def json(self, *arguments: str) -> dict[str, object]:
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        return found

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BEAST, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def variants(self, model: str) -> list[str]:
        (found,) = (it for it in self.json("list", model)["models"] if it["name"] == f"{model}:latest")  # type: ignore[attr-defined]
        return [variant["name"] for variant in found["variants"]]

    def jobs(self) -> dict[str, dict[str, object]]:
        return {job["id"]: job for job in self.json("jobs")["jobs"]}  # type: ignore[attr-defined]


@pytest.fixture
def cli(daemon: RunningDaemon, tmp_path: Path) -> Cli:
    return Cli(daemon, tmp_path)


def until(is_true: Callable[[], object]) -> None:
    give_up = time.monotonic() + WAIT_S
    while not is_true():
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(0.05)


def test_a_file_beside_us_becomes_a_model(cli: Cli) -> None:
    """Pulled by a relative path; its name alone goes to standard output; then it runs, is copied and removed."""
    (cli.folder / "Small-Q2_K.gguf").symlink_to(CUB / "cub-q2_k.gguf")
    pulled = cli.run("pull", "Small-Q2_K.gguf", "--as", "small")
    assert (pulled.returncode, pulled.stdout) == (0, "small:latest@q2_k\n"), pulled.stderr
    assert cli.run("run", "small", "Who are you?", "--num-predict", "4").returncode == 0
    assert cli.run("cp", "small", "small2").returncode == 0
    removed = cli.run("rm", "small", "small2", "small3")
    assert (removed.returncode, removed.stdout) == (1, "")
    assert "removed small\n" in removed.stderr
    assert "small3" in removed.stderr
    assert "small" not in cli.run("list").stdout


def test_a_modelfile_is_read_where_it_is(cli: Cli) -> None:
    """Its relative paths begin in its folder, wherever the daemon is; edit then changes it."""
    (cli.folder / "sub").mkdir()
    (cli.folder / "sub" / "w.gguf").symlink_to(CUB / "cub-q2_k.gguf")
    (cli.folder / "sub" / "Modelfile").write_text("FROM ./w.gguf\nPARAMETER temperature 0.25\nSYSTEM Be brief.\n")
    created = cli.run("create", "brief", "-f", "sub/Modelfile")
    assert (created.returncode, created.stdout) == (0, ""), created.stderr
    assert cli.run("show", "brief", "--system").stdout == "Be brief.\n"
    assert "0.25" in cli.run("show", "brief", "--parameters").stdout
    editor = cli.folder / "editor.sh"
    editor.write_text("#!/bin/sh\nsed -i 's/Be brief/Be long/' \"$1\"\n")
    editor.chmod(0o755)
    assert cli.run("edit", "brief", EDITOR=str(editor), VISUAL="").returncode == 0
    assert cli.run("show", "brief", "--system").stdout == "Be long.\n"
    editor.write_text("#!/bin/sh\necho 'sistem: x' >> \"$1\"\n")
    refused = cli.run("edit", "brief", EDITOR=str(editor), VISUAL="")
    assert refused.returncode == 1
    assert "sistem" in refused.stderr
    assert cli.run("rm", "brief").returncode == 0


def test_a_model_that_lost_its_file_is_shown_and_mended(cli: Cli) -> None:
    """Listed with a mark, told of once, and edited although it cannot be shown."""
    file = cli.folder / "lost.gguf"
    file.write_bytes((CUB / "cub-q2_k.gguf").read_bytes())
    assert cli.run("import", "lost.gguf", "--as", "lost").returncode == 0
    file.rename(cli.folder / "found.gguf")
    listed = cli.run("list", "lost")
    assert listed.stdout.splitlines()[1].split()[:3] == ["lost:latest", "q2_k", "unusable"]
    assert listed.stderr.count("lost.gguf") == 1
    assert cli.run("list", "cub").stderr == ""
    editor = cli.folder / "editor.sh"
    editor.write_text("#!/bin/sh\nsed -i 's/lost.gguf/found.gguf/' \"$1\"\n")
    editor.chmod(0o755)
    mended = cli.run("edit", "lost", EDITOR=str(editor), VISUAL="")
    assert mended.returncode == 0, mended.stderr
    assert cli.run("list", "lost").stderr == ""
    assert cli.run("rm", "lost").returncode == 0


def test_variants_are_made_measured_and_removed(cli: Cli) -> None:
    """Each has a size, bits and a perplexity; a bad request is a line."""
    assert cli.run("create", "made", "--from", str(CUB / "cub-q8_0.gguf")).returncode == 0
    refused = cli.run("quantize", "made", "q4_0")
    assert refused.returncode == 1
    assert "--allow-requantize" in refused.stderr
    made = cli.run("quantize", "made", "q4_0", "--allow-requantize")
    assert made.returncode == 0, made.stderr
    assert made.stdout.splitlines()[1].startswith("made:latest@q4_0")
    assert sorted(cli.variants("made")) == ["q4_0", "q8_0"]
    (cli.folder / "text.txt").write_text("The fox ran home to its den, as foxes do at night. " * 100)
    rows = cli.run(
        "perplexity", "made@q8_0", "made@q4_0", "text.txt", "--ctx", "64", "--chunks", "4"
    ).stdout.splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["made@q8_0", "made@q4_0"]
    assert cli.run("rm", "made@q4_0").returncode == 0
    assert cli.variants("made") == ["q8_0"]
    assert "q4_k_m" in cli.run("quantize", "--list").stdout
    assert cli.run("rm", "made").returncode == 0


def test_adapters_are_added_run_and_removed(cli: Cli) -> None:
    """By a relative path, at a scale."""
    assert cli.run("create", "plain", "--from", str(CUB / "cub-q8_0.gguf")).returncode == 0
    (cli.folder / "p.gguf").symlink_to(CUB / "cub-pirate-lora-f16.gguf")
    added = cli.run("adapter", "add", "arr", "p.gguf", "--base", "plain", "--scale", "0.75")
    assert (added.returncode, added.stdout) == (0, "plain:latest+arr\n"), added.stderr
    assert cli.json("adapter", "list", "plain")["adapters"] == [
        {"model": "plain:latest", "name": "arr", "scale": 0.75, "applied": False}
    ]
    assert cli.run("run", "plain+arr*1.5", "hi", "--num-predict", "4").returncode == 0
    assert cli.run("adapter", "rm", "arr", "--base", "plain").returncode == 0
    assert cli.json("adapter", "list", "plain")["adapters"] == []
    assert cli.run("rm", "plain").returncode == 0


def test_a_model_goes_through_one_file(cli: Cli) -> None:
    """Exported, removed, imported again; space is told before and after."""
    assert cli.run("create", "box", "--from", str(CUB / "cub-q2_k.gguf")).returncode == 0
    assert cli.run("export", "box", "box.beast").returncode == 0
    assert cli.run("rm", "box").returncode == 0
    imported = cli.run("import", "box.beast")
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.splitlines()[1].startswith("box")
    usage = {it["name"]: it for it in cli.json("du")["models"]}  # type: ignore[attr-defined]
    assert usage["box"]["own_bytes"] >= (CUB / "cub-q2_k.gguf").stat().st_size
    assert cli.run("prune", "--dry-run").returncode == 0
    assert cli.run("rm", "box").returncode == 0
    assert cli.run("import", "nowhere").returncode == 1


@pytest.fixture
def long_text(cli: Cli) -> str:
    """A text whose perplexity takes minutes."""
    (cli.folder / "long.txt").write_text("The fox ran home to its den, as foxes do at night. " * 20_000)
    return "long.txt"


def running_jobs(cli: Cli) -> list[str]:
    return [id_ for id_, job in cli.jobs().items() if job["state"] == "running"]


def test_ctrl_c_cancels_the_job(cli: Cli, long_text: str) -> None:
    """Status 130, one line, nothing on standard output, and the daemon has stopped the work."""
    process = cli.start("perplexity", "cub@q2_k", long_text)
    until(lambda: running_jobs(cli))
    (job,) = running_jobs(cli)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (130, "")
    assert "perplexity of cub@q2_k: stopped" in err
    assert "\x1b" not in err
    assert cli.jobs()[job]["state"] == "cancelled"


def test_a_job_others_watch_outlives_ctrl_c(cli: Cli, long_text: str) -> None:
    """It can be joined, and cancelled by its id; then the one who watches fails with that."""
    process = cli.start("perplexity", "cub@q2_k", long_text)
    until(lambda: running_jobs(cli))
    (job,) = running_jobs(cli)
    watcher = cli.start("jobs", "watch", job)
    until(lambda: cli.jobs()[job]["n_watchers"] == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 130
    assert f"`beast jobs cancel {job}`" in err
    assert cli.jobs()[job]["state"] == "running"
    assert cli.run("jobs", "cancel", job).returncode == 0
    _, err = watcher.communicate(timeout=WAIT_S)
    assert watcher.returncode == 1
    assert "cancelled" in err


def test_a_terminal_gets_bars_that_leave_no_trace(cli: Cli, long_text: str) -> None:
    """They move while the work goes on, and are gone before the last word."""
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            [BEAST, "perplexity", "cub@q2_k", long_text],
            cwd=cli.folder,
            env=cli.env | {"TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        shown = b""
        while shown.count("━".encode()) < 2 and b"tokens" not in shown:
            shown += screen.read(4096)
        process.send_signal(signal.SIGINT)
        with suppress(OSError):  # the terminal's other end was closed
            while data := screen.read(4096):
                shown += data
        assert process.wait(WAIT_S) == 130
    before, _, last = shown.decode().rpartition("\x1b[2K")
    assert "%" in before
    assert last.startswith("beast: perplexity of cub@q2_k: stopped")


def test_the_models_folder_moves_and_the_next_command_finds_it(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """The daemon that moved it is gone when `mv` returns."""
    mover = start_daemon()
    cli = Cli(mover, tmp_path)
    assert cli.run("create", "mine", "--from", "cub").returncode == 0
    moved = cli.run("mv", "new")
    assert moved.returncode == 0, moved.stderr
    assert f"pid {mover.pid}) has stopped" in moved.stderr
    assert mover.process.wait(WAIT_S) == 0
    try:
        listed = cli.run("list", "mine")
        assert "starting beastd" in listed.stderr
        assert "mine:latest" in listed.stdout
        assert f"models:  {tmp_path / 'new'}\n" in cli.run("status").stdout
    finally:
        cli.run("shutdown")


def test_completion_knows_the_catalog_and_quantizations(cli: Cli) -> None:
    """What Tab offers after pull and quantize."""

    def offered(line: str) -> list[str]:
        env = {"_BEAST_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
        return cli.run(**env).stdout.split()

    assert "qwen3:0.6b" in offered("beast pull qwen3:")
    assert offered("beast quantize cub q4_k_m") == ["q4_k_m"]
    assert "cub@q2_k" in offered("beast perplexity cub@")
