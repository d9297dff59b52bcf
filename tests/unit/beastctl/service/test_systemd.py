"""The unit of systemd: its text, its quoting, and systemd's own opinion of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.service.manager import State
from beastctl.service.order import Order
from beastctl.service.systemd import Systemd, quoted, state_of, unit_text
from beastd.errors import ConfigError

words = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
wild_words = words | st.text("ab %$\"'\\{};#:@-!+|~é", min_size=1, max_size=20)


def an_order(command: tuple[str, ...] = (sys.executable, "-m", "beastd"), **changes: object) -> Order:
    fields: dict[str, object] = {"env": {}, "stop_s": 60.0, "log": Path("/x"), "is_system": False} | changes
    return Order(command=command, **fields)  # type: ignore[arg-type]


def split_as_systemd(text: str) -> list[str]:
    """Words of a command, by the rules of systemd.syntax(7) and systemd.unit(5), apart from the expansion of $."""
    found: list[str] = []
    for part in re.findall(r'"(?:[^"\\]|\\.)*"|\S+', text):
        bare = re.sub(r"\\(.)", r"\1", part[1:-1]) if part[0] == '"' else part
        assert "%" not in bare.replace("%%", ""), "an unknown specifier"
        found.append(bare.replace("%%", "%"))
    return found


def lines_of(text: str, key: str) -> list[str]:
    return [line.removeprefix(f"{key}=") for line in text.splitlines() if line.startswith(f"{key}=")]


@given(st.lists(wild_words, min_size=1, max_size=4))
def test_any_word_survives(command: list[str]) -> None:
    """Spaces, quotes, percent and dollar signs are what systemd hands to the program."""
    (line,) = lines_of(unit_text(an_order(("/" + command[0], *command[1:]))), "ExecStart")
    words = split_as_systemd(line.removeprefix(":"))
    assert words[-len(command) :] == ["/" + command[0], *command[1:]]
    assert words[: -len(command)] == (["/bin/sh", "-c", 'exec "$0" "$@"'] if set(command[0]) & set("\"'\\") else [])
    assert line.startswith(":") == any("$" in word for word in words)


@given(st.dictionaries(st.from_regex(r"BEAST_[A-Z]{1,8}", fullmatch=True), wild_words, max_size=3))
def test_any_value_survives(env: dict[str, str]) -> None:
    """Both as systemd reads an assignment, and as we read it back."""
    text = unit_text(an_order(env=env))
    assert [split_as_systemd(line) for line in lines_of(text, "Environment")] == [[f"{k}={v}"] for k, v in env.items()]
    assert Systemd(False, {}).env(text) == env


@pytest.mark.parametrize("word", ["a\nb", "\x1b[0m", "caf\udce9", "\x7f"])
def test_what_no_unit_can_hold_is_refused(word: str) -> None:
    """Rather than written so that it means something else."""
    with pytest.raises(ConfigError, match="cannot stand in a unit"):
        quoted(word)


def test_a_user_unit_needs_no_namespace() -> None:
    """Many systems refuse those to a user's manager, and then nothing would start."""
    text = unit_text(an_order())
    assert "WantedBy=default.target" in text
    assert not re.search(r"^(Protect|Private|User|StateDirectory|RuntimeDirectory)", text, re.MULTILINE)


def test_a_system_unit_owns_its_folders() -> None:
    """Its state and its socket's folder are made by systemd, for its user."""
    env = {"BEAST_HOME": "/var/lib/beast", "BEAST_SOCKET": "/run/beast/beast.sock"}
    text = unit_text(an_order(is_system=True, user="beast", group="llm", env=env))
    wanted = {"User=beast", "Group=llm", "StateDirectory=beast", "RuntimeDirectory=beast", "ProtectSystem=full"}
    wanted |= {"ExecStartPost=/bin/chmod 0660 /run/beast/beast.sock", "WantedBy=multi-user.target"}
    assert wanted <= set(text.splitlines())


def test_folders_chosen_by_the_caller_stay_theirs() -> None:
    """Only the default places are systemd's to make."""
    env = {"BEAST_HOME": "/srv/beast", "BEAST_SOCKET": "/srv/beast/s"}
    text = unit_text(an_order(is_system=True, user="me", env=env))
    assert "StateDirectory" not in text
    assert "RuntimeDirectory" not in text


def test_the_end_has_the_time_it_was_given() -> None:
    """It covers the draining of answers."""
    assert lines_of(unit_text(an_order(stop_s=75.0)), "TimeoutStopSec") == ["75"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
@pytest.mark.parametrize("name", ["python", "a $HOME %n é; #", """a "b" 'c' \\d"""])
@pytest.mark.parametrize("is_system", [False, True], ids=["user", "system"])
def test_systemd_finds_nothing_to_say(tmp_path: Path, is_system: bool, name: str) -> None:
    """systemd-analyze verify reads every key and finds the program, whatever its path looks like."""
    program = tmp_path / name
    program.symlink_to(sys.executable)
    env = {"BEAST_HOME": "/var/lib/beast", "BEAST_SOCKET": "/run/beast/beast.sock", "BEAST_PIN": 'a "b" %c $d'}
    (tmp_path / "beastd.service").write_text(
        unit_text(an_order((str(program), "-m", "beastd"), env=env, is_system=is_system, user="root", group="root"))
    )
    words = ["systemd-analyze", *([] if is_system else ["--user"]), "--man=no", "verify", "./beastd.service"]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(words, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_systemctl_shows_becomes_a_state() -> None:
    """The moment it started is one of the monotonic clock."""
    shown = "MainPID=42\nActiveState=active\nActiveEnterTimestampMonotonic=1500000\nUnitFileState=enabled\n"
    assert state_of(shown, 61.5) == State(is_enabled=True, active="active", pid=42, up_s=60.0)
    idle = "MainPID=0\nActiveState=failed\nActiveEnterTimestampMonotonic=0\nUnitFileState=disabled\n"
    assert state_of(idle, 61.5) == State(is_enabled=False, active="failed")
    assert state_of("", 61.5) == State(is_enabled=False, active="unknown")
