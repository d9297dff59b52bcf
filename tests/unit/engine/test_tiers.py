"""KV beyond the cache: what is found is what was computed for just these tokens, and the bounds hold."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd import ipc
from beastd.engine import tiers as tiers_module
from beastd.engine.adapters import AdapterSet
from beastd.engine.kvstate import State
from beastd.engine.tiers import PENDING, Found, Tiers, identity_of
from beastd.kvfolder import KVFolder

MODEL, OTHER = "ab" * 20, "cd" * 20
N_STATE = 1000
FILE_BYTES = 2 * N_STATE
"""More than any file of these tests takes."""


def kept(folder: Path, *, n_memory: int, n_disk: int) -> ipc.KvTiers:
    return ipc.KvTiers(folder=str(folder), memory_bytes=n_memory * N_STATE, disk_bytes=n_disk * FILE_BYTES)


def state_of(model: str, adapters: AdapterSet, tokens: list[int], start: int) -> State:
    """A state that tells what it was computed from."""
    told = msgspec.json.encode((model, adapters, tokens, start))
    return np.frombuffer(told.ljust(N_STATE), np.uint8)


def put(tiers: Tiers, tokens: list[int], start: int = 0, *, adapters: AdapterSet = (), is_exact: bool = False) -> None:
    tiers.put(adapters, tokens, start, state_of(tiers._identity, adapters, tokens, start), is_exact=is_exact)


def wait(tiers: Tiers, limit_s: float) -> None:
    """Until a state that was asked for is there, or lost."""
    with tiers._changed:
        readings = tiers._readings
        tiers._changed.wait_for(lambda: not readings or any(it.state is not None for it in readings.values()), limit_s)


def taken(tiers: Tiers, found: Found) -> State | None:
    """The state, however long it takes."""
    while (state := tiers.read(found)) is PENDING:
        wait(tiers, 1)
    assert state is None or isinstance(state, np.ndarray)
    return state


def settled(tiers: Tiers) -> Tiers:
    """All that was to be written is written."""
    with tiers._changed:
        assert tiers._changed.wait_for(lambda: not tiers._queue_bytes, 60)
    return tiers


def check(tiers: Tiers, prompt: list[int], n_have: int, *, adapters: AdapterSet = (), is_exact: bool = False) -> int:
    """Find, read, and see that it is what it is said to be; returns the tokens that are usable then."""
    found = tiers.find(adapters, prompt, n_have, is_exact=is_exact)
    state = taken(tiers, found) if found else None
    if found is None or state is None:
        return 0
    model, of_adapters, tokens, start = msgspec.json.decode(bytes(state).rstrip())
    assert (model, of_adapters, start) == (tiers._identity, [list(it) for it in adapters], found.start)
    assert found.start <= n_have < found.n_usable <= min(len(tokens), len(prompt) - 1)
    assert tokens[: found.n_usable] == prompt[: found.n_usable]
    if is_exact:
        assert (found.start, found.n_usable) == (0, len(tokens))
    return found.n_usable


@contextmanager
def short_prefixes() -> Iterator[None]:
    with patch.object(tiers_module, "MIN_TOKENS", 1):
        yield


Tokens = st.tuples(st.integers(1, 8), st.lists(st.integers(0, 1), min_size=1, max_size=2)).map(
    lambda drawn: [0] * drawn[0] + drawn[1]
)
"""Mostly alike, so that one often covers another."""
Puts = st.lists(st.tuples(Tokens, st.integers(0, 8)), max_size=12)


@settings(max_examples=300)
@given(Puts, Tokens, st.integers(0, 8), st.booleans())
def test_with_room_for_all_the_best_ever_put_is_found(
    puts: list[tuple[list[int], int]], prompt: list[int], n_have: int, is_exact: bool
) -> None:
    """What covers another does for it; models whose states cannot be cut find whole ones only."""
    best = 0
    with short_prefixes():
        tiers = Tiers(ipc.KvTiers(folder="", memory_bytes=10**9, disk_bytes=0), MODEL)
        for tokens, most in puts:
            start = 0 if is_exact else min(most, len(tokens) - 1)
            put(tiers, tokens, start, is_exact=is_exact)
            n = next((i for i, (a, b) in enumerate(zip(tokens, prompt, strict=False)) if a != b), len(tokens))
            n = min(n, len(prompt) - 1)
            if start <= n_have < n and (not is_exact or n == len(tokens)):
                best = max(best, n)
        assert check(tiers, prompt, n_have, is_exact=is_exact) == best


class World:
    """Two models' stores on one folder, which things happen to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = kept(folder / "kv", n_memory=2, n_disk=4)
        self.adapter = str(folder / "adapter.gguf")
        Path(self.adapter).write_bytes(b"adapter")
        self.stores = [Tiers(self.settings, MODEL), Tiers(self.settings, OTHER)]

    def do(self, act: str, who: int, tokens: list[int], n: int) -> None:
        tiers = self.stores[who]
        adapters: AdapterSet = ((self.adapter, 0.5),) if n % 2 else ()
        if act == "put":
            put(tiers, tokens, min(n, len(tokens) - 1), adapters=adapters)
        elif act == "find":
            check(tiers, tokens, n, adapters=adapters)
        elif act == "restart":
            tiers.flush(60)
            self.stores[who] = Tiers(self.settings, tiers._identity)
        elif act == "crash":
            self.stores[who] = Tiers(self.settings, settled(tiers)._identity)
        elif act == "swap":
            tiers.become(OTHER if tiers._identity == MODEL else MODEL)
        elif act == "detach":
            tiers.detach(self.adapter)
            assert tiers.find(((self.adapter, 0.5),), [*tokens, 0], 0, is_exact=False) is None
        else:
            self._damage(n)
        assert sum(file.size_bytes for file in KVFolder(self.folder / "kv").files()) <= self.settings.disk_bytes
        assert tiers.stats.tier_memory_bytes <= self.settings.memory_bytes + tiers_module.QUEUE_BYTES

    def _damage(self, n: int) -> None:
        files = KVFolder(self.folder / "kv").files()
        if files:
            path = self.folder / "kv" / files[n % len(files)].name
            data = bytearray(path.read_bytes() if path.exists() else b"x")
            data[-1 - n] ^= 1
            path.write_bytes(data[: len(data) - n // 4])


Acts = st.sampled_from(["put", "put", "put", "find", "find", "restart", "crash", "swap", "detach", "damage"])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(Acts, st.integers(0, 1), Tokens, st.integers(0, 8)), max_size=25))
def test_nothing_is_ever_taken_for_what_it_is_not(acts: list[tuple[str, int, list[int], int]]) -> None:
    """Whatever happens to stores and files: other tokens, adapters, models and damaged files are never restored."""
    with short_prefixes(), tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder))
        for act in acts:
            world.do(*act)
        for tiers in world.stores:
            tiers.flush(60)
            assert tiers.stats.tier_memory_bytes == 0


