"""`beast service`: the daemon under systemd or launchd."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from beastctl import daemon, render

if TYPE_CHECKING:
    from beastctl.service.manager import Manager
    from beastctl.service.order import Order

System = Annotated[bool, typer.Option("--system", help="The whole machine's service, started at boot; needs root.")]
Force = Annotated[bool, typer.Option("--force", help="Even if its file was edited by hand.")]


def service() -> None:
    """Let systemd or launchd run the daemon: start it at login or at boot, and again after a crash."""


def install(
    *,
    system: System = False,
    user: Annotated[
        str, typer.Option(metavar="NAME", help="With --system: run as this user. (Default: beast, else who calls.)")
    ] = "",
    group: Annotated[
        str, typer.Option(metavar="NAME", help="With --system: let this group's members use the socket.")
    ] = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="Any setting of config.yaml, for the service. Repeatable."),
    ] = None,
    start: Annotated[bool, typer.Option("--start/--no-start", help="Start it now.")] = True,
    force: Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the file that describes the service.")] = False,
) -> None:
    """Install the service, or change it, and start it.

    Your own service uses the same socket, models and settings as a daemon that `beast` starts on demand, and the
    BEAST_* variables of now. It ends when you log out, unless `loginctl enable-linger` was said once.

    A system service keeps its files in /var/lib/beast and listens on /run/beast/beast.sock. Its own user and root
    reach it when BEAST_SOCKET names that socket; with --group so do the group's members, who can then do everything:
    run, add and remove models. It reads files as its own user, so a GGUF file in a private home is out of its reach.
    Programs that speak HTTP reach it with --set tcp=127.0.0.1:11434, from every account of the machine.
    """
    from beastctl.service import acts
    from beastctl.service.order import make_order

    if (user or group) and not system:
        raise typer.BadParameter("--user and --group go with --system: your own service is yours alone")
    manager = _manager(system)
    order = make_order(os.environ, set_ or [], is_system=system, user=user, group=group)
    text = manager.text(order)
    if dry_run:
        print(text, end="")
        return
    acts.check_right(manager, os.environ)
    if order.user == "root":
        render.say("warning: it will run as root; `useradd --system beast` makes a user for it to run as")
    done = acts.write(manager, text, is_forced=force)
    render.say(f"{done} {manager.path}" if done else f"{manager.path} is as it should be")
    _start(manager, order, starts=start, is_changed=done == "changed")


def _start(manager: Manager, order: Order, *, starts: bool, is_changed: bool) -> None:
    from beastctl.service import acts

    if not starts:
        render.say("it was not started; `beast service install` starts it")
        return
    if not manager.is_running():
        why = "does not run here" if manager.is_system else "of yours runs here (no login session?)"
        no = "" if manager.is_system else "no "
        render.say(f"warning: {no}{manager.name} {why}, so the service was neither enabled nor started")
        return
    if manager.name == "launchd":
        acts.prepare(order)
    acts.start(manager, order, render.say, is_changed=is_changed)
    pid = manager.state().pid
    render.say(
        f"beastd runs as a service (pid {pid})" if pid else "the service was started; see `beast service status`"
    )
    _advise(order)


def _advise(order: Order) -> None:
    socket = order.env.get("BEAST_SOCKET")
    if order.is_system and socket:
        render.say(f"to use it: export BEAST_SOCKET={socket}")
    lingers = Path("/var/lib/systemd/linger") / os.environ.get("USER", "?")
    if not order.is_system and sys.platform == "linux" and not lingers.exists():
        render.say("it ends when you log out; `loginctl enable-linger` lets it run from boot on")


def uninstall(*, system: System = False, force: Force = False) -> None:
    """Stop the service and remove it; models, settings and logs stay."""
    from beastctl.service import acts

    manager = _manager(system)
    acts.check_right(manager, os.environ)
    left = acts.remove(manager, is_forced=force)
    if left is None:
        render.say(f"there is no service to remove ({manager.path})")
        return
    render.say(f"removed {manager.path}")
    if not manager.is_running():
        render.say(f"warning: {manager.name} does not run here, so nothing was stopped")
    render.say(f"models stay in {left.models_dir}, settings in {left.config_file}, logs in {left.logs_dir}")


def status(
    *, system: System = False, as_json: Annotated[bool, typer.Option("--json", help="Print data for machines.")] = False
) -> None:
    """Tell how the service is; exit status 1 when it does not run."""
    from beastctl.service import acts

    found = acts.describe(_installed(system))
    if as_json:
        render.print_json(found)
    else:
        print("\n".join(f"{name + ':':9}{value}" for name, value in _rows(found)))
    if found["active"] != "active":
        raise typer.Exit(1)


def logs(
    *,
    n_lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="So many of the last lines.")] = 50,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes.")] = False,
    system: System = False,
) -> None:
    """Show the manager's log of the service: starts, ends, crashes. `beast logs` shows the daemon's own."""
    from beastctl.commands.logs import show_file
    from beastctl.service import acts

    manager = _installed(system)
    command = manager.log_command(n_lines, follows=follow)
    if command and manager.is_running():
        os.execvp(command[0], command)  # noqa: S606
    show_file(acts.paths_at(manager).logs_dir / daemon.LOG_NAME, n_lines, follows=follow)


def _manager(is_system: bool) -> Manager:
    from beastctl.service.manager import manager_of

    return manager_of(is_system, os.environ)


def _installed(is_system: bool) -> Manager:
    """The user's service; the system's where it was asked for, or is the only one."""
    own, whole = _manager(False), _manager(True)
    return whole if is_system or (whole.path.exists() and not own.path.exists()) else own


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    since = f", pid {found['pid']}" if found["pid"] else ""
    since += f", up {render.span(found['up_s'])}" if found["up_s"] is not None else ""
    enabled = "starts by itself" if found["is_enabled"] else "does not start by itself"
    health = found["daemon"]
    return [
        ("service", f"{found['manager']}, {found['scope']}: {found['active']}{since}; {enabled}"),
        ("file", found["path"] + _kind(found)),
        ("socket", found["socket"]),
        (
            "beastd",
            f"{health['version']}, pid {health['pid']}, {health['n_workers']} workers" if health else "no answer",
        ),
        ("log", found["log"]),
    ]


def _kind(found: dict[str, Any]) -> str:
    if not found["installed"]:
        return " (not installed)"
    return " (edited by hand)" if found["edited"] else ""


SUBCOMMANDS = {"install": install, "uninstall": uninstall, "status": status, "logs": logs}
