"""Moving the models folder: at any moment one of the two places is whole, and it is the one in force."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from shelf import Shelf, crashes

from beastd.errors import BadModel, BeastError, Cancelled, Conflict, DiskFull, ReadOnly
from beastd.library.moveplan import MARK
from beastd.library.moving import move_store


def quiet(progress) -> None:
    pass


def never() -> bool:
    return False


class Pointer:
    """Says which folder is in force, as the configuration does."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._path.write_text(str(folder))

    def set(self, folder: Path) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(str(folder))
        new.replace(self._path)

    @property
    def folder(self) -> Path:
        return Path(self._path.read_text())


@pytest.fixture
def pointer(tmp_path, full_shelf) -> Pointer:
    return Pointer(tmp_path / "pointer", full_shelf.root)


@pytest.fixture
def target(tmp_path) -> Path:
    return tmp_path / "elsewhere" / "models"


@pytest.fixture
def far():
    """A folder on another file system."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("there is no second file system here")
    folder = Path(tempfile.mkdtemp(dir=memory))
    yield folder / "models"
    shutil.rmtree(folder)


@pytest.fixture
def no_links(monkeypatch):
    """As on another file system."""

    def refuse(*args, **more):
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(os, "link", refuse)


def move(shelf, target, pointer=None, report=quiet, is_cancelled=never) -> int:
    commit = (lambda: pointer.set(target)) if pointer else lambda: None
    return move_store(shelf.root, target, commit, report, is_cancelled)


def snapshot(root: Path) -> dict[str, object]:
    """All that is below a folder but the lock, with modes and times."""
    found: dict[str, object] = {}
    for path in sorted(root.rglob("*")):
        stat, name = path.lstat(), str(path.relative_to(root))
        if path.is_symlink():
            found[name] = path.readlink()
        elif path.is_dir():
            found[name] = stat.st_mode
        elif name != ".lock":
            found[name] = (stat.st_mode, stat.st_mtime_ns, path.read_bytes())
    return found


def check_moved(shelf, target, before, contents) -> None:
    assert not shelf.root.exists()
    assert snapshot(target) == before
    assert shelf.use(target).contents() == contents


# --- moved ---


def test_everything_moves_within_a_file_system(full_shelf, target, pointer):
    """Without copying: the files are the same ones."""
    inodes = {path.name: path.stat().st_ino for path in (full_shelf.root / ".blobs").iterdir()}
    full_shelf.store.partial("url-1").write_bytes(b"12345")
    (full_shelf.root / "x.gguf").symlink_to(full_shelf.outside / "f16.gguf")
    (full_shelf.root / "private").mkdir(mode=0o700)
    before, contents = snapshot(full_shelf.root), full_shelf.contents()
    n_bytes = move(full_shelf, target, pointer)
    check_moved(full_shelf, target, before, contents)
    assert {path.name: path.stat().st_ino for path in (target / ".blobs").iterdir()} == inodes
    assert n_bytes == sum(len(it[2]) for it in before.values() if isinstance(it, tuple))
    assert pointer.folder == target


def test_everything_moves_to_another_file_system(full_shelf, far, pointer):
    """With modes and times; the blobs are verified on the way."""
    before, contents = snapshot(full_shelf.root), full_shelf.contents()
    told = []
    move(full_shelf, far, pointer, told.append)
    check_moved(full_shelf, far, before, contents)
    assert told[-1].completed == told[-1].total > 0


def test_an_empty_folder_is_a_target_and_stays_itself(full_shelf, target):
    """It may be where a disk is mounted."""
    target.mkdir(parents=True)
    inode = target.stat().st_ino
    before, contents = snapshot(full_shelf.root), full_shelf.contents()
    move(full_shelf, target)
    check_moved(full_shelf, target, before, contents)
    assert target.stat().st_ino == inode


def test_a_folder_that_was_never_made_moves(tmp_path, target):
    """Before the first model."""
    assert move(Shelf(tmp_path), target) == 0
    assert list(target.iterdir()) == []


def test_what_changes_meanwhile_comes_after(full_shelf, target, no_links):
    """A model made, one removed and one edited while files were copied are so at the new place."""

    def meddle(progress) -> None:
        if not (full_shelf.root / "late.yaml").exists():
            full_shelf.put("late", variants={"a": full_shelf.blob(b"late")})
            full_shelf.put("me/all:v1", variants={"a": str(full_shelf.outside / "f16.gguf")})
            (full_shelf.root / "small.yaml").unlink()

    move(full_shelf, target, report=meddle)
    full_shelf.use(target)
    assert full_shelf.names() == ["late:latest", "me/all:v1"]
    assert list(full_shelf.get("me/all:v1").fields.variants) == ["a"]
    assert not full_shelf.root.exists()


def test_the_target_of_a_link_moves(full_shelf, tmp_path, target):
    """A models folder may be a link to where there is room."""
    full_shelf.root.rename(tmp_path / "big")
    full_shelf.root.symlink_to("big")
    contents = full_shelf.contents()
    move(full_shelf, target)
    assert not (tmp_path / "big").exists()
    assert full_shelf.use(target).contents() == contents


def test_what_cannot_be_removed_is_told(full_shelf, target, monkeypatch):
    """The move holds nevertheless."""
    told, contents, rmdir = [], full_shelf.contents(), os.rmdir

    def busy(path, **more):
        if Path(path) == full_shelf.root:
            raise OSError(errno.EBUSY, "mounted")
        rmdir(path, **more)

    monkeypatch.setattr(os, "rmdir", busy)
    move(full_shelf, target, report=told.append)
    assert str(full_shelf.root) in told[-1].status
    assert list(full_shelf.root.iterdir()) == []
    assert full_shelf.use(target).contents() == contents


# --- refused: nothing has changed ---


@pytest.fixture
def unchanged(full_shelf):
    """What a refused move must not have touched."""
    before = snapshot(full_shelf.root)
    yield
    assert snapshot(full_shelf.root) == before


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("place", [".", "inside", "..", "../outside"])
def test_a_target_that_is_taken_or_inside_is_refused(full_shelf, place):
    """Nothing is ever moved into itself or over something."""
    with pytest.raises(Conflict):
        move(full_shelf, Path(os.path.normpath(full_shelf.root / place)))
    assert not (full_shelf.root / "inside").exists()


@pytest.mark.usefixtures("no_links")
def test_a_damaged_blob_is_refused_by_name(full_shelf, target):
    """A copy must not spread it; the old folder stays."""
    blob = full_shelf.store.blob(full_shelf.get("small").fields.variants["q8_0"][7:])
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    before = snapshot(full_shelf.root)
    with pytest.raises(BadModel, match=f"{blob.name} is damaged"):
        move(full_shelf, target)
    assert snapshot(full_shelf.root) == before
    assert not target.exists()


@pytest.mark.usefixtures("no_links", "unchanged")
@pytest.mark.parametrize("was_there", [False, True])
def test_a_cancelled_move_leaves_nothing(full_shelf, target, was_there):
    """A folder that was there is empty again."""
    if was_there:
        target.mkdir(parents=True)
    n_asked = iter(range(1000))
    with pytest.raises(Cancelled):
        move(full_shelf, target, is_cancelled=lambda: next(n_asked) >= 3)
    assert list(target.iterdir()) == [] if was_there else not target.exists()


@pytest.mark.usefixtures("no_links")
def test_a_disk_that_cannot_hold_it_is_told_before_the_first_byte(full_shelf, target):
    """Sizes are known before."""
    full_shelf.store.partial("huge").touch()
    os.truncate(full_shelf.store.partial("huge"), 2**43)
    told = []
    with pytest.raises(DiskFull, match="8796"):
        move(full_shelf, target, report=told.append)
    assert (told, target.exists()) == ([], False)


def test_a_commit_that_fails_leaves_both_whole(full_shelf, target):
    """Whether the configuration was written is not known then; the message says what may be removed."""
    contents = full_shelf.contents()

    def fail() -> None:
        raise ReadOnly("cannot write config.yaml")

    with pytest.raises(ReadOnly, match=r"cannot write config\.yaml") as refusal:
        move_store(full_shelf.root, target, fail, quiet, never)
    assert f"its copy {target} may be removed" in refusal.value.message
    assert full_shelf.contents() == contents
    assert full_shelf.use(target).contents() == contents


@pytest.mark.parametrize(
    "path",
    ["../outside/f16.gguf", "{root}/beside.gguf", "{root}/.blobs/sha256-" + "1" * 64],
)
def test_paths_that_a_move_would_break_are_refused_by_name(full_shelf, target, path):
    """Relative ones that lead out of the folder, and absolute ones into it."""
    (full_shelf.root / "hand.yaml").write_text(f"variants: {{a: {path.format(root=full_shelf.root)}}}\n")
    with pytest.raises(Conflict, match=r"hand\.yaml: .*beast edit"):
        move(full_shelf, target)
    assert not target.exists()


def test_paths_that_a_move_keeps_are_taken(full_shelf, target):
    """Relative ones inside the folder, absolute ones outside, and whatever a broken description says."""
    (full_shelf.root / "files").mkdir()
    (full_shelf.root / "files" / "x.gguf").write_bytes(b"x")
    outside = full_shelf.outside / "f16.gguf"
    (full_shelf.root / "ns").mkdir()
    (full_shelf.root / "ns" / "hand.yaml").write_text(f"variants: {{a: ../files/x.gguf, b: {outside}}}\n")
    contents = full_shelf.contents()
    (full_shelf.root / "broken.yaml").write_text("variants: [../../x\n")
    move(full_shelf, target)
    full_shelf.use(target)
    (target / "broken.yaml").unlink()
    assert full_shelf.contents() == contents


@pytest.mark.parametrize("text", ["../outside/f16.gguf", "{root}/.blobs"])
def test_links_that_a_move_would_break_are_refused(full_shelf, target, text):
    """As paths in descriptions are."""
    (full_shelf.root / "x.gguf").symlink_to(text.format(root=full_shelf.root))
    with pytest.raises(Conflict, match=r"x\.gguf"):
        move(full_shelf, target)


def test_an_absolute_path_through_a_link_to_the_folder_is_seen(full_shelf, tmp_path, target):
    """It leads into the folder by another name."""
    (tmp_path / "link").symlink_to(full_shelf.root)
    (full_shelf.root / "hand.yaml").write_text(f"variants: {{a: {tmp_path}/link/x.gguf}}\n")
    with pytest.raises(Conflict, match=r"hand\.yaml"):
        move(full_shelf, target)


def test_what_is_no_file_is_refused(full_shelf, target):
    """A pipe cannot be moved, and would be lost."""
    os.mkfifo(full_shelf.root / "pipe")
    with pytest.raises(Conflict, match="pipe is no file"):
        move(full_shelf, target)


# --- cut off ---


@pytest.mark.parametrize("can_link", [True, False], ids=["links", "copies"])
def test_a_move_killed_at_any_write_leaves_one_place_whole(full_shelf, target, pointer, can_link, tmp_path):
    """And it is the place in force. What was not committed yet goes through when it is asked for again."""
    contents, before = full_shelf.contents(), snapshot(full_shelf.root)
    source, keep = full_shelf.root, tmp_path / "keep"
    shutil.copytree(source, keep)
    n_old = n_new = 0
    for _ in crashes(lambda: move(full_shelf, target, pointer), can_link=can_link):
        is_new = pointer.folder == target
        n_old, n_new = n_old + (not is_new), n_new + is_new
        assert full_shelf.use(pointer.folder).contents() == contents
        if not is_new:
            if target.exists() and not (target / MARK).exists() and any(target.iterdir()):  # whole, but not committed
                shutil.rmtree(target)
            move(full_shelf, target, pointer)
        assert snapshot(target) == before
        for folder in (source, target):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(keep, source)
        pointer.set(source)
    assert (n_old > 20, n_new > 5) == (True, True)
    check_moved(full_shelf, target, before, contents)


def test_only_what_a_move_of_the_same_folder_left_is_cleared(full_shelf, target):
    """Another folder's is somebody's."""
    target.mkdir(parents=True)
    (target / MARK).write_text("/some/other/models\n")
    (target / "x.yaml").write_text("variants: {}\n")
    with pytest.raises(Conflict, match="not empty"):
        move(full_shelf, target)
    assert (target / "x.yaml").exists()
    (target / MARK).write_text(f"{full_shelf.root}\n")
    move(full_shelf, target)
    assert not (target / "x.yaml").exists()


@pytest.mark.parametrize("n_bytes", [0, 5])
def test_a_torn_mark_is_no_hindrance(full_shelf, target, n_bytes):
    """A move was cut off in its first write."""
    target.mkdir(parents=True)
    (target / MARK).write_text(str(full_shelf.root)[:n_bytes])
    move(full_shelf, target)
    assert not (target / MARK).exists()


def test_an_old_folder_is_removed_descriptions_first(full_shelf, target, tmp_path):
    """What a kill leaves of it shows no model whose blobs are gone."""
    keep, n_left = tmp_path / "keep", []
    shutil.copytree(full_shelf.root, keep)
    for _ in crashes(lambda: move(full_shelf, target)):
        if full_shelf.root.exists():
            assert full_shelf.registry.list().problems == []
            n_left.append(len(full_shelf.names()))
        for folder in (full_shelf.root, target):
            shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(keep, full_shelf.root)
    assert {0, 1, 2} == set(n_left)


def test_errors_of_the_system_are_told_in_words(full_shelf, tmp_path):
    """Not as a traceback."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BeastError, match=r"cannot move .*: Not a directory|cannot move .*: File exists"):
        move(full_shelf, tmp_path / "file" / "models")
