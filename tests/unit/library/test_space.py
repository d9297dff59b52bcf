"""Space: who takes how much, and nothing that is needed is ever removed."""

from __future__ import annotations

import os
import time

import pytest

from beastd.errors import ReadOnly
from beastd.fetch.partial import claim
from beastd.library.space import prunable, prune, usage

DAY_S = 86400.0
LATER_S = 10 * DAY_S
"""Passed since everything in these tests was written."""


def found(shelf, *, passed_s=LATER_S, job_began_s=None, partial_age_s=7 * DAY_S):
    now = time.time() + passed_s
    began = now if job_began_s is None else job_began_s
    references = shelf.keeper.references()
    return prunable(shelf.store, references, older_than_s=began, partial_age_s=partial_age_s, now=now)


def pruned(shelf, removals):
    return prune(removals, shelf.store, shelf.keeper.references)


# --- usage ---


def test_shared_own_and_outside_files_are_told_apart(full_shelf, gguf_bytes):
    """A blob that two models name is shared; a file counts once in a model, however often it is named."""
    n = len(gguf_bytes)
    told = usage(full_shelf.registry.list().models, full_shelf.store, full_shelf.keeper.references())
    models = {it.name: (it.own_bytes, it.shared_bytes, it.outside_bytes) for it in told.models}
    own = (n + 4) + 2 * (n + 1) + len(b"projector")
    assert models == {"me/all:v1": (own, n, 2 * n + len(b"outside") + len(b"inside")), "small": (0, n, 0)}
    assert (told.blob_bytes, told.unused_bytes, told.folder) == (own + n, 0, str(full_shelf.root))
    assert told.free_bytes > 0


def test_what_no_model_uses_is_counted(shelf):
    """Blobs without a model and unfinished files have sums of their own; a missing file counts nothing."""
    shelf.blob(b"left over")
    shelf.put("m", variants={"a": shelf.blob(b"model"), "b": str(shelf.file("gone.gguf", b"x"))})
    (shelf.outside / "gone.gguf").unlink()
    shelf.store.partial("url-1").write_bytes(b"12345")
    told = usage(shelf.registry.list().models, shelf.store, shelf.keeper.references())
    assert (told.unused_bytes, told.partial_bytes, told.blob_bytes) == (9, 5, 14)
    assert told.models[0].outside_bytes == 0


def test_a_folder_that_was_never_made_is_empty(shelf):
    """Looking makes nothing."""
    told = usage([], shelf.store, set())
    assert (told.blob_bytes, told.partial_bytes) == (0, 0)
    assert not shelf.root.exists()


# --- blobs ---


def test_only_blobs_without_a_reference_are_found(full_shelf):
    """A dry run is the same without the removing."""
    before = full_shelf.contents()
    full_shelf.blob(b"left over")
    (removal,) = found(full_shelf)
    assert (removal.kind, removal.n_bytes, removal.is_linked) == ("blob", 9, False)
    assert removal.path.exists()
    assert pruned(full_shelf, [removal]) == 9
    assert not removal.path.exists()
    assert full_shelf.contents() == before


def test_a_broken_description_keeps_its_blobs(shelf):
    """It may be mended."""
    name = shelf.blob(b"wanted yet")
    shelf.store.write(shelf.root / "broken.yaml", f"variants: [{name}\n  nonsense: {{")
    assert found(shelf) == []


def test_blobs_newer_than_the_oldest_job_stay(shelf):
    """They may be the job's, which has not described its model yet."""
    began = time.time() - 60
    name = shelf.blob(b"just pulled")
    assert found(shelf, job_began_s=began) == []
    assert [it.path for it in found(shelf)] == [shelf.store.blob(name[7:])]


def test_a_blob_that_is_claimed_after_the_look_stays(shelf):
    """A job that began meanwhile is about to name it."""
    name = shelf.blob(b"old")
    removals = found(shelf)
    while shelf.store.blob(name[7:]).stat().st_ctime_ns == removals[0].changed_ns:  # clocks of inodes are coarse
        shelf.store.claim(name[7:])
    assert pruned(shelf, removals) == 0
    assert shelf.store.blob(name[7:]).exists()


def test_a_blob_that_gets_its_model_after_the_look_stays(shelf):
    """References are asked again before anything goes."""
    name = shelf.blob(b"old")
    removals = found(shelf)
    shelf.put("m", variants={"a": name})
    assert pruned(shelf, removals) == 0
    assert shelf.contents()["m:latest"][1] == [[b"old"]]