LONG = list(range(100))


def other(n: int) -> list[int]:
    """A prefix that shares nothing with others."""
    return [1000 + n, *range(60)]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Tiers]:
    """Stores on the test's folder; ``n_memory`` and ``n_disk`` are entries."""

    def made(model: str = MODEL, *, n_memory: int = 2, n_disk: int = 10, **more: object) -> Tiers:
        return Tiers(kept(tmp_path / "kv", n_memory=n_memory, n_disk=n_disk), model, **more)  # type: ignore[arg-type]

    return made


def test_without_settings_nothing_is_kept() -> None:
    """Nor without knowing the model."""
    for tiers in (Tiers(None, MODEL), Tiers(ipc.KvTiers(folder="", memory_bytes=10**9, disk_bytes=0), "")):
        put(tiers, LONG)
        assert tiers.find((), LONG, 0, is_exact=False) is None
        tiers.flush(0)
        wait(tiers, 0)
        assert tiers.stats.n_tier_memory == 0


def test_short_prefixes_are_not_kept(make: Callable[..., Tiers]) -> None:
    """A state of few tokens is not worth fetching, however long what is before it."""
    tiers = make()
    put(tiers, LONG[:31])
    put(tiers, LONG, 69)
    assert tiers.stats.n_tier_memory == 0


