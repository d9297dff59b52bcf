"""beastd as a unit of systemd: the text of the unit, by systemd's rules of quoting, and what systemctl is asked for."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from beastctl.service.manager import UNKNOWN, State, ask, order_it
from beastctl.service.order import SYSTEM_HOME, SYSTEM_SOCKET, Order
from beastctl.service.stamp import stamped
from beastd.errors import ConfigError

UNIT = "beastd.service"
SYSTEM_MARK = Path("/run/systemd/system")
"""There while systemd is the init; sd_booted(3) asks the same."""
_BARE = re.compile(r"[A-Za-z0-9/._+=:,@-]+")
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_ESCAPES: Mapping[str, str] = {"\\": "\\\\", '"': '\\"', "%": "%%"}

_SERVICE = """\
# Five starts within five minutes, then it stays down until it is asked for: a broken setup must not spin.
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
{command}
Restart=on-failure
RestartSec=5
# 2: a setting is wrong, or another beastd runs here. Neither gets better by itself.
RestartPreventExitStatus=2
TimeoutStartSec=90
# The daemon's drain_s and a margin; it asks for more by itself should drain_s have grown since.
TimeoutStopSec={stop_s:.0f}
# Only the daemon is told to end: it lets answers end, then its workers.
KillMode=mixed
# A worker that the kernel kills for its memory is replaced; the daemon and the other models go on.
OOMPolicy=continue
LimitNOFILE=65536

