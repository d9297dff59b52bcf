"""The property list of launchd, and what launchctl prints."""

from __future__ import annotations

import plistlib
from pathlib import Path

import pytest

from beastctl.service.launchd import Launchd, plist_text, state_of
from beastctl.service.manager import State
from beastctl.service.order import Order
from beastctl.service.stamp import is_untouched
from beastd.errors import ConfigError

ORDER = Order(("/a b/<py>", "-m", "beastd"), {"BEAST_HOME": "/é & b"}, 60.0, Path("/l/beastd.log"), is_system=False)


def test_the_list_says_what_was_ordered() -> None:
    """It survives a round trip, with whatever XML has to escape; a clean end is not restarted."""
    text = plist_text(ORDER)
    read = plistlib.loads(text.encode())
    assert read["ProgramArguments"] == ["/a b/<py>", "-m", "beastd"]
    assert (read["KeepAlive"], read["RunAtLoad"], read["ExitTimeOut"]) == ({"SuccessfulExit": False}, True, 60)
    assert read["StandardErrorPath"] == "/l/beastd.log"
    assert "UserName" not in read
    assert Launchd(False, Path("/home")).env(text) == {"BEAST_HOME": "/é & b"}
    assert is_untouched(text)


def test_a_daemon_of_the_system_names_its_user() -> None:
    """A group cannot be let in, and is refused."""
    order = Order(("/py",), {}, 60.0, Path("/l"), is_system=True, user="beast")
    assert plistlib.loads(plist_text(order).encode())["UserName"] == "beast"
    with pytest.raises(ConfigError, match="--group needs systemd"):
        plist_text(Order(("/py",), {}, 60.0, Path("/l"), is_system=True, user="beast", group="llm"))


def test_each_scope_has_its_folder() -> None:
    """The user's agents are at home."""
    assert Launchd(False, Path("/h")).path == Path("/h/Library/LaunchAgents/beast.beastd.plist")
    assert Launchd(True, Path("/h")).path == Path("/Library/LaunchDaemons/beast.beastd.plist")


def test_what_launchctl_prints_becomes_a_state() -> None:
    """A service that is loaded starts by itself, whether it runs or not."""
    shown = "gui/501/beast.beastd = {\n\tactive count = 1\n\tstate = running\n\tpid = 77\n}\n"
    assert state_of(shown) == State(is_enabled=True, active="active", pid=77)
    assert state_of("x = {\n\tstate = waiting\n}\n") == State(is_enabled=True, active="inactive")
    assert state_of(None) == State(is_enabled=False, active="inactive")