def test_what_falls_out_of_memory_goes_to_disk(make: Callable[..., Tiers]) -> None:
    """The least recently used first; reading it is told as pending, then it is there."""
    tiers = make()
    for n in range(4):
        put(tiers, other(n))
    settled(tiers)
    assert (tiers.stats.n_tier_memory, tiers.stats.n_tier_disk) == (2, 2)
    found = tiers.find((), [*other(0), 5], 0, is_exact=False)
    assert found
    assert not found.is_in_memory
    assert tiers.read(found) is PENDING
    assert check(tiers, [*other(0), 5], 0) == 61
    assert check(tiers, [*other(3), 5], 0) == 61
    assert (tiers.stats.n_tier_hits, tiers.stats.n_tier_tokens) == (2, 122)


def test_using_an_entry_keeps_it_in_memory(make: Callable[..., Tiers]) -> None:
    """By reading it, or by giving it again."""
    tiers = make(n_disk=0)
    put(tiers, other(0))
    put(tiers, other(1))
    check(tiers, [*other(0), 5], 0)
    put(tiers, other(2))
    assert tiers.find((), [*other(1), 5], 0, is_exact=False) is None
    put(tiers, other(0))
    put(tiers, other(3))
    assert check(tiers, [*other(0), 5], 0) == 61


def test_a_state_larger_than_memory_goes_to_disk_alone(make: Callable[..., Tiers]) -> None:
    """Others need not make room for it."""
    tiers = make(n_memory=1)
    put(tiers, other(0))
    tiers.put((), LONG, 0, np.zeros(2 * N_STATE, np.uint8), is_exact=False)
    settled(tiers)
    assert (tiers.stats.n_tier_memory, tiers.stats.n_tier_disk) == (1, 1)  # until the longer one is there


def test_a_slow_disk_loses_entries_and_stalls_nobody(make: Callable[..., Tiers]) -> None:
    """What cannot wait to be written is let go; what waits can be read."""
    tiers = make(n_memory=0)
    assert tiers._disk
    with patch.object(tiers_module, "QUEUE_BYTES", 2 * N_STATE), patch.object(tiers._disk, "start"):
        for n in range(5):
            put(tiers, other(n))
        assert tiers.stats.n_tier_memory == 2
        assert check(tiers, [*other(1), 5], 0) == 61
        assert check(tiers, [*other(4), 5], 0) == 0


def test_a_state_that_could_not_be_kept_is_not_wanted(make: Callable[..., Tiers]) -> None:
    """By its size, as far as others tell: too large for memory and no disk, or one that is busy or too small."""
    huge = list(range(2000, 2250))
    for tiers in (make(n_memory=1, n_disk=0), make(n_memory=1, n_disk=1)):
        assert tiers.wants((), huge, 0, is_exact=False), "nothing is known of sizes"
        put(tiers, LONG)
        assert tiers.wants((), other(0), 0, is_exact=False)
        assert not tiers.wants((), huge, 0, is_exact=False)
        assert tiers.wants((), huge, 200, is_exact=False)
    tiers = make(n_memory=1, n_disk=9)
    put(tiers, LONG)
    assert tiers.wants((), huge, 0, is_exact=False)
    assert tiers._disk
    with patch.object(tiers_module, "QUEUE_BYTES", 3 * N_STATE), patch.object(tiers._disk, "start"):
        put(tiers, other(0))
        assert not tiers.wants((), huge, 0, is_exact=False), "another one waits to be written"