def test_a_blob_with_another_name_frees_nothing(shelf):
    """What a hard link elsewhere keeps is not told as freed."""
    name = shelf.blob(b"linked")
    (shelf.outside / "x.gguf").hardlink_to(shelf.store.blob(name[7:]))
    (removal,) = found(shelf)
    assert (removal.n_bytes, removal.is_linked) == (0, True)
    assert pruned(shelf, [removal]) == 0
    assert not removal.path.exists()


def test_what_has_gone_meanwhile_is_fine(shelf):
    """Two prunes at once."""
    shelf.blob(b"old")
    removals = found(shelf)
    assert (pruned(shelf, removals), pruned(shelf, removals)) == (3, 0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_of_somebody_else_is_told(shelf):
    """Nothing can be pruned there."""
    shelf.root.mkdir()
    shelf.root.chmod(0o555)
    with pytest.raises(ReadOnly):
        pruned(shelf, [])


# --- partials ---


def test_a_partial_goes_with_its_sidecar_when_it_is_old(shelf):
    """Neither is left alone; a sidecar whose partial is gone goes too."""
    for name, data in (("url-1", b"12345"), ("url-1.json", b"{}"), ("url-2.json", b"{}")):
        shelf.store.partial(name).write_bytes(data)
    removals = found(shelf)
    assert sorted(it.path.name for it in removals) == ["url-1", "url-1.json", "url-2.json"]
    assert {it.kind for it in removals} == {"partial"}
    assert pruned(shelf, removals) == 9
    assert shelf.store.partials() == []


def test_a_partial_touched_lately_stays(shelf):
    """Also when only its sidecar was."""
    data, sidecar = shelf.store.partial("url-1"), shelf.store.partial("url-1.json")
    data.write_bytes(b"12345")
    sidecar.write_bytes(b"{}")
    later = time.time() + 3 * DAY_S
    os.utime(sidecar, (later, later))
    assert found(shelf, passed_s=8 * DAY_S) == []
    os.utime(sidecar, (0, 0))  # the change of its inode counts, too: a link brings the time of its original
    assert found(shelf, passed_s=6 * DAY_S) == []
    assert len(found(shelf, passed_s=8 * DAY_S)) == 2


def test_a_partial_written_since_the_oldest_job_began_stays(shelf):
    """Whatever age is asked for: not every kind of work locks its file."""
    began = time.time() - 60
    shelf.store.partial("quantize-1").write_bytes(b"12345")
    assert found(shelf, passed_s=1, job_began_s=began, partial_age_s=0) == []
    assert len(found(shelf, passed_s=1, partial_age_s=0)) == 1


def test_a_partial_that_a_process_works_on_stays(shelf):
    """However long its server is silent; also when the work began after the look."""
    claimed = claim(shelf.store, "url-1", "https://x", 2**20, lambda n: None)
    assert found(shelf) == []
    claimed.close()
    removals = found(shelf)
    assert [it.path.name for it in removals] == ["url-1"]
    claimed = claim(shelf.store, "url-1", "https://x", 2**20, lambda n: None)
    assert pruned(shelf, removals) == 0
    claimed.append(b"12345")
    claimed.keep()


def test_links_and_folders_among_partials(shelf, gguf_bytes):
    """A link goes, what it leads to stays; a folder is nobody's partial."""
    outside = shelf.file("x.gguf", gguf_bytes)
    shelf.store.partial("q-00001-of-00002.gguf").symlink_to(outside)
    shelf.store.partial("folder").mkdir()
    removals = found(shelf)
    assert [it.path.name for it in removals] == ["q-00001-of-00002.gguf"]
    pruned(shelf, removals)
    assert outside.read_bytes() == gguf_bytes
    assert [it.name for it in shelf.store.partials()] == ["folder"]


# --- temporaries ---


def test_temporaries_of_dead_writes_go_after_an_hour(shelf):
    """Wherever atomic writes happen: beside descriptions and beside partials."""
    shelf.put("ns/m:v1", variants={"a": shelf.blob(b"model")})
    names = [".m.yaml.123.tmp", "ns/m/.v1.yaml.9.tmp", ".partial/.url-1.json.77.tmp"]
    for name in names:
        (shelf.root / name).write_bytes(b"{}")
    (shelf.root / ".partial" / ".keep.tmp").write_bytes(b"not ours")
    assert found(shelf, passed_s=60, partial_age_s=3600) == []
    removals = [it for it in found(shelf, passed_s=3700) if it.kind == "temporary"]
    assert sorted(str(it.path.relative_to(shelf.root)) for it in removals) == sorted(names)
    assert pruned(shelf, removals) == 6
