"""Where files live, and who may reach them."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from beastd.errors import ConfigError
from beastd.paths import MAX_SOCKET_PATH_BYTES, Paths, ensure_dir, ensure_run_dir


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_beast_home_holds_every_file():
    """One variable moves everything under one folder."""
    paths = Paths.from_env({"BEAST_HOME": "/b"})
    every = [paths.config_file, paths.run_dir, paths.socket, paths.lock_file]
    every += [paths.models_dir, paths.logs_dir, paths.state_dir, paths.cache_dir, paths.kv_dir]
    assert len(set(every)) == len(every)
    assert all(path.is_relative_to("/b") for path in every)
    assert paths.socket.parent == paths.lock_file.parent == paths.run_dir


def test_relative_and_home_folders_become_absolute():
    """The daemon and its clients mean the same file from any working directory."""
    assert Paths.from_env({"BEAST_HOME": "b"}).run_dir == Path.cwd() / "b" / "run"
    assert Paths.from_env({"BEAST_HOME": "~/b"}).run_dir == Path.home() / "b" / "run"


def test_beast_socket_moves_the_socket_alone():
    """The lock stays where every daemon of this home looks for it."""
    paths = Paths.from_env({"BEAST_HOME": "/b", "BEAST_SOCKET": "/s/x.sock"})
    assert (paths.socket, paths.lock_file.parent) == (Path("/s/x.sock"), Path("/b/run"))


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has its own places")
def test_without_beast_home_the_platform_says(monkeypatch, tmp_path):
    """The XDG variables are followed."""
    for name in ("CONFIG", "DATA", "STATE", "CACHE"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))
    paths = Paths.from_env({})
    assert paths.config_file == tmp_path / "CONFIG" / "beast" / "config.yaml"
    assert paths.models_dir == tmp_path / "DATA" / "beast" / "models"
    assert paths.state_dir == tmp_path / "STATE" / "beast"
    assert paths.logs_dir == paths.state_dir / "logs"
    assert paths.kv_dir == tmp_path / "CACHE" / "beast" / "kv"


@pytest.mark.parametrize(("folder_mode", "is_used"), [(0o700, True), (0o755, False), (None, False)])
def test_the_sessions_runtime_folder_is_used_if_it_is_private(tmp_path, folder_mode, is_used):
    """Without one the socket is at home, never in a place that others can write."""
    runtime = tmp_path / "r"
    if folder_mode is not None:
        runtime.mkdir()
        runtime.chmod(folder_mode)
    paths = Paths.from_env({"XDG_RUNTIME_DIR": str(runtime), "BEAST_SOCKET": "/s"})
    assert paths.run_dir == (runtime / "beast" if is_used else paths.state_dir / "run")


def test_a_socket_path_too_long_for_the_system_is_told():
    """Path, its length, the limit, and what to set; the longest that fits is taken."""
    fits = "/" + "s" * (MAX_SOCKET_PATH_BYTES - 1)
    assert Paths.from_env({"BEAST_HOME": "/b", "BEAST_SOCKET": fits}).socket == Path(fits)
    with pytest.raises(ConfigError) as caught:
        Paths.from_env({"BEAST_HOME": "/b", "BEAST_SOCKET": fits + "é"})
    n_bytes = MAX_SOCKET_PATH_BYTES + 2
    for part in (fits + "é", f"{n_bytes} bytes", f"allows {MAX_SOCKET_PATH_BYTES}", "BEAST_SOCKET"):
        assert part in caught.value.message


def test_the_run_dir_is_made_private(tmp_path):
    """A new one is 0700, and a loose one of ours is tightened."""
    path = tmp_path / "a" / "run"
    assert mode(ensure_run_dir(path)) == 0o700
    path.chmod(0o755)
    assert mode(ensure_run_dir(path)) == 0o700


def test_a_link_in_place_of_the_run_dir_is_refused(tmp_path):
    """Whoever made the link could lead the socket elsewhere."""
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="BEAST_HOME"):
        ensure_run_dir(tmp_path / "run")


@pytest.mark.parametrize("place", ["run", "."])
def test_a_run_dir_in_the_hands_of_another_user_is_refused(tmp_path, monkeypatch, place):
    """Neither the folder nor its parent may be somebody else's."""
    ensure_run_dir(tmp_path / "run")
    if os.getuid() == 0:
        os.chown(tmp_path / place, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: 12345)
    with pytest.raises(ConfigError, match="belongs to another user"):
        ensure_run_dir(tmp_path / "run")


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    """An OSError becomes a message with the folder."""
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=f"cannot create {tmp_path}/file/logs"):
        ensure_dir(tmp_path / "file" / "logs")
