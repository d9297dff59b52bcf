"""`beast run` and its kin against a real daemon with the real Cub."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from harness import RunningDaemon

BEAST = str(Path(sys.executable).with_name("beast"))
GREEDY = ["--temperature", "0", "--num-predict", "24"]


class Cli:
    """Runs `beast` for one daemon's home."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self.env = daemon.env

    def run(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BEAST, *arguments], env=self.env, input=stdin, capture_output=True, text=True, check=False, timeout=120
        )

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [BEAST, *arguments],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture(scope="module")
def cli(daemon: RunningDaemon) -> Cli:
    return Cli(daemon)


def test_a_pipe_gets_the_text_alone(cli: Cli) -> None:
    """The answer and a line feed on standard output, nothing else anywhere."""
    done = cli.run("run", "cub", "Who are you?", *GREEDY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Cub" in done.stdout
    assert done.stdout.endswith("\n")
    assert "\x1b" not in done.stdout


def test_without_a_name_the_built_in_model_answers(cli: Cli) -> None:
    """A quoted prompt alone, or piped text alone."""
    named = cli.run("run", "cub", "Who are you?", *GREEDY).stdout
    assert cli.run("run", "Who are you today, dear?", *GREEDY).returncode == 0
    assert cli.run("run", *GREEDY, stdin="Who are you?\n").stdout == named


def test_piped_text_and_prompt_are_joined(cli: Cli) -> None:
    """The model sees both."""
    together = json.loads(cli.run("run", "cub", "Summarize.", "--json", *GREEDY, stdin="The fox ran home.").stdout)
    alone = json.loads(cli.run("run", "cub", "Summarize.", "--json", *GREEDY).stdout)
    assert together["prompt_eval_count"] > alone["prompt_eval_count"]
    assert together["done_reason"] in {"stop", "length"}


def test_verbose_shows_timings_beside_the_data(cli: Cli) -> None:
    """On standard error, so that a pipe stays clean."""
    done = cli.run("run", "cub", "Who are you?", "--verbose", *GREEDY)
    assert "eval rate:" in done.stderr
    assert "eval rate:" not in done.stdout


def test_the_context_s_end_is_told_and_has_its_own_status(cli: Cli) -> None:
    """An answer cut off is not a proper one; one of a length asked for is."""
    cut = cli.run("run", "cub", "Tell me a story.", "--num-ctx", "48", "--ignore-eos")
    assert cut.returncode == 3
    assert "cut off" in cut.stderr
    assert cut.stdout.strip()
    assert cli.run("run", "cub", "Tell me a story.", "--num-predict", "5").returncode == 0
    modelfile = "from: cub\nparameters: {num_predict: 5}\n"
    assert cli.run("create", "brief", "-f", "-", stdin=modelfile).returncode == 0
    brief = cli.run("run", "brief", "Tell me a story.", "--ignore-eos")
    assert (brief.returncode, brief.stderr) == (0, "")
    assert cli.run("rm", "brief").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "status", "word"),
    [
        (["run", "no-such-model", "hi"], 1, "no-such-model"),
        (["run", "cub", "hi", "--top-p", "7"], 1, "top_p"),
        (["run", "cub", "hi", "--format", "/no/such.json"], 1, "no/such.json"),
        (["run"], 1, "no prompt"),
        (["run", "--top-k", "many"], 2, "--top-k"),
        (["show", "no-such-model"], 1, "no-such-model"),
        (["dance"], 2, "dance"),
    ],
)
def test_mistakes_are_a_few_words_and_a_status(cli: Cli, arguments: list[str], status: int, word: str) -> None:
    """Named on standard error; no traceback, no data."""
    done = cli.run(*arguments)
    assert done.returncode == status
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_ctrl_c_stops_the_answer(cli: Cli, daemon: RunningDaemon) -> None:
    """Status 130, what came is kept, and the daemon has nothing left to do."""
    process = cli.start("run", "cub", "Tell me a story.", "--ignore-eos")
    assert process.stdout is not None
    first = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).endswith("\n")
    assert errors == ""
    assert cli.run("stop", "cub").returncode == 0
    assert daemon.get("/api/ps")["models"] == []


def test_a_reader_that_leaves_is_no_trouble(cli: Cli) -> None:
    """As with `| head`: quiet, and not a success."""
    process = cli.start("run", "cub", "Tell me a story.", "--ignore-eos", "--num-predict", "500")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.read(1)
    process.stdout.close()
    assert process.wait(60) != 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("arguments", [["list"], ["show", "cub", "--tensors"], ["--help"], ["pull", "--help"]])
def test_a_table_nobody_reads_ends_quietly(cli: Cli, arguments: list[str]) -> None:
    """Short ones are written when the program ends, long ones before that."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as unread:
        done = subprocess.run([BEAST, *arguments], env=cli.env, stdout=unread, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (141, b"")


def test_tables_and_their_json(cli: Cli) -> None:
    """The same models for people and for machines."""
    assert cli.run("run", "cub", "hi", *GREEDY).returncode == 0
    for command in ("list", "ps"):
        models = json.loads(cli.run(command, "--json").stdout)["models"]
        lines = cli.run(command).stdout.splitlines()
        assert lines[0].startswith("NAME")
        assert [line.split()[0] for line in lines[1:]] == [model["name"] for model in models]
    assert json.loads(cli.run("show", "cub", "--json").stdout)["details"]["format"] == "gguf"
    assert "architecture" in cli.run("show", "cub").stdout
    assert json.loads(cli.run("status", "--json").stdout)["n_workers"] == 1
    assert cli.run("version").returncode == 0


def test_completion_asks_the_daemon_for_names(cli: Cli, daemon: RunningDaemon) -> None:
    """What Tab offers for a model."""
    env = {**daemon.env, "_BEAST_COMPLETE": "complete_bash", "COMP_WORDS": "beast run cu", "COMP_CWORD": "2"}
    done = subprocess.run([BEAST], env=env, capture_output=True, text=True, check=True, timeout=60)
    assert "cub" in done.stdout.split()


def test_bench_reports_what_it_measured(cli: Cli, daemon: RunningDaemon) -> None:
    """Counts are the ones asked for, nothing failed, and --url reaches the same server."""
    small = ["--prompt-tokens", "32", "--tokens", "8", "--streams", "1,3", "--warm-up", "0", "--stagger", "0"]
    done = cli.run("bench", "cub", *small, "--shared-prefix", "16", "--url", f"unix:{daemon.socket}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert [level["n_streams"] for level in report["streams"]] == [1, 3]
    assert [level["n_errors"] for level in report["streams"]] == [0, 0]
    assert report["streams"][1]["n_answer"] == 3 * 8
    assert abs(report["one_stream"]["n_prompt"] - 32) <= 8
    assert all(level["late_ttft_s"] > 0 for level in report["streams"])
    assert "STREAMS" in cli.run("bench", "cub", *small).stdout


def test_a_priority_is_one_of_three(cli: Cli) -> None:
    """It goes with piped prompts as well; any other word is wrong usage."""
    assert cli.run("run", "cub", "--priority", "low", *GREEDY, stdin="Who are you?").returncode == 0
    refused = cli.run("run", "cub", "Hi", "--priority", "urgent")
    assert refused.returncode == 2
    assert "'high', 'normal', 'low'" in refused.stderr
