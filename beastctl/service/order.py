"""What a service is to run: the command, its environment, as whom, and how long it may take to end."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from beastd.errors import ConfigError
from beastd.notify import END_MARGIN_S
from beastd.paths import Paths

SYSTEM_HOME = "/usr/local/var/beast" if sys.platform == "darwin" else "/var/lib/beast"
SYSTEM_SOCKET = "/run/beast/beast.sock"
OWN_USER = "beast"
"""Whom a system service runs as, where there is such a user."""
_KEPT = frozenset(
    {"XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HOME", "HF_ENDPOINT"}
    | {"CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "LD_LIBRARY_PATH"}
)
"""Besides BEAST_*: where files are, and what finds the GPU. A manager passes on nothing of a shell's environment."""


@dataclass(frozen=True, slots=True)
class Order:
    """One service, whatever manager runs it."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    stop_s: float
    log: Path
    is_system: bool
    user: str = ""
    """Empty: the manager's own user."""
    group: str = ""
    """Whose members may use the socket; empty: the user alone."""


def make_order(
    env: Mapping[str, str], settings: Sequence[str], *, is_system: bool, user: str = "", group: str = ""
) -> Order:
    """The service for a caller with the environment ``env``; ``settings`` are NAME=VALUE.

    Raises:
        ConfigError: a setting is wrong, or nobody has that name. So the mistake is told now, not at each boot.
    """
    kept = service_env(env, is_system=is_system)
    paths = Paths.from_env({**env, **kept})
    return Order(
        # -P: a file of the working directory must not be imported in place of a library.
        command=(sys.executable, "-P", "-m", "beastd", "--background", *(f"--set={pair}" for pair in settings)),
        env=kept,
        stop_s=_drain_s(paths, kept, settings) + END_MARGIN_S,
        log=paths.logs_dir / "beastd.log",
        is_system=is_system,
        user=_known_user(user or _default_user(env)) if is_system else "",
        group=_known_group(group) if group else "",
    )


def service_env(env: Mapping[str, str], *, is_system: bool) -> dict[str, str]:
    """The environment of a service installed now, out of its installer's."""
    return _system_env(env) if is_system else _user_env(env)


def _user_env(env: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in sorted(env.items()) if value and (name in _KEPT or _is_ours(name))}


def _system_env(env: Mapping[str, str]) -> dict[str, str]:
    socket = {} if sys.platform == "darwin" else {"BEAST_SOCKET": SYSTEM_SOCKET}
    ours = {name: value for name, value in _user_env(env).items() if not name.startswith("XDG_")}
    return {"BEAST_HOME": SYSTEM_HOME} | socket | ours


def _is_ours(name: str) -> bool:
    return name.startswith("BEAST_")


def _drain_s(paths: Paths, env: Mapping[str, str], settings: Sequence[str]) -> float:
    from beastd.config import load_config  # msgspec takes its time to load

    pairs = [pair.partition("=") for pair in settings]
    if wrong := next((name for name, equals, _ in pairs if not equals), None):
        raise ConfigError(f"--set {wrong}: write it as NAME=VALUE")
    return load_config(paths.config_file, env, {name: value for name, _, value in pairs}).drain_s


def _default_user(env: Mapping[str, str]) -> str:
    import pwd

    try:
        return pwd.getpwnam(OWN_USER).pw_name
    except KeyError:
        return env.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name


def _known_user(name: str) -> str:
    import pwd

    try:
        return pwd.getpwnam(name).pw_name
    except KeyError:
        raise ConfigError(f"there is no user '{name}'; `useradd --system {name}` makes one") from None


def _known_group(name: str) -> str:
    import grp

    try:
        return grp.getgrnam(name).gr_name
    except KeyError:
        raise ConfigError(f"there is no group '{name}'; `groupadd --system {name}` makes one") from None
