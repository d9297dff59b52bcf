"""beastd as an agent or daemon of launchd: its property list, and what launchctl is asked for."""

from __future__ import annotations

import os
import plistlib
import re
from pathlib import Path
from typing import Any

from beastctl.service.manager import State, ask, order_it
from beastctl.service.order import Order
from beastctl.service.stamp import stamped
from beastd.errors import ConfigError

LABEL = "beast.beastd"


def plist_text(order: Order) -> str:
    """The whole property list. Raises ConfigError for a group, whose members launchd cannot let in."""
    if order.group:
        raise ConfigError("--group needs systemd; with launchd, others reach the daemon by --set tcp=127.0.0.1:11434")
    log = str(order.log)
    content: dict[str, Any] = {
        "Label": LABEL,
        "ProgramArguments": list(order.command),
        "EnvironmentVariables": dict(order.env),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},  # so that `beast shutdown` lasts
        "ThrottleInterval": 10,
        "ExitTimeOut": round(order.stop_s),
        "ProcessType": "Interactive",  # any other kind gets its CPU and disk throttled
        "SoftResourceLimits": {"NumberOfFiles": 65536},
        "StandardOutPath": log,
        "StandardErrorPath": log,
    }
    if order.user:
        content["UserName"] = order.user
    return stamped(plistlib.dumps(content, sort_keys=False).decode(), line=2, comment="<!-- {} -->")


class Launchd:
    """The user's launchd domain or the system's."""

    name = "launchd"

    def __init__(self, is_system: bool, home: Path) -> None:
        self.is_system = is_system
        folder = Path("/Library/LaunchDaemons") if is_system else home / "Library" / "LaunchAgents"
        self.path = folder / f"{LABEL}.plist"
        self._domain = "system" if is_system else f"gui/{os.getuid()}"

    def text(self, order: Order) -> str:
        """The property list."""
        return plist_text(order)

    def env(self, text: str) -> dict[str, str]:
        """Its variables."""
        return dict(plistlib.loads(text.encode())["EnvironmentVariables"])

    def is_running(self) -> bool:
        """The user's domain is there while the user is logged in at the screen."""
        return ask("launchctl", "print", self._domain).returncode == 0

    def start(self, *, is_changed: bool) -> None:
        """Load the list; where it has changed, in place of the older one."""
        if self._shown() is not None:
            if not is_changed:
                order_it("launchctl", "kickstart", self._target)
                return
            self.stop()
        order_it("launchctl", "bootstrap", self._domain, str(self.path))

    def stop(self) -> None:
        """Unload it."""
        if self._shown() is not None:
            order_it("launchctl", "bootout", self._target)

    def forget(self) -> None:
        """Nothing: launchd remembers no list that is unloaded."""

    def state(self) -> State:
        """What ``launchctl print`` tells."""
        return state_of(self._shown())

    def log_command(self, n_lines: int, *, follows: bool) -> list[str]:  # noqa: ARG002
        """None: all output goes to the daemon's log."""
        return []

    @property
    def _target(self) -> str:
        return f"{self._domain}/{LABEL}"

    def _shown(self) -> str | None:
        done = ask("launchctl", "print", self._target)
        return None if done.returncode else done.stdout


def state_of(shown: str | None) -> State:
    """The state in what ``launchctl print`` shows of a service; None: it is not loaded."""
    if shown is None:
        return State(is_enabled=False, active="inactive")
    pid = re.search(r"^\s*pid = (\d+)$", shown, re.MULTILINE)
    return State(is_enabled=True, active="active" if pid else "inactive", pid=int(pid[1]) if pid else None)
