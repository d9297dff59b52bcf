"""Changing the models folder: what is there afterwards, also when the change is cut off at any of its writes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import dying
import pytest
from dying import NEW, OLD

from beastd.errors import BadRequest, BeastError, Conflict, ModelNotFound, ReadOnly
from beastd.registry.keeper import Keeper
from beastd.registry.modelfile import AdapterFields, Fields, dump
from beastd.registry.names import parse_name
from beastd.registry.registry import Registry
from beastd.registry.store import Store

MAX_WRITES = 60


class Folder:
    """A models folder under a root, with a keeper over it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.store = Store(root / "models")
        self.registry = Registry([self.store.root, root / "shared"], root / "facts.json", root / "builtin")
        self.oldest_job_s = float("inf")
        self.keeper = Keeper(self.registry, self.store, lambda: self.oldest_job_s)

    def blob(self, content: bytes) -> str:
        """Keep a blob; returns what descriptions call it."""
        file = self.store.partial("came")
        file.write_bytes(content)
        digest = sha256(content).hexdigest()
        self.store.keep(file, digest)
        return f"sha256:{digest}"

    def state(self) -> dict[str, tuple[str, ...]]:
        """Model → the content of its variants' files. Every model must be sound, every blob what its name says."""
        for digest in self.store.blobs():
            assert sha256(self.store.blob(digest).read_bytes()).hexdigest() == digest
        listing = self.registry.list()
        assert listing.problems == []
        return {
            model.name.short: tuple(path.read_text() for it in model.variants.values() for path in it.files)
            for model in listing.models
        }


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


def test_a_model_is_put_found_and_removed(folder):
    """Its blob is shared while two models name it, and goes with the last."""
    blob = folder.blob(b"one")
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": blob}))
    folder.keeper.copy(folder.registry.get(parse_name("a")), parse_name("ns/b:v1"))
    assert folder.state() == {"a": ("one",), "ns/b:v1": ("one",)}
    assert (folder.store.root / "ns" / "b" / "v1.yaml").is_file()
    assert folder.keeper.remove(parse_name("A")) == 0
    assert folder.keeper.remove(parse_name("ns/b:v1")) == 3
    assert folder.state() == {}
    assert folder.store.blobs() == {}
    assert [path for path in folder.store.root.rglob("*") if not path.name.startswith(".")] == []


def test_a_blob_that_work_under_way_may_have_brought_stays(folder):
    """Between its coming and the description that names it, nothing removes it."""
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": folder.blob(b"one")}))
    folder.oldest_job_s = 0.0
    assert folder.keeper.remove(parse_name("a")) == 0
    assert len(folder.store.blobs()) == 1


def test_a_broken_model_keeps_its_blobs_and_can_be_removed(folder):
    """A typo in one description must not cost a download."""
    blob = folder.blob(b"one")
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": blob}))
    (folder.store.root / "broken.yaml").write_text(f"variants: {{q: '{blob}'\n")
    folder.keeper.remove(parse_name("a"))
    assert len(folder.store.blobs()) == 1
    folder.keeper.remove(parse_name("broken"))
    assert folder.store.blobs() == {}


def test_names_that_differ_in_case_alone_are_one_model(folder):
    """On a disk that ignores case they would be one file."""
    blob = folder.blob(b"one")
    folder.keeper.put(parse_name("Me/Model"), lambda _: Fields(variants={"q": blob}))
    folder.keeper.put(parse_name("me/MODEL"), lambda _: Fields(variants={"q": blob}, system="New"))
    folder.keeper.put(parse_name("me/other"), lambda _: Fields(variants={"q": blob}))
    assert sorted(folder.state()) == ["Me/Model", "Me/other"]
    assert folder.registry.get(parse_name("ME/model")).fields.system == "New"
    with pytest.raises(Conflict, match="there is a model 'ME/OTHER' already"):
        folder.keeper.copy(folder.registry.get(parse_name("me/model")), parse_name("ME/OTHER"))


