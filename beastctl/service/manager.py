"""What a service manager does for us, be it systemd or launchd."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from beastctl.service.order import Order
from beastd.errors import BeastError

if TYPE_CHECKING:
    from subprocess import CompletedProcess

LIMIT_S = 150.0
"""For one act of the manager: a start and an end have limits of their own in the unit."""


class ServiceFailed(BeastError):
    """The service manager did not do what it was asked for, or may not be asked."""

    code = "service_failed"


@dataclass(frozen=True, slots=True)
class State:
    """How the manager sees the service."""

    is_enabled: bool
    """It starts by itself, at boot or login."""
    active: str
    """The manager's word: active, inactive, failed …; unknown where no manager answers."""
    pid: int | None = None
    up_s: float | None = None


UNKNOWN = State(is_enabled=False, active="unknown")


class Manager(Protocol):
    """One manager in one scope, the user's or the system's."""

    name: str
    is_system: bool
    path: Path
    """The file that describes the service."""

    def text(self, order: Order) -> str:
        """What to write there."""

    def env(self, text: str) -> dict[str, str]:
        """The service's environment, of a text that ``text`` made."""

    def is_running(self) -> bool:
        """Whether the manager itself runs, so that it can be asked."""

    def start(self, *, is_changed: bool) -> None:
        """Enable and start the service; where its file has changed, in place of one that runs. Raises ServiceFailed."""

    def stop(self) -> None:
        """Stop the service and disable it. Raises ServiceFailed."""

    def forget(self) -> None:
        """Take note that the file is gone. Raises ServiceFailed."""

    def state(self) -> State:
        """How the service is."""

    def log_command(self, n_lines: int, *, follows: bool) -> list[str]:
        """The command that shows the manager's log of it; empty where there is none but the daemon's own."""


def manager_of(is_system: bool, env: Mapping[str, str]) -> Manager:
    """This platform's manager. Raises ServiceFailed where there is none that we know."""
    if sys.platform == "darwin":
        from beastctl.service.launchd import Launchd

        return Launchd(is_system, Path.home())
    if sys.platform == "linux":
        from beastctl.service.systemd import Systemd

        return Systemd(is_system, env)
    raise ServiceFailed(f"`beast service` knows systemd and launchd, not {sys.platform}; let it run `beastd`")


def ask(*words: str) -> CompletedProcess[str]:
    """Run a command of the manager to its end. Raises ServiceFailed when it is missing or hangs."""
    from subprocess import DEVNULL, TimeoutExpired, run

    try:
        return run(words, stdin=DEVNULL, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except FileNotFoundError:
        raise ServiceFailed(f"{words[0]} is not installed, so nothing can manage the service") from None
    except TimeoutExpired:
        raise ServiceFailed(
            f"`{' '.join(words)}` did not end within {LIMIT_S:.0f} s; ask it how the service is"
        ) from None


def order_it(*words: str, hint: str = "") -> None:
    """Run a command of the manager that must succeed. Raises ServiceFailed with what it said."""
    done = ask(*words)
    if done.returncode:
        said = (done.stderr or done.stdout).strip() or f"exit status {done.returncode}"
        raise ServiceFailed(f"`{' '.join(words)}` failed: {said}" + hint)
