"""Install, remove and describe the service, whatever manager runs it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from beastctl import daemon
from beastctl.client import Client
from beastctl.service.manager import Manager, ServiceFailed
from beastctl.service.order import Order, service_env
from beastctl.service.stamp import is_untouched
from beastd.errors import BeastError
from beastd.paths import Paths, ensure_dir

Say = Callable[[str], None]


def check_right(manager: Manager, env: Mapping[str, str]) -> None:
    """Raise ServiceFailed where this user may not change the service, or most likely means another one."""
    if manager.is_system and os.geteuid() != 0:
        raise ServiceFailed("a system service needs root: say `sudo beast service … --system`, or leave --system out")
    if not manager.is_system and os.geteuid() == 0 and env.get("SUDO_USER"):
        raise ServiceFailed("with sudo this would be root's own service: leave sudo out, or add --system")


def write(manager: Manager, text: str, *, is_forced: bool) -> str:
    """Put the service's file in place; "installed", "changed", or "" when it is there already.

    Raises:
        ServiceFailed: what is there was edited by hand, or is not ours.
    """
    old = try_text(manager)
    if old == text:
        return ""
    if old is not None and not is_forced:
        _check_ours(manager.path, old, "replace")
    from beastd.durable import write_atomically  # uuid takes its time to load

    manager.path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(manager.path, text.encode())
    return "installed" if old is None else "changed"


def start(manager: Manager, order: Order, say: Say, *, is_changed: bool) -> None:
    """Start the service, in place of a daemon that was started on demand. Raises ServiceFailed or StopFailed."""
    paths = paths_of(order.env)
    holder, own = daemon.try_lock_holder(paths.lock_file), manager.state().pid
    if holder is not None and holder != own:
        say(f"beastd (pid {holder}) runs already, outside the service; it ends now, and the service takes over")
        daemon.shutdown(paths, order.stop_s, say)
    manager.start(is_changed=is_changed)


def prepare(order: Order) -> None:
    """Make the folder of the log, which launchd does not, and let it be the service's user's."""
    ensure_dir(order.log.parent)
    if order.user:
        from shutil import chown

        for folder in (order.log.parent, order.log.parent.parent):
            chown(folder, order.user)


def remove(manager: Manager, *, is_forced: bool) -> Paths | None:
    """Stop the service and remove its file; where its models and settings stay, or None when there was none.

    Raises:
        ServiceFailed: the file was edited by hand, or is not ours; or the manager refused.
    """
    text = try_text(manager)
    if text is None:
        return None
    if not is_forced:
        _check_ours(manager.path, text, "remove")
    if manager.is_running():
        manager.stop()
    manager.path.unlink()
    if manager.is_running():
        manager.forget()
    return paths_of(manager.env(text))


def describe(manager: Manager) -> dict[str, Any]:
    """What there is to know: the file, what the manager says, and what the daemon says of itself."""
    text, paths = try_text(manager), paths_at(manager)
    return {
        "manager": manager.name,
        "scope": "system" if manager.is_system else "user",
        "path": str(manager.path),
        "installed": text is not None,
        "edited": text is not None and not is_untouched(text),
        **asdict(manager.state()),
        "socket": str(paths.socket),
        "log": str(paths.logs_dir / daemon.LOG_NAME),
        "daemon": _try_health(paths),
    }


def try_text(manager: Manager) -> str | None:
    """The service's file, or None when there is none."""
    try:
        return manager.path.read_text()
    except FileNotFoundError:
        return None


def paths_at(manager: Manager) -> Paths:
    """Where the service that is installed has its files, or one would that were installed now."""
    text = try_text(manager)
    return paths_of(service_env(os.environ, is_system=manager.is_system) if text is None else manager.env(text))


def paths_of(env: Mapping[str, str]) -> Paths:
    """Where a service with that environment has its files; no BEAST_* of ours is passed on to it."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("BEAST_")}
    return Paths.from_env(ours | dict(env))


def _check_ours(path: Path, text: str, verb: str) -> None:
    if not is_untouched(text):
        raise ServiceFailed(f"{path} was edited by hand, or written by another program; --force lets Beast {verb} it")


def _try_health(paths: Paths) -> dict[str, Any] | None:
    try:
        return daemon.try_health(Client(paths.socket))
    except BeastError:
        return None