def test_what_is_not_ones_own_is_not_changed(folder):
    """Built-in and shared models say how to get a copy; the copy names the same files."""
    blob = folder.blob(b"one")
    (folder.root / "shared").mkdir()
    (folder.root / "builtin").mkdir()
    (folder.root / "shared" / "s.yaml").write_text(f"variants: {{q: '{blob}'}}")
    (folder.root / "builtin" / "b.yaml").write_text("variants: {q: b.gguf}\nadapters: {l: b.gguf}")
    (folder.root / "builtin" / "b.gguf").write_bytes(b"two")
    for name in ("s", "b"):
        with pytest.raises(ReadOnly, match=f"beast cp {name} NAME"):
            folder.keeper.remove(parse_name(name))
        folder.keeper.copy(folder.registry.get(parse_name(name)), parse_name(f"my-{name}"))
    assert folder.state() == {"b": ("two",), "my-b": ("two",), "s": ("one",), "my-s": ("one",)}
    mine = folder.registry.get(parse_name("my-b")).fields
    assert (mine.variants, mine.adapters) == ({"q": "builtin:b.gguf"}, {"l": AdapterFields("builtin:b.gguf")})


def test_what_cannot_be_a_model_is_refused_and_nothing_is_written(folder):
    """The old state stays."""
    with pytest.raises(BadRequest, match=r"may not end in \.yaml"):
        folder.keeper.put(parse_name("x.yaml/y"), lambda _: Fields(variants={"q": folder.blob(b"one")}))
    with pytest.raises(BeastError, match="is not there"):
        folder.keeper.put(parse_name("y"), lambda _: Fields(variants={"q": f"sha256:{'0' * 64}"}))
    with pytest.raises(ModelNotFound):
        folder.keeper.remove(parse_name("y"))
    assert folder.state() == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_another_user_is_told_as_such(folder):
    """Permissions are the usual reason."""
    folder.store.root.mkdir()
    folder.store.root.chmod(0o555)
    with pytest.raises(ReadOnly, match="cannot be changed"):
        folder.keeper.put(parse_name("y"), lambda _: Fields(variants={"q": "builtin:x"}))


BEFORE = {"me/model": ("old",)}
AFTER = {
    "create": BEFORE | {"Host/ns/other:tag": ("old",)},
    "replace": {"me/model": ("new file",)},
    "copy": BEFORE | {"me/copy": ("old",)},
    "remove": {},
}


@pytest.fixture(scope="module")
def ready(tmp_path_factory) -> Path:
    """A root with one model, and a second file that may become another's."""
    root = tmp_path_factory.mktemp("ready")
    folder = Folder(root)
    folder.keeper.put(parse_name("me/model"), lambda _: Fields(variants={"q": folder.blob(OLD)}))
    folder.blob(NEW)
    folder.store.partial("came").write_bytes(NEW)
    return root


@pytest.mark.parametrize("verb", AFTER)
def test_a_kill_at_any_write_leaves_the_old_state_or_the_new(ready, tmp_path, verb):
    """Then asking again gives the new one, and nothing is left over that prune would not see."""
    for nth in range(1, MAX_WRITES):
        root = tmp_path / f"{verb}-{nth}"
        shutil.copytree(ready, root)
        status = _change(root, verb, nth)
        folder = Folder(root)
        assert folder.state() in (BEFORE, AFTER[verb])
        if status == 0:
            assert nth > 6
            assert folder.state() == AFTER[verb]
            return
        assert status == -signal.SIGKILL
        if folder.state() == BEFORE:
            assert _change(root, verb, MAX_WRITES) == 0
        assert folder.state() == AFTER[verb]
        shutil.rmtree(root)
    raise AssertionError(f"{verb} never ended")


def test_a_kill_while_a_finished_file_is_kept_leaves_it_aside_or_kept(ready, tmp_path):
    """Never a blob that is not whole."""
    digest = sha256(NEW).hexdigest()
    for nth in range(1, MAX_WRITES):
        root = tmp_path / str(nth)
        shutil.copytree(ready, root)
        folder = Folder(root)
        folder.store.drop(digest)
        status = _change(root, "keep", nth)
        assert folder.state() == BEFORE
        assert (digest in folder.store.blobs()) != folder.store.partial("came").exists()
        if status == 0:
            assert nth > 3
            assert digest in folder.store.blobs()
            return
    raise AssertionError("it never ended")


