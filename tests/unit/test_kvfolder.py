"""The folder of the KV disk tier: bounded over all who write there, private, and clean after a crash."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from beastd import kvfile, kvfolder
from beastd.kvfile import BadFile, Meta
from beastd.kvfolder import KVFolder

ONE = 1000 + kvfile.size_bytes(Meta(identity="00" * 20, label=""), b"\0" * 4, 0)
"""Bytes of one file of these tests."""


def write(folder: KVFolder, n: int, *, most_bytes: int = 3 * ONE) -> str | None:
    meta = Meta(identity=f"{n % 2:02x}" * 20, label="")
    return folder.write(meta, struct.pack(">I", n), memoryview(bytes(1000)), most_bytes=most_bytes)


def names(folder: KVFolder) -> list[str]:
    return [file.name for file in folder.files()]


def test_the_bound_holds_over_all_who_write(tmp_path: Path) -> None:
    """Two stores of one folder, two models: what was used last stays."""
    one, other = KVFolder(tmp_path / "kv"), KVFolder(tmp_path / "kv")
    written = [write(folder, n) for n, folder in enumerate((one, other) * 4)]
    for n, name in enumerate(written[-3:]):
        assert name
        os.utime(tmp_path / "kv" / name, (n, n))
    assert names(one) == names(other) == written[-3:]
    one.touch(written[-3] or "")
    last = write(other, 99)
    assert names(one) == [written[-1], written[-3], last]
    assert sum(file.size_bytes for file in one.files()) == 3 * ONE


def test_what_can_never_fit_removes_nothing(tmp_path: Path) -> None:
    """It is not written."""
    folder = KVFolder(tmp_path)
    kept = write(folder, 1)
    assert write(folder, 2, most_bytes=ONE - 1) is None
    assert names(folder) == [kept]


def test_the_same_entry_is_one_file(tmp_path: Path) -> None:
    """Written twice, it is there once."""
    folder = KVFolder(tmp_path)
    assert write(folder, 1) == write(folder, 1)
    assert len(folder.files()) == 1


def test_others_cannot_read_prompts(tmp_path: Path) -> None:
    """Neither the folder nor its files."""
    folder = KVFolder(tmp_path / "kv")
    name = write(folder, 1)
    assert (tmp_path / "kv").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "kv" / str(name)).stat().st_mode & 0o777 == 0o600


def test_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    """And what is not ours is left alone, and does not count."""
    folder = KVFolder(tmp_path)
    (tmp_path / "0000000000000000-00000000000000000000000000000000.kv.tmp").write_bytes(b"x")
    (tmp_path / "notes.txt").write_bytes(bytes(10 * ONE))
    name = write(folder, 1)
    assert sorted(it.name for it in tmp_path.iterdir()) == sorted([str(name), "lock", "notes.txt"])


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the disk is full."""
    folder = KVFolder(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kvfile, "write", fail)
    with pytest.raises(OSError, match="No space"):
        write(folder, 1)
    assert [it.name for it in tmp_path.iterdir()] == ["lock"]


def test_a_file_under_anothers_name_is_refused(tmp_path: Path) -> None:
    """A copy under another name is not that name's entry; a link is not followed."""
    folder = KVFolder(tmp_path)
    name = str(write(folder, 1))
    other = "0" * 16 + "-" + "0" * 32 + ".kv"
    (tmp_path / name).rename(tmp_path / other)
    with pytest.raises(BadFile):
        folder.header(other)
    (tmp_path / name).symlink_to(tmp_path / other)
    with pytest.raises(OSError, match="symbolic link"):
        folder.header(name)


def test_a_writer_that_does_not_end_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while the others do without."""
    monkeypatch.setattr(kvfolder, "LOCK_LIMIT_S", 0.0)
    folder = KVFolder(tmp_path)
    with folder._locked(), pytest.raises(TimeoutError, match="lock"):
        write(folder, 1)
    assert write(folder, 1)


def test_a_missing_folder_is_empty(tmp_path: Path) -> None:
    """Nothing has been kept yet."""
    assert KVFolder(tmp_path / "kv").files() == []


def test_what_is_no_regular_file_is_none_of_ours(tmp_path: Path) -> None:
    """A pipe would make its reader wait for ever."""
    folder = KVFolder(tmp_path)
    kept = write(folder, 1)
    pipe = f"{'0' * 16}-{'0' * 32}.kv"
    os.mkfifo(tmp_path / pipe)
    assert names(folder) == [kept]
    with pytest.raises(BadFile, match="no regular file"):
        folder.header(pipe)


def test_what_cannot_be_removed_stays_and_others_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And where that is not enough, nothing is written."""
    folder = KVFolder(tmp_path)
    stuck, other = write(folder, 1), write(folder, 2)
    for n, name in enumerate((stuck, other)):
        os.utime(tmp_path / str(name), (n, n))
    unlink = Path.unlink

    def failing(path: Path, *, missing_ok: bool = False) -> None:
        if path.name == stuck:
            raise PermissionError(path)
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", failing)
    last = write(folder, 3, most_bytes=2 * ONE)
    assert names(folder) == [stuck, last]
    assert write(folder, 4, most_bytes=ONE) is None