def test_states_that_are_of_one_size_are_wanted_at_any_length(make: Callable[..., Tiers]) -> None:
    """What a recurrent model keeps does not grow with its tokens."""
    tiers = make(n_memory=1, n_disk=0)
    put(tiers, LONG, is_exact=True)
    assert tiers.wants((), list(range(2000, 9000)), 0, is_exact=True)


def test_a_longer_entry_replaces_what_it_covers(make: Callable[..., Tiers]) -> None:
    """On disk as well, once it is there itself; and what it covers is not kept again."""
    tiers = make()
    put(tiers, LONG[:50])
    tiers.flush(60)
    put(tiers, LONG)
    assert (tiers.stats.n_tier_memory, tiers.stats.n_tier_disk) == (1, 1)  # until the longer one is there
    assert make().stats.n_tier_disk == 1
    tiers.flush(60)
    put(tiers, LONG[:60])
    assert (tiers.stats.n_tier_memory, tiers.stats.n_tier_disk) == (0, 1)
    while make().stats.n_tier_disk > 1:
        wait(tiers, 0.01)


def test_models_whose_states_cannot_be_cut_keep_every_length(make: Callable[..., Tiers]) -> None:
    """A longer state does not do for a shorter prefix."""
    tiers = make()
    put(tiers, LONG, is_exact=True)
    put(tiers, LONG[:50], is_exact=True)
    put(tiers, LONG[:50], is_exact=True)
    assert tiers.stats.n_tier_memory == 2
    assert check(tiers, LONG[:70], 0, is_exact=True) == 50
    assert check(tiers, LONG[:70], 50, is_exact=True) == 0


def test_kv_outlives_the_worker(make: Callable[..., Tiers]) -> None:
    """What was flushed is found by the next one of the same model, and by no other."""
    before = make()
    for n in range(2):
        put(before, other(n))
    before.flush(60)
    assert (before.stats.n_tier_memory, before.stats.n_tier_disk) == (0, 2)
    assert check(make(), [*other(1), 5], 0) == 61
    assert make(OTHER).find((), [*other(1), 5], 0, is_exact=False) is None


def test_a_worker_that_changes_its_variant_finds_only_what_that_computed(make: Callable[..., Tiers]) -> None:
    """And its own again when it is what it was."""
    tiers = make()
    put(tiers, LONG)
    tiers.become(OTHER)
    assert check(tiers, LONG, 0) == 0
    tiers.become(MODEL)
    assert check(tiers, LONG, 0) == 99


def test_a_changed_adapter_is_another(make: Callable[..., Tiers], tmp_path: Path) -> None:
    """After a restart by its file's size and time; in the same worker by detaching it, even where both are the same."""
    path = tmp_path / "adapter.gguf"
    path.write_bytes(b"adapter")
    adapters: AdapterSet = ((str(path), 1.0),)
    tiers = make()
    put(tiers, LONG, adapters=adapters)
    assert check(tiers, LONG, 0, adapters=adapters) == 99
    assert check(tiers, LONG, 0) == 0
    assert check(tiers, LONG, 0, adapters=((str(path), 0.5),)) == 0
    tiers.flush(60)
    assert check(make(), LONG, 0, adapters=adapters) == 99
    os.utime(path, ns=(1, 1))
    assert check(make(), LONG, 0, adapters=adapters) == 0
    tiers.detach(str(path))
    assert check(tiers, LONG, 0, adapters=adapters) == 0
    put(tiers, LONG, adapters=((f"{path} (detached, 1)", 1.0),))
    assert tiers.stats.n_tier_memory == 0


