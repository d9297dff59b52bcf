"""Bundles: a model comes out as it went in, and a bundle that is not sound changes nothing."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import tarfile
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shelf import Shelf, crashes

from beastd.errors import BadModel, BeastError, Cancelled, Conflict, DiskFull
from beastd.library.bundle import looks_like_bundle, read_bundle, unpack
from beastd.library.bundleformat import END, Entry, Index, blob_header, head, header, padding
from beastd.library.bundling import write_bundle
from beastd.library.desk import file_names
from beastd.registry.modelfile import Registered

ONE = "1" * 64


def quiet(progress) -> None:
    pass


def never() -> bool:
    return False


def export(shelf, name, target, variant=None) -> int:
    return write_bundle(shelf.get(name), variant, target, quiet, never)


def bring(bundle: Path, shelf) -> None:
    """Import as the daemon does."""
    fields = unpack(bundle, shelf.store, quiet, never)
    shelf.keeper.put(read_bundle(bundle).name, lambda _: fields)


def state(shelf) -> tuple[list[str], list[str], list[str]]:
    blobs = sorted(shelf.store.blobs())
    return shelf.names(), blobs, [path.name for path in shelf.store.partials()]


@pytest.fixture
def bundle(full_shelf, tmp_path) -> Path:
    path = tmp_path / "all.beast"
    export(full_shelf, "me/all:v1", path)
    return path


@pytest.fixture
def other(tmp_path) -> Shelf:
    """Another machine's models folder, empty."""
    return Shelf(tmp_path / "other")


# --- there and back ---


def test_a_model_comes_out_as_it_went_in(full_shelf, bundle, other):
    """Variants, shards, adapters, draft, projector and texts, wherever the files were; all are in the store then."""
    bring(bundle, other)
    was, now = full_shelf.get("me/all:v1"), other.get("me/all:v1")
    files = [[path.read_bytes() for path in paths] for _, paths in was.description.files()]
    assert [[path.read_bytes() for path in paths] for _, paths in now.description.files()] == files
    assert all(name.startswith("sha256:") for name in file_names(now.fields))
    assert (now.default.name, now.adapters["pirate"].scale, now.adapters["pirate"].is_applied) == ("f16", 0.5, True)
    for field in ("template", "system", "license", "parameters", "messages"):
        assert getattr(now.fields, field) == getattr(was.fields, field)
    assert other.store.partials() == []


def test_a_bundle_of_an_imported_model_is_the_same_file(bundle, other, tmp_path):
    """Nothing in it depends on the machine or the day."""
    bring(bundle, other)
    export(other, "me/all:v1", tmp_path / "again.beast")
    assert (tmp_path / "again.beast").read_bytes() == bundle.read_bytes()


def test_one_variant_is_exported_alone(full_shelf, tmp_path, other):
    """With what all variants need; the others need not even be there."""
    (full_shelf.outside / "f16.gguf").unlink()
    export(full_shelf, "me/all:v1", tmp_path / "one.beast", variant="split")
    bring(tmp_path / "one.beast", other)
    fields = other.get("me/all:v1").fields
    assert (list(fields.variants), fields.default, list(fields.adapters)) == (["split"], "split", ["pirate"])
    assert len(other.store.blobs()) == 5


def test_files_of_equal_content(shelf, tmp_path, other, gguf_bytes):
    """Two files that are the same come out as one blob."""
    a, b = (str(shelf.file(name, gguf_bytes)) for name in ("a.gguf", "b.gguf"))
    shelf.put("twins", variants={"a": a, "b": b})
    export(shelf, "twins", tmp_path / "twins.beast")
    bring(tmp_path / "twins.beast", other)
    assert len(other.store.blobs()) == 1
    assert len(set(other.get("twins").fields.variants.values())) == 1


def test_any_tar_reads_a_bundle(bundle, tmp_path):
    """So the files can be had without Beast."""
    with tarfile.open(bundle) as tar:
        names = tar.getnames()
        assert names[:2] == ["beast-bundle.json", "model.yaml"]
        assert all(member.isreg() for member in tar.getmembers())
    if shutil.which("tar"):
        listed = subprocess.run(["tar", "tf", bundle], capture_output=True, text=True, check=True)
        assert (listed.stdout.split(), listed.stderr) == (names, "")


