"""Where Beast's files live: one folder under BEAST_HOME, or the platform's own places."""

from __future__ import annotations

import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from beastd.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
"""``sizeof(sockaddr_un.sun_path)`` less the closing NUL."""


@dataclass(frozen=True, slots=True)
class Paths:
    """Every place Beast reads or writes; nothing is created until an ``ensure`` function is called."""

    config_file: Path
    run_dir: Path
    """Private to the user (0700): the socket and the lock file."""
    socket: Path
    """In run_dir, unless BEAST_SOCKET names another place."""
    models_dir: Path
    """The user's model descriptions."""
    logs_dir: Path
    state_dir: Path
    """The CLI's history and saved chats."""
    cache_dir: Path
    """What may be lost at any time."""

    @property
    def lock_file(self) -> Path:
        """Held (flock) by the one daemon of this run_dir."""
        return self.run_dir / "beastd.lock"

    @property
    def kv_dir(self) -> Path:
        """KV of prompts that may come again."""
        return self.cache_dir / "kv"

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> Paths:
        """Places named by BEAST_HOME and BEAST_SOCKET, else the platform's (which follow the XDG variables).

        Raises ConfigError when the socket's path is longer than the platform allows.
        """
        home = env.get("BEAST_HOME")
        config_file, run_dir, models_dir, logs_dir, state_dir, cache_dir = (
            _under(_absolute(home)) if home else _of_platform(env)
        )
        override = env.get("BEAST_SOCKET")
        socket = _absolute(override) if override else run_dir / "beast.sock"
        _check_socket(socket)
        return cls(config_file, run_dir, socket, models_dir, logs_dir, state_dir, cache_dir)


def ensure_dir(path: Path) -> Path:
    """Create a folder and its parents, readable by the user alone; an existing one is left as it is.

    Raises ConfigError when it cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as e:
        raise ConfigError(f"cannot create {path}: {e.strerror}; set BEAST_HOME to a folder you can write") from e
    return path


def ensure_run_dir(path: Path) -> Path:
    """Create the folder of the socket, or make sure that nobody else can reach into it.

    Whoever can replace the socket can read every prompt, so a folder (or parent) of another user is refused with
    ConfigError; loose modes on our own folder are tightened to 0700.
    """
    ensure_dir(path)
    found, parent = path.lstat(), path.parent.stat()
    if path.is_symlink() or found.st_uid != os.getuid() or parent.st_uid not in {0, os.getuid()}:
        raise ConfigError(f"{path} is a link or belongs to another user; set BEAST_HOME to a folder of your own")
    if found.st_mode & 0o077:
        path.chmod(0o700)
    return path


def _absolute(text: str) -> Path:
    return Path(text).expanduser().absolute()


def _under(home: Path) -> tuple[Path, Path, Path, Path, Path, Path]:
    return home / "config.yaml", home / "run", home / "models", home / "logs", home / "state", home / "cache"


def _of_platform(env: Mapping[str, str]) -> tuple[Path, Path, Path, Path, Path, Path]:
    from platformdirs import PlatformDirs  # slow to import, and not needed under BEAST_HOME

    dirs = PlatformDirs("beast", appauthor=False)
    state = dirs.user_state_path
    return (
        dirs.user_config_path / "config.yaml",
        _runtime_dir(env, state),
        dirs.user_data_path / "models",
        state / "logs",
        state,
        dirs.user_cache_path,
    )


def _runtime_dir(env: Mapping[str, str], state: Path) -> Path:
    """The login session's runtime folder (XDG base directory specification); without one, a folder at home.

    Never below /tmp, as platformdirs falls back to: any other user could take a known name there first.
    """
    base = Path(env.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}")
    try:
        found = base.lstat()
    except OSError:
        return state / "run"
    is_private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return base / "beast" if is_private else state / "run"


def _check_socket(path: Path) -> None:
    n_bytes = len(os.fsencode(path))
    if n_bytes > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(
            f"the socket path {path} has {n_bytes} bytes, this system allows {MAX_SOCKET_PATH_BYTES}; "
            "set BEAST_SOCKET to a shorter path, or BEAST_HOME to a folder with a shorter one"
        )