def _change(root: Path, verb: str, nth: int) -> int:
    command = [sys.executable, dying.__file__, str(root), verb, str(nth)]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.stderr == ""
    return run.returncode


def test_a_description_too_long_to_be_read_back_is_not_written(folder):
    """The sound model that was there stays."""
    blob = folder.blob(b"one")
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": blob}))
    long = Fields(variants={"q": blob}, system="x" * 300_000)
    with pytest.raises(BadRequest, match="would have 300"):
        folder.keeper.put(parse_name("a"), lambda _: long)
    with pytest.raises(BadRequest, match="at most"):
        folder.keeper.write_text(folder.registry.place(parse_name("a")), dump(long), None)
    assert folder.state() == {"a": ("one",)}


def test_what_cannot_be_read_keeps_every_blob(folder):
    """Nobody knows what it mentions; a pipe hangs nothing."""
    blob = folder.blob(b"one")
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": blob}))
    os.mkfifo(folder.store.root / "pipe.yaml")
    assert folder.keeper.remove(parse_name("a")) == 0
    with pytest.raises(BeastError, match=r"cannot read .*pipe\.yaml"):
        folder.keeper.references()
    assert len(folder.store.blobs()) == 1
    assert folder.keeper.remove(parse_name("pipe")) == 0


def test_links_to_folders_are_neither_listed_nor_written_through(folder, tmp_path):
    """Else their models' blobs would be nobody's."""
    (tmp_path / "disk").mkdir()
    folder.store.root.mkdir()
    (folder.store.root / "work").symlink_to(tmp_path / "disk")
    with pytest.raises(Conflict, match="is a link"):
        folder.keeper.put(parse_name("work/m"), lambda _: Fields(variants={"q": folder.blob(b"one")}))
    (tmp_path / "disk" / "m").mkdir()
    (tmp_path / "disk" / "m" / "latest.yaml").write_text("variants: {q: x.gguf}")
    assert not folder.registry.has(parse_name("work/m"))


def test_an_edit_of_what_has_changed_since_is_refused(folder):
    """What was made meanwhile is not lost."""
    one, two = folder.blob(b"one"), folder.blob(b"two")
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": one}))
    place = folder.registry.place(parse_name("a"))
    was = place.path.read_text()
    folder.keeper.put(parse_name("a"), lambda _: Fields(variants={"q": one, "r": two}))
    with pytest.raises(Conflict, match="changed meanwhile"):
        folder.keeper.write_text(place, was + "system: Hi\n", was)
    now = place.path.read_text()
    folder.keeper.write_text(place, now + "system: Hi\n", now)
    assert folder.state() == {"a": ("one", "two")}


def test_what_was_remembered_of_a_file_goes_with_it(folder, tmp_path):
    """A description that replaces a file never fails for what the old one left."""
    outside = tmp_path / "x.gguf"
    outside.write_bytes(b"one")
    stale = Fields(variants={"q": str(outside)}, sha256={str(outside): "ab" * 32, "/gone.gguf": "cd" * 32})
    model = folder.keeper.put(parse_name("a"), lambda _: stale)
    assert model.fields.sha256 == {str(outside): "ab" * 32}


def test_a_blob_with_a_second_name_is_not_trusted(folder, tmp_path):
    """Who has the other name may have changed it: the verified file takes its place."""
    digest = sha256(b"one").hexdigest()
    (tmp_path / "original").write_bytes(b"one")
    os.link(tmp_path / "original", folder.store.partial("came"))
    folder.store.keep(folder.store.partial("came"), digest)
    (tmp_path / "original").write_bytes(b"changed")
    assert not folder.store.claim(digest)
    folder.blob(b"one")
    assert folder.store.blob(digest).read_bytes() == b"one"
    assert folder.store.claim(digest)
    assert (tmp_path / "original").stat().st_mode & 0o200