@pytest.mark.parametrize("n_bytes", [0, 1, 8 * 2**30 - 1, 8 * 2**30, 9 * 2**40])
def test_sizes_beyond_8_gib_fit_a_header(n_bytes):
    """The format's octal digits end there."""
    block = header("blobs/x", n_bytes)
    assert (len(block), tarfile.TarInfo.frombuf(block, "ascii", "strict").size) == (512, n_bytes)


def test_progress_counts_every_byte_once(full_shelf, tmp_path, other):
    """Of all files together, so that one bar tells the whole."""
    told = []
    path = tmp_path / "all.beast"
    size = write_bundle(full_shelf.get("me/all:v1"), None, path, told.append, never)
    assert size == path.stat().st_size
    assert told[-1].completed == told[-1].total == sum(entry.bytes for entry, _ in read_bundle(path).files)
    told.clear()
    unpack(path, other.store, told.append, never)
    assert told[-1].completed == told[-1].total > 0


# --- export refused or cut off ---


def test_an_existing_file_is_not_overwritten(full_shelf, tmp_path):
    """Nor is a link that leads nowhere."""
    (tmp_path / "x.beast").write_bytes(b"mine")
    (tmp_path / "y.beast").symlink_to("nowhere")
    for name in ("x.beast", "y.beast"):
        with pytest.raises(Conflict, match="there already"):
            export(full_shelf, "small", tmp_path / name)
    assert (tmp_path / "x.beast").read_bytes() == b"mine"


def broken_exports(shelf):
    """What may be wrong with a file, and what is said of it."""
    outside = shelf.outside / "f16.gguf"
    blob = shelf.store.blob(shelf.get("small").fields.variants["q8_0"][7:])
    blob.chmod(0o644)
    return {
        "missing": (outside.unlink, "f16.gguf.*get the file"),
        "damaged": (lambda: blob.write_bytes(b"x" * blob.stat().st_size), "damaged"),
    }


@pytest.mark.parametrize("what", ["missing", "damaged"])
def test_a_model_that_is_not_whole_is_not_exported(full_shelf, tmp_path, what):
    """And nothing is left of the attempt."""
    spoil, message = broken_exports(full_shelf)[what]
    spoil()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BadModel, match=message):
        export(full_shelf, "me/all:v1", tmp_path / "x.beast")
    assert sorted(tmp_path.iterdir()) == before


def test_a_file_that_is_not_what_was_registered_is_not_exported(shelf, tmp_path):
    """It is another model now."""
    path = shelf.file("a.gguf", b"1")
    shelf.put("m", variants={"a": str(path), "b": shelf.blob(b"b")}, registered={str(path): Registered(2, 3)})
    with pytest.raises(BadModel, match="has changed"):
        export(shelf, "m", tmp_path / "x.beast")
    export(shelf, "m", tmp_path / "x.beast", variant="b")