# No PrivateTmp, ProtectHome, PrivateDevices: models lie anywhere, `beast` names files in /tmp, GPUs are devices.
# No MemoryDenyWriteExecute: GPU drivers compile at run time. No ProtectClock: it closes /dev to GPUs as well.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
RestrictNamespaces=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=~@clock @cpu-emulation @module @mount @obsolete @raw-io @reboot @swap
SystemCallErrorNumber=EPERM
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
"""
_SYSTEM_HARDENING = """\
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
"""
_NO_NAMESPACES = """\
# ProtectSystem and the like are left out: they need a namespace, which many systems refuse to a user's manager.
"""


def unit_text(order: Order) -> str:
    """The whole unit. Raises ConfigError where a path or value cannot stand in one."""
    service = _SERVICE.format(command="\n".join(_command_lines(order)), stop_s=order.stop_s)
    system = "".join(f"{line}\n" for line in _system_lines(order)) + _SYSTEM_HARDENING
    target = "multi-user.target" if order.is_system else "default.target"
    # An address of tcp need not be there before the network is up; a user's unit cannot wait for that.
    network = "Wants=network-online.target\nAfter=network-online.target\n" if order.is_system else ""
    return stamped(
        f"[Unit]\nDescription=Beast, a server of language models\n{network}{service}"
        f"{system if order.is_system else _NO_NAMESPACES}\n[Install]\nWantedBy={target}\n"
    )


def quoted(word: str) -> str:
    """A word as systemd reads it back, in a command or an assignment.

    Raises:
        ConfigError: it holds a control character, or bytes that are no text.
    """
    if _UNFIT.search(word):
        raise ConfigError(f"{word!r} cannot stand in a unit of systemd: it has a control character or broken text")
    return word if _BARE.fullmatch(word) else '"' + "".join(_ESCAPES.get(char, char) for char in word) + '"'


def _exec(key: str, words: Sequence[str]) -> str:
    # With ":" no $ is expanded. Doubling each would not do for the program's own path, which systemd takes literally.
    prefix = ":" if any("$" in word for word in words) else ""
    return f"{key}={prefix}" + " ".join(map(quoted, words))


def _command_lines(order: Order) -> Iterator[str]:
    # systemd runs no program with a quote in its path; a shell does.
    shell = ("/bin/sh", "-c", 'exec "$0" "$@"') if set(order.command[0]) & set("\"'\\") else ()
    yield _exec("ExecStart", (*shell, *order.command))
    yield from (f"Environment={quoted(f'{name}={value}')}" for name, value in order.env.items())


def _system_lines(order: Order) -> Iterator[str]:
    yield f"User={order.user}"
    if order.user != "root":
        yield "CapabilityBoundingSet="
    if order.group:
        yield f"Group={order.group}"
    if order.env.get("BEAST_HOME") == SYSTEM_HOME:
        yield from ("StateDirectory=beast", "StateDirectoryMode=0700")
    if order.env.get("BEAST_SOCKET") == SYSTEM_SOCKET:
        yield "RuntimeDirectory=beast"
    if order.group:
        yield from (
            f"# The daemon's socket is its user's alone; this opens it to the group {order.group}.",
            _exec("ExecStartPost", ("/bin/chmod", "0660", order.env["BEAST_SOCKET"])),
        )


class Systemd:
    """The user's systemd or the system's."""

    name = "systemd"

    def __init__(self, is_system: bool, env: Mapping[str, str]) -> None:
        self.is_system = is_system
        base = Path(env.get("XDG_CONFIG_HOME") or Path.home() / ".config")
        self.path = (Path("/etc/systemd/system") if is_system else base / "systemd" / "user") / UNIT
        self._user_mark = Path(env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "systemd"
        self._scope = () if is_system else ("--user",)

    def text(self, order: Order) -> str:
        """The unit."""
        return unit_text(order)

    def env(self, text: str) -> dict[str, str]:
        """Its assignments, read back."""
        lines = (line.removeprefix("Environment=") for line in text.splitlines() if line.startswith("Environment="))
        pairs = (re.sub(r'\\(.)|%(%)|"', lambda found: found[1] or found[2] or "", line) for line in lines)
        return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}

    def is_running(self) -> bool:
        """The user's manager runs while its folder is there; over plain su, or in a container, it does not."""
        return (SYSTEM_MARK if self.is_system else self._user_mark).is_dir()

    def start(self, *, is_changed: bool) -> None:
        """Reload, enable, start, or restart what ran from an older unit."""
        hint = f"; `journalctl {' '.join((*self._scope, '-u', 'beastd'))}` tells more"
        self._order("daemon-reload")
        self._order("enable", UNIT)
        self._order("restart" if is_changed else "start", UNIT, hint=hint)

    def stop(self) -> None:
        """Stop it and disable it."""
        self._order("disable", "--now", UNIT)

    def forget(self) -> None:
        """Reload, and drop a failure that systemd would remember."""
        self._order("daemon-reload")
        ask("systemctl", *self._scope, "reset-failed", UNIT)

    def state(self) -> State:
        """What ``systemctl show`` tells."""
        if not self.is_running():
            return UNKNOWN
        wanted = "--property=UnitFileState,ActiveState,MainPID,ActiveEnterTimestampMonotonic"
        done = ask("systemctl", *self._scope, "show", UNIT, wanted)
        return state_of(done.stdout, time.clock_gettime(time.CLOCK_MONOTONIC))

    def log_command(self, n_lines: int, *, follows: bool) -> list[str]:
        """The journal's."""
        tail = ["--follow"] if follows else ["--no-pager"]
        return ["journalctl", *self._scope, "--unit", UNIT, "--lines", str(n_lines), *tail]

    def _order(self, *words: str, hint: str = "") -> None:
        order_it("systemctl", *self._scope, *words, hint=hint)


def state_of(shown: str, now_s: float) -> State:
    """The state in the lines of ``systemctl show``, at the moment ``now_s`` of the monotonic clock."""
    facts = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    active, pid = facts.get("ActiveState", "unknown"), int(facts.get("MainPID") or 0)
    since_us = int(facts.get("ActiveEnterTimestampMonotonic") or 0)
    up_s = now_s - since_us / 1e6 if active == "active" and since_us else None
    return State(is_enabled=facts.get("UnitFileState") == "enabled", active=active, pid=pid or None, up_s=up_s)
