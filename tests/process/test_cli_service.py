"""`beast service`, with a stand-in for systemctl that records what it is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is systemd's")

BEAST = str(Path(sys.executable).with_name("beast"))
SYSTEMCTL = """#!/bin/sh
echo "$@" >> "$BEAST_HOME/calls"
case "$2" in
show) cat "$BEAST_HOME/shown" 2>/dev/null;;
start|restart) test ! -e "$BEAST_HOME/refuse" || { echo "Job failed." >&2; exit 1; };;
esac
"""
EDITED = "was edited by hand"


class Machine:
    """A home with a systemd of its own."""

    def __init__(self, home: Path) -> None:
        self.home, self.unit = home, home / "config" / "systemd" / "user" / "beastd.service"
        (home / "bin").mkdir()
        (home / "bin" / "systemctl").write_text(SYSTEMCTL)
        (home / "bin" / "systemctl").chmod(0o755)
        (home / "rt" / "systemd").mkdir(parents=True)
        (home / "rt").chmod(0o700)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("BEAST_", "SUDO_"))}
        places = {"BEAST_HOME": home, "HOME": home, "XDG_CONFIG_HOME": home / "config", "XDG_RUNTIME_DIR": home / "rt"}
        self.env = kept | {name: str(path) for name, path in places.items()} | {"PATH": f"{home}/bin:{kept['PATH']}"}

    def beast(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BEAST, *arguments], env=self.env, capture_output=True, text=True, timeout=90, check=False
        )
        assert "Traceback" not in done.stderr
        return done

    def calls(self) -> list[str]:
        """What systemctl was asked since the last look, apart from how things are."""
        file = self.home / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.removeprefix("--user ") for line in lines if " show " not in line]

    def without_systemd(self) -> None:
        (self.home / "rt" / "systemd").rmdir()


@pytest.fixture
def machine(beast_home: Path) -> Iterator[Machine]:
    made = Machine(beast_home)
    yield made
    made.beast("shutdown")


def test_a_dry_run_only_prints(machine: Machine) -> None:
    """The unit alone is on standard output, and nothing is asked or written."""
    done = machine.beast("service", "install", "--dry-run", "--set", "tcp=127.0.0.1:1")
    assert f"ExecStart={Path(sys.executable)} -P -m beastd --background --set=tcp=127.0.0.1:1\n" in done.stdout
    assert f"Environment=BEAST_HOME={machine.home}\n" in done.stdout
    assert (done.stderr, machine.calls(), machine.unit.exists()) == ("", [], False)


def test_installing_again_changes_what_has_changed(machine: Machine) -> None:
    """The first time it is started, then left alone, and restarted only for a new file."""
    first = machine.beast("service", "install")
    assert (first.returncode, machine.calls()) == (
        0,
        ["daemon-reload", "enable beastd.service", "start beastd.service"],
    )
    assert f"installed {machine.unit}" in first.stderr
    assert "as it should be" in machine.beast("service", "install").stderr
    assert machine.calls()[-1] == "start beastd.service"
    assert "changed" in machine.beast("service", "install", "--set", "context=8192").stderr
    assert machine.calls()[-1] == "restart beastd.service"


def test_an_edited_file_is_left_alone(machine: Machine) -> None:
    """By install and by uninstall, until --force says otherwise."""
    machine.beast("service", "install", "--no-start")
    machine.unit.write_text(machine.unit.read_text() + "# mine\n")
    for verb in ("install", "uninstall"):
        done = machine.beast("service", verb)
        assert (done.returncode, EDITED in done.stderr) == (1, True)
    assert machine.unit.read_text().endswith("# mine\n")
    assert machine.beast("service", "install", "--no-start", "--force").returncode == 0
    assert not machine.unit.read_text().endswith("# mine\n")
    assert machine.calls() == []


def test_without_systemd_the_file_is_written_and_the_rest_told(machine: Machine) -> None:
    """As in a container: no failure, a warning."""
    machine.without_systemd()
    done = machine.beast("service", "install")
    assert (done.returncode, machine.unit.exists(), machine.calls()) == (0, True, [])
    assert "neither enabled nor started" in done.stderr


def test_a_daemon_started_on_demand_gives_way(machine: Machine) -> None:
    """Its lock would keep the service from starting."""
    machine.beast("list")
    pid = json.loads(machine.beast("status", "--json").stdout)["pid"]
    assert f"beastd (pid {pid}) runs already" in machine.beast("service", "install").stderr
    assert machine.beast("status").returncode == 1


def test_the_services_own_daemon_is_not_ended(machine: Machine) -> None:
    """Installing again finds it running under systemd."""
    machine.beast("list")
    pid = json.loads(machine.beast("status", "--json").stdout)["pid"]
    (machine.home / "shown").write_text(f"MainPID={pid}\nActiveState=active\nUnitFileState=enabled\n")
    assert f"as a service (pid {pid})" in machine.beast("service", "install").stderr
    found = json.loads(machine.beast("service", "status", "--json").stdout)
    assert (found["active"], found["pid"], found["is_enabled"], found["installed"]) == ("active", pid, True, True)
    assert found["daemon"]["pid"] == pid


def test_a_start_that_fails_is_told_with_where_to_look(machine: Machine) -> None:
    """In systemd's words."""
    (machine.home / "refuse").touch()
    done = machine.beast("service", "install")
    assert done.returncode == 1
    assert "Job failed." in done.stderr
    assert "journalctl --user -u beastd" in done.stderr


def test_uninstalling_leaves_models_and_says_so(machine: Machine) -> None:
    """And a second time there is nothing to do."""
    machine.beast("service", "install")
    machine.calls()
    done = machine.beast("service", "uninstall")
    assert machine.calls() == ["disable --now beastd.service", "daemon-reload", "reset-failed beastd.service"]
    assert (done.returncode, machine.unit.exists()) == (0, False)
    assert f"models stay in {machine.home / 'models'}" in done.stderr
    assert "no service to remove" in machine.beast("service", "uninstall").stderr


def test_status_of_no_service(machine: Machine) -> None:
    """Says so, with exit status 1, and where one would be."""
    done = machine.beast("service", "status")
    assert done.returncode == 1
    assert "(not installed)" in done.stdout
    assert f"{machine.home}/run/beast.sock" in done.stdout


def test_only_root_may_change_the_machines_service(machine: Machine) -> None:
    """And a name to run as makes no sense without --system."""
    assert machine.beast("service", "install", "--user", "root").returncode == 2
    if os.geteuid() != 0:
        assert "needs root" in machine.beast("service", "install", "--system", "--user", "root").stderr
    machine.env["SUDO_USER"] = "me"
    if os.geteuid() == 0:
        assert "add --system" in machine.beast("service", "install").stderr