def test_what_is_being_written_when_an_adapter_changes_does_not_stay(
    make: Callable[..., Tiers], tmp_path: Path
) -> None:
    """Its file goes as soon as it is there."""
    path = tmp_path / "adapter.gguf"
    path.write_bytes(b"adapter")
    adapters: AdapterSet = ((str(path), 1.0),)
    tiers = make()
    put(tiers, LONG, adapters=adapters)
    (entry,) = tiers._memory
    write = KVFolder.write

    def detached_meanwhile(*args: object, **named: object) -> object:
        tiers.detach(str(path))
        return write(*args, **named)  # type: ignore[arg-type]

    with patch.object(KVFolder, "write", detached_meanwhile):
        tiers._write(entry, 0)
        settled(tiers)
    assert KVFolder(tmp_path / "kv").files() == []


def test_a_damaged_file_is_dropped_and_told_of_once(
    make: Callable[..., Tiers], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The reader is told that there is nothing, and the entry is not found again."""
    tiers = make()
    put(tiers, LONG)
    tiers.flush(60)
    found = tiers.find((), LONG, 0, is_exact=False)
    (file,) = KVFolder(tmp_path / "kv").files()
    path = tmp_path / "kv" / file.name
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert found
    assert taken(tiers, found) is None
    assert tiers.find((), LONG, 0, is_exact=False) is None
    assert tiers.read(found) is None
    assert tiers.stats.n_tier_dropped == 1
    assert not path.exists()
    assert capfd.readouterr().err.count("its state is damaged") == 1


def test_a_foreign_file_is_dropped_at_the_start(
    make: Callable[..., Tiers], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Under a name of ours it goes; under any other it stays."""
    (tmp_path / "kv").mkdir()
    ours = tmp_path / "kv" / f"{MODEL[:16]}-{'0' * 32}.kv"
    for path in (ours, tmp_path / "kv" / "notes.txt"):
        path.write_bytes(b"something else")
    assert make().stats.n_tier_dropped == 1
    assert [it.name for it in (tmp_path / "kv").iterdir()] == ["notes.txt"]
    assert ours.name in capfd.readouterr().err


def test_another_models_file_is_dropped_though_its_name_begins_as_ours(make: Callable[..., Tiers]) -> None:
    """A name has only a part of the identity."""
    near = MODEL[:-1] + "c"
    tiers = make(near)
    put(tiers, LONG)
    tiers.flush(60)
    tiers = make()
    assert (tiers.stats.n_tier_disk, tiers.stats.n_tier_dropped) == (0, 1)
    assert check(tiers, LONG, 0) == 0


def test_a_file_that_another_worker_removed_is_no_damage(
    make: Callable[..., Tiers], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It needed the room; nothing is said."""
    tiers = make()
    put(tiers, LONG)
    tiers.flush(60)
    for file in KVFolder(tmp_path / "kv").files():
        KVFolder(tmp_path / "kv").remove(file.name)
    assert check(tiers, LONG, 0) == 0
    put(tiers, LONG)
    assert tiers.stats.n_tier_memory == 1
    assert (tiers.stats.n_tier_dropped, capfd.readouterr().err) == (0, "")


def test_a_full_disk_ends_the_tier_with_one_line(
    make: Callable[..., Tiers], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is in memory stays there, and what is on disk can still be read."""
    tiers = make()
    put(tiers, other(0))
    tiers.flush(60)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(KVFolder, "write", fail)
    for n in range(1, 5):
        put(tiers, other(n))
    tiers.flush(60)
    assert check(tiers, [*other(4), 5], 0) == 61
    assert check(tiers, [*other(1), 5], 0) == 0
    assert check(tiers, [*other(0), 5], 0) == 61
    assert capfd.readouterr().err.count("\n") == 1


def test_a_state_nobody_takes_makes_room_for_others(make: Callable[..., Tiers]) -> None:
    """Its request was cancelled; one that is only slow to ask gets it, as long as nobody else needs the room."""
    now_s = 0.0
    tiers = make(clock=lambda: now_s)
    for n in range(2):
        put(tiers, other(n))
    tiers.flush(60)
    left, slow = (tiers.find((), [*other(n), 5], 0, is_exact=False) for n in range(2))
    assert left
    assert slow
    with patch.object(tiers_module, "READ_BYTES", N_STATE):
        for found in (left, slow):
            assert tiers.read(found) is PENDING
            wait(tiers, 60)
        assert tiers.read(slow) is PENDING
        now_s = 10.0
        assert taken(tiers, slow) is not None
        assert tiers._readings == {}


def test_a_disk_that_takes_too_long_is_given_up(make: Callable[..., Tiers]) -> None:
    """Nobody waits for ever; what it was to read is not found again."""
    now_s = 0.0
    tiers = make(clock=lambda: now_s)
    put(tiers, LONG)
    tiers.flush(60)
    assert tiers._disk
    found = tiers.find((), LONG, 0, is_exact=False)
    assert found
    with patch.object(tiers._disk, "start"):
        assert tiers.read(found) is PENDING
        now_s = 10.0
        assert tiers.read(found) is PENDING
        now_s = 20.0
        assert tiers.read(found) is None
    assert tiers.find((), LONG, 0, is_exact=False) is None


def test_many_states_are_read_one_after_another(make: Callable[..., Tiers]) -> None:
    """Only so many wait to be taken; all come in the end."""
    tiers = make()
    for n in range(8):
        put(tiers, other(n))
    tiers.flush(60)
    with patch.object(tiers_module, "READ_BYTES", N_STATE):
        wanted = {n: tiers.find((), [*other(n), 5], 0, is_exact=False) for n in range(8)}
        while wanted:
            for n, found in [*wanted.items()]:
                assert found
                state = tiers.read(found)
                assert state is not None
                assert sum(it.state is not None for it in tiers._readings.values()) <= 1
                if state is not PENDING:
                    del wanted[n]
            wait(tiers, 1)


def test_clearing_forgets_memory_and_files(make: Callable[..., Tiers], tmp_path: Path) -> None:
    """Of this worker's model; what others keep stays."""
    other_model = make(OTHER)
    put(other_model, LONG)
    other_model.flush(60)
    tiers = make()
    for n in range(4):
        put(tiers, other(n))
    settled(tiers).clear()
    put(tiers, LONG)
    tiers.flush(60)  # comes after the removals
    assert (tiers.stats.n_tier_memory, tiers.stats.n_tier_disk) == (0, 1)
    assert len(KVFolder(tmp_path / "kv").files()) == 2


def test_identities_differ_by_what_makes_kv_worthless() -> None:
    """The file, and how KV is stored; not the context's size."""

    def of(digest: str = "sha256:1", **changes: object) -> str:
        loading = msgspec.structs.replace(ipc.LoadSettings(), **changes)
        return identity_of(ipc.Load(paths=[], label="", digest=digest, settings=loading))

    assert of() == of(n_ctx=8192, n_parallel=9)
    assert len({of(), of("sha256:2"), of(kv_type="q8_0"), of(flash_attn="off")}) == 4
    assert of("") == ""


def test_a_file_that_cannot_be_removed_leaves_the_disk_tier_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiers = Tiers(kept(tmp_path, n_memory=0, n_disk=10), MODEL)
    put(tiers, [*range(40)])
    settled(tiers)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", lambda path, **_: (_ for _ in ()).throw(PermissionError(path)))
        put(tiers, [*range(80)])
        settled(tiers)
        assert tiers._disk
        tiers._disk.remove("stuck")
    put(tiers, [*range(100, 180)])
    assert settled(tiers).stats.n_tier_disk == 2
    assert "cannot be removed" in capsys.readouterr().err


def test_what_a_longer_entry_covers_is_found_when_that_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk did not take the longer one."""
    tiers = Tiers(kept(tmp_path, n_memory=0, n_disk=10), MODEL)
    put(tiers, LONG[:50])
    settled(tiers)
    monkeypatch.setattr(KVFolder, "write", lambda *_args, **_kwargs: None)
    put(tiers, LONG)
    assert check(settled(tiers), LONG, 0) == 50
