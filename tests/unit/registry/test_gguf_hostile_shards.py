"""Split models made to harm their reader: shards that lie about each other, or are no files."""

from __future__ import annotations

import os

import pytest
from gguflies import spent

from beastd.errors import BadModel
from beastd.registry.cursor import MOST
from beastd.registry.gguf import read_header


def shard(g, no: object, n: object, name: str, total: object = 2, extra: list[bytes] | None = None) -> bytes:
    """One of several files; None leaves a key out."""
    said = {"split.no": ("u16", no), "split.count": ("u16", n), "split.tensors.count": ("i32", total)}
    pairs = [g.pair(key, kind, value) for key, (kind, value) in said.items() if value is not None]
    model = g.model() if no in {0, None} else []
    return g.file([*model, *pairs, *(extra or [])], [g.tensor(name, (64, 10))])


SHARDS = {
    "second counts one more": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, 3, "b")], "is not shard 2 of 2"),
    "second counts one less": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, 1, "b")], "is not shard 2 of 2"),
    "second counts none": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, 0, "b")], "is not shard 2 of 2"),
    "second does not count": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, None, "b")], "is not shard 2 of 2"),
    "first counts one more": (lambda g: [shard(g, 0, 3, "a"), shard(g, 1, 3, "b")], "one of 3 files"),
    "first counts itself alone": (lambda g: [shard(g, 0, 1, "a"), shard(g, 1, 2, "b")], "one of 1 files"),
    "first counts 65535": (lambda g: [shard(g, 0, 65535, "a"), shard(g, 1, 65535, "b")], "one of 65535 files"),
    "first counts nothing": (lambda g: [shard(g, 0, None, "a"), shard(g, 1, 2, "b")], "one of 1 files"),
    "both are the first": (lambda g: [shard(g, 0, 2, "a"), shard(g, 0, 2, "b")], "is not shard 2 of 2"),
    "both are the second": (lambda g: [shard(g, 1, 2, "a"), shard(g, 1, 2, "b")], "is not shard 1 of 2"),
    "swapped": (lambda g: [shard(g, 1, 2, "a"), shard(g, 0, 2, "b")], "is not shard 1 of 2"),
    "second is number 65535": (lambda g: [shard(g, 0, 2, "a"), shard(g, 65535, 2, "b")], "is not shard 2 of 2"),
    "first has no number": (lambda g: [shard(g, None, 2, "a"), shard(g, 1, 2, "b")], "is not shard 1 of 2"),
    "second has no number": (lambda g: [shard(g, 0, 2, "a"), shard(g, None, 2, "b")], "is not shard 2 of 2"),
    "number of another type": (
        lambda g: [shard(g, 0, 2, "a"), shard(g, None, 2, "b", extra=[g.pair("split.no", "u32", 1)])],
        "'split.no' is of type u32",
    ),
    "a tensor in both": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, 2, "a")], "the same tensor"),
    "one tensor less than said": (lambda g: [shard(g, 0, 2, "a", 3), shard(g, 1, 2, "b", 3)], "hold 2 tensors"),
    "one tensor more than said": (lambda g: [shard(g, 0, 2, "a", 1), shard(g, 1, 2, "b", 1)], "hold 2 tensors"),
    "-1 tensors said": (lambda g: [shard(g, 0, 2, "a", -1), shard(g, 1, 2, "b", -1)], "hold 2 tensors"),
    "tensors not counted": (lambda g: [shard(g, 0, 2, "a", None), shard(g, 1, 2, "b", None)], "hold 2 tensors"),
    "second is empty": (lambda g: [shard(g, 0, 2, "a"), b""], "00002-of-00002.gguf is not a GGUF file"),
    "second is big-endian": (lambda g: [shard(g, 0, 2, "a"), g.file(version=3 << 24)], "is a big-endian GGUF"),
    "second is cut short": (lambda g: [shard(g, 0, 2, "a"), shard(g, 1, 2, "b")[:-63_000]], "00002.gguf: .* cut short"),
    "second is missing": (lambda g: [shard(g, 0, 2, "a")], "00002-of-00002.gguf does not exist or is not a file"),
}


@pytest.mark.parametrize("name", SHARDS)
def test_shards_that_lie_are_refused(gguf, tmp_path, name):
    """Each shard is held to its name, its siblings, and what the first one says of all."""
    write, problem = SHARDS[name]
    for no, raw in enumerate(write(gguf), 1):
        (tmp_path / f"m-{no:05d}-of-00002.gguf").write_bytes(raw)
    with pytest.raises(BadModel, match=problem):
        read_header(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize("name", ["m-00000-of-00002", "m-00002-of-00002", "m-00001-of-00000", "m-00001-of-99999"])
def test_names_of_shards_that_cannot_be_are_refused(gguf, tmp_path, name):
    """A name alone makes the reader open no file but the first, and at most 1000."""
    path = tmp_path / f"{name}.gguf"
    path.write_bytes(shard(gguf, 0, 2, "a"))
    with pytest.raises(BadModel, match="is not the first of a split model's files"):
        read_header(path)


@pytest.mark.parametrize("kind", ["folder", "pipe", "dangling link", "link to itself", "device"])
def test_what_is_no_file_is_not_read(gguf, tmp_path, kind):
    """A pipe or a device in a shard's place would be read for ever."""
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(shard(gguf, 0, 2, "a"))
    second = tmp_path / "m-00002-of-00002.gguf"
    targets = {"dangling link": tmp_path / "none", "link to itself": second, "device": "/dev/zero"}
    if kind == "folder":
        second.mkdir()
    elif kind == "pipe":
        os.mkfifo(second)
    else:
        second.symlink_to(targets[kind])
    with pytest.raises(BadModel, match="does not exist or is not a file"):
        read_header(tmp_path / "m-00001-of-00002.gguf")


@pytest.mark.parametrize(
    ("resource", "extra"),
    [
        ("metadata entries", []),
        ("tensors", []),
        ("kept text bytes", []),
        ("strings", [("words", "str", ["x"] * 2000)]),
        ("kept elements", [("words", "u8", [1] * 1000)]),
    ],
)
def test_all_shards_together_have_one_allowance(gguf, tmp_path, monkeypatch, resource, extra):
    """A thousand shards cannot cost a thousand times what one may."""
    raws = [shard(gguf, no, 2, f"t{no}", extra=[gguf.array(*it) for it in extra]) for no in range(2)]
    for no, raw in enumerate(raws, 1):
        (tmp_path / f"m-{no:05d}-of-00002.gguf").write_bytes(raw)
    used = sum(spent(raw, resource) for raw in raws)
    monkeypatch.setitem(MOST, resource, used)
    read_header(tmp_path / "m-00001-of-00002.gguf")
    monkeypatch.setitem(MOST, resource, used - 1)
    with pytest.raises(BadModel, match=f"00002-of-00002.gguf: .* more than {used - 1} {resource}"):
        read_header(tmp_path / "m-00001-of-00002.gguf")