def test_a_cancelled_export_leaves_nothing(full_shelf, tmp_path):
    """Between two pieces of a file."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(Cancelled):
        write_bundle(full_shelf.get("me/all:v1"), None, tmp_path / "x.beast", quiet, lambda: True)
    assert sorted(tmp_path.iterdir()) == before


def test_a_disk_that_cannot_hold_it_is_told_before_the_first_byte(shelf, tmp_path, other):
    """Sizes are known before."""
    path = shelf.file("huge.gguf", b"")
    os.truncate(path, 2**43)
    shelf.put("huge", variants={"a": str(path)})
    with pytest.raises(DiskFull, match=r"8796\.1 GB"):
        export(shelf, "huge", tmp_path / "x.beast")
    assert not list(tmp_path.glob("*x.beast*"))


@contextmanager
def small_disk():
    """No file of this process may grow beyond 4000 bytes: over before the test is, since its report may go to one."""
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, limit[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)


def test_a_disk_that_fills_up_leaves_nothing(full_shelf, bundle, other, tmp_path):
    """Neither of an export nor of an import."""
    before = sorted(tmp_path.iterdir())
    shutil.copy(full_shelf.outside / "f16.gguf", full_shelf.outside / "big.gguf")
    with (full_shelf.outside / "big.gguf").open("ab") as stream:
        stream.write(bytes(9000))
    full_shelf.put("big", variants={"a": str(full_shelf.outside / "big.gguf")})
    export(full_shelf, "big", tmp_path / "big.beast")
    with small_disk(), pytest.raises(DiskFull, match="cannot write"):
        export(full_shelf, "me/all:v1", tmp_path / "x.beast")
    with small_disk(), pytest.raises(DiskFull, match="cannot unpack"):
        unpack(tmp_path / "big.beast", other.store, quiet, never)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "big.beast"])
    assert state(other) == ([], [], [])


def test_an_export_killed_at_any_write_leaves_no_bundle(full_shelf, tmp_path):
    """The file is there whole or not at all, and the models are as they were."""
    target, before = tmp_path / "out" / "x.beast", full_shelf.contents()
    target.parent.mkdir()
    for _ in crashes(lambda: export(full_shelf, "me/all:v1", target)):
        if target.exists():
            assert read_bundle(target).name.short == "me/all:v1"
            target.unlink()
        assert full_shelf.contents() == before
    assert looks_like_bundle(target)


# --- import refused or cut off ---


def test_an_import_killed_at_any_write_leaves_no_model(full_shelf, bundle, other, gguf_bytes):
    """Blobs that are there are right; a second try brings the rest."""
    before = full_shelf.contents()
    for _ in crashes(lambda: bring(bundle, other)):
        assert other.contents() == {} or other.get("me/all:v1").problems == ()
    assert other.contents()["me/all:v1"][1] == before["me/all:v1"][1]


def test_what_is_here_already_is_not_unpacked_again(bundle, other):
    """A second import has nothing to write."""
    bring(bundle, other)
    told = []
    unpack(bundle, other.store, told.append, never)
    assert told == []


def test_a_cancelled_import_leaves_nothing(bundle, other):
    """Neither a blob nor a partial."""
    with pytest.raises(Cancelled):
        unpack(bundle, other.store, quiet, lambda: True)
    assert state(other) == ([], [], [])


def test_a_bundle_changed_anywhere_is_refused(bundle, other, tmp_path):
    """Each byte counts: of the frame at once, of a file when it is unpacked. Nothing gets into the store."""
    sound = bundle.read_bytes()
    spoiled = tmp_path / "spoiled.beast"
    for at in range(0, len(sound), 29):
        spoiled.write_bytes(sound[:at] + bytes([sound[at] ^ 0x41]) + sound[at + 1 :])
        with pytest.raises(BadModel):
            unpack(spoiled, other.store, quiet, never)
    assert state(other) == ([], [], [])


def test_a_bundle_cut_off_anywhere_is_refused(bundle, other, tmp_path):
    """And one with something after its end."""
    sound = bundle.read_bytes()
    spoiled = tmp_path / "spoiled.beast"
    for data in [*(sound[:n] for n in range(0, len(sound), 211)), sound[:-1], sound + bytes(512), sound + sound]:
        spoiled.write_bytes(data)
        with pytest.raises(BadModel):
            read_bundle(spoiled)
    assert state(other) == ([], [], [])


def made(description: str = f"variants: {{a: sha256:{ONE}}}\n", model: str = "m", **changes) -> bytes:
    """A bundle of one file, sound but for its digest and what is said."""
    entry = Entry(ONE, 5)
    fields = {"format": 1, "model": model, "description_bytes": len(description.encode()), "files": [entry]}
    index = msgspec.structs.replace(Index(**fields), **changes)
    return head(index, description.encode()) + blob_header(entry) + b"12345" + padding(5) + END


LIES = {
    "traversal in the model's name": (made(model="../../x"), "not a model name"),
    "a variant in the model's name": (made(model="m@q8_0"), "more than a model's name"),
    "a later format": (made(format=2), "update Beast"),
    "format 0": (made(format=0), "not as Beast writes it"),
    "a file that the description does not name": (made(f"variants: {{a: sha256:{'2' * 64}}}\n"), "exactly the files"),
    "a path of this machine": (made(f"variants: {{a: sha256:{ONE}, b: /etc/passwd}}\n"), "exactly the files"),
    "a built-in file": (made(f"variants: {{a: sha256:{ONE}}}\ndraft: builtin:x.gguf\n"), "exactly the files"),
    "a base": (made(f"from: x\nvariants: {{a: sha256:{ONE}}}\n"), "beast create"),
    "an unknown field": (made(f"variants: {{a: sha256:{ONE}}}\nrun: rm\n"), "no field"),
    "a remembered file": (
        made(f"variants: {{a: sha256:{ONE}}}\nregistered: {{sha256:{ONE}: {{bytes: 5, modified_ns: 1}}}}\n"),
        "exactly the files",
    ),
    "no variant": (made("description: x\n"), "at least one"),
    "no YAML": (made("{"), "model.yaml line"),
    "a size beyond the file": (made(files=[Entry(ONE, 2**61)]), "cut off or changed"),
    "many huge sizes": (made(files=[Entry(ONE, 2**61)] * 9), "cut off or changed"),
    "files that are not there": (made(files=[Entry(ONE, 5)] * 5000), "cut off or changed"),
    "wrong content": (made(), "is damaged"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_bundle_that_lies_is_refused(lie, other, tmp_path):
    """With what is wrong, and no trace in the store."""
    data, message = LIES[lie]
    path = tmp_path / "x.beast"
    path.write_bytes(data)
    with pytest.raises(BadModel, match=message):
        unpack(path, other.store, quiet, never)
    assert state(other) == ([], [], [])


def raw_index(text: bytes) -> bytes:
    return header("beast-bundle.json", len(text)) + text + padding(len(text)) + END


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"null",
        b"\xff",
        b"{}",
        b'{"format":true}',
        b'{"format":1}',
        b"[" * 100_000,
        b'{"format":1,"model":"m","description_bytes":-1,"files":[]}',
        b'{"format":1,"model":"m","description_bytes":99999999,"files":[]}',
        b'{"format":1,"model":"m","description_bytes":0,"files":[],"more":1}',
        b'{"format":1,"model":"m","description_bytes":0,"files":[{"sha256":"../x","bytes":1}]}',
        b'{"format": 1,"model":"m","description_bytes":0,"files":[]}',
        b" " * (2**20 + 1),
    ],
)
def test_an_index_that_is_none_is_refused(text, tmp_path):
    """Whatever JSON it is, or is not."""
    path = tmp_path / "x.beast"
    path.write_bytes(raw_index(text))
    with pytest.raises(BadModel):
        read_bundle(path)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.FIFOTYPE]
)
def test_members_that_are_no_plain_files_are_refused(kind, bundle, tmp_path):
    """Headers are compared with what they must be."""
    data = bytearray(bundle.read_bytes())
    _, at = read_bundle(bundle).files[0]
    info = tarfile.TarInfo.frombuf(bytes(data[at - 512 : at]), "ascii", "strict")
    info.type, info.linkname = kind, "/etc/passwd"
    data[at - 512 : at] = info.tobuf(tarfile.GNU_FORMAT)
    (tmp_path / "x.beast").write_bytes(data)
    with pytest.raises(BadModel):
        read_bundle(tmp_path / "x.beast")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_nothing_but_a_typed_error_comes_of_a_spoiled_bundle(bundle, other, tmp_path, data):
    """Bytes written over, cut out or put in."""
    raw = bundle.read_bytes()
    start, end = sorted(data.draw(st.tuples(st.integers(0, len(raw)), st.integers(0, len(raw)))))
    path = tmp_path / "x.beast"
    path.write_bytes(raw[:start] + data.draw(st.binary(max_size=600)) + raw[end:])
    with contextlib.suppress(BadModel):
        unpack(path, other.store, quiet, never)
        assert path.read_bytes() == raw


def test_what_looks_like_a_bundle(bundle, tmp_path):
    """By its first block; nothing else is opened or waited for."""
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(600))
    os.mkfifo(tmp_path / "pipe")
    assert looks_like_bundle(bundle)
    assert not any(looks_like_bundle(tmp_path / name) for name in ("x.gguf", "pipe", "missing", "."))
    with pytest.raises(BeastError, match="cannot read"):
        read_bundle(tmp_path / "missing")
