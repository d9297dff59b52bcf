"""The chat at a terminal, against a real daemon with the real Cub."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import RunningDaemon

BEAST = str(Path(sys.executable).with_name("beast"))
LIMIT_S = 60
# The chat needs a controlling terminal, so that Ctrl-C becomes a signal.
ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
EMPTY_PROMPT = "Send a message"
"""What stands at a prompt as long as nothing is typed."""


class Terminal:
    """`beast run` on a pseudo terminal; what it shows is kept without its escape codes."""

    def __init__(self, env: dict[str, str], *arguments: str) -> None:
        self._end, theirs = os.openpty()
        self._process = subprocess.Popen(
            [sys.executable, "-c", ON_A_TERMINAL, BEAST, "run", *arguments],
            env={**env, "TERM": "xterm", "COLUMNS": "80", "LINES": "24"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        self._raw = ""
        self._n_seen = 0

    @property
    def shown(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._raw)

    def type(self, text: str) -> None:
        os.write(self._end, text.encode())

    def await_text(self, text: str) -> str:
        """Wait until ``text`` is shown after what was awaited before; what came up to it."""
        give_up = time.monotonic() + LIMIT_S
        while text not in self.shown[self._n_seen :]:
            assert time.monotonic() < give_up, f"{text!r} did not come; the terminal shows {self.shown!r}"
            self._read(0.1)
        start, self._n_seen = self._n_seen, self.shown.index(text, self._n_seen) + len(text)
        return self.shown[start : self._n_seen]

    def ask(self, line: str) -> str:
        """Type a line, wait for the next prompt; what was shown in between."""
        self.type(line + "\r")
        self.await_text(line.splitlines()[-1])
        return self.await_text(EMPTY_PROMPT)

    def leave(self, keys: str) -> int:
        """Type the last keys; the exit status."""
        self.type(keys)
        while self._process.poll() is None:
            self._read(0.05)
        os.close(self._end)
        return self._process.returncode

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
            os.close(self._end)

    def _read(self, limit_s: float) -> None:
        if not select.select([self._end], [], [], limit_s)[0]:
            return
        try:
            piece = os.read(self._end, 65536).decode("utf-8", "replace")
        except OSError:  # Linux's way to say that the other end is closed
            return
        if "\x1b[6n" in piece:  # where is the cursor?
            self.type("\x1b[1;1R")
        self._raw += piece


@pytest.fixture
def terminal(daemon: RunningDaemon) -> Iterator[Terminal]:
    opened = Terminal(daemon.env, "cub", "--temperature", "0", "--num-predict", "40")
    opened.await_text(EMPTY_PROMPT)
    yield opened
    opened.close()


def test_a_chat_remembers_what_was_said(terminal: Terminal) -> None:
    """Answers come, the chat can be saved and brought back, and /bye leaves well."""
    assert "Cub" in terminal.ask("Who are you?")
    assert "saved in" in terminal.ask("/save first-chat")
    assert "forgotten" in terminal.ask("/clear")
    assert "2 messages" in terminal.ask("/load first-chat")
    assert "seed is 7" in terminal.ask("/set parameter seed 7")
    assert "there is no command /dance" in terminal.ask("/dance")
    assert terminal.leave("/bye\r") == 0


def test_history_outlives_the_chat(terminal: Terminal, daemon: RunningDaemon) -> None:
    """The arrow key brings back a line of an earlier run."""
    terminal.ask("/set parameter seed 4711")
    assert terminal.leave("\x04") == 0
    again = Terminal(daemon.env, "cub")
    again.await_text(EMPTY_PROMPT)
    again.type("\x1b[A")
    again.await_text("seed 4711")
    again.close()


def test_ctrl_c_stops_the_answer_and_not_the_chat(terminal: Terminal, daemon: RunningDaemon) -> None:
    """What came stays in the chat, the daemon is free again, and the next question is answered."""
    terminal.ask("/set parameter ignore_eos true")
    terminal.ask("/set parameter num_predict -1")
    terminal.type("Tell me a story.\r")
    terminal.await_text("Tell me a story.")
    terminal.await_text(" ")
    while not daemon.get("/api/ps")["models"][0]["n_leases"]:
        time.sleep(0.01)
    terminal.type("\x03")
    terminal.await_text(EMPTY_PROMPT)
    while daemon.get("/api/ps")["models"][0]["n_leases"]:
        time.sleep(0.01)
    terminal.ask("/set parameter num_predict 8")
    assert terminal.ask("Who are you?").strip()
    assert terminal.leave("\x04") == 0


def test_several_lines_are_one_message(terminal: Terminal) -> None:
    """Triple quotes hold a message together; Enter inside them only breaks the line."""
    terminal.type('"""first line\r')
    terminal.await_text("...")
    assert terminal.ask('second line"""')
    assert terminal.leave("\x04") == 0


def test_an_empty_line_is_not_a_question(terminal: Terminal) -> None:
    """And Ctrl-C at the prompt only clears it."""
    terminal.type("\r")
    terminal.await_text(EMPTY_PROMPT)
    terminal.type("half a thought")
    terminal.await_text("thought")
    terminal.type("\x03")
    terminal.await_text(EMPTY_PROMPT)
    assert terminal.leave("\x04") == 0
