"""An unfinished file survives whatever happens to it or to what is known of it."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beastd.fetch.partial import Partial, claim, present_bytes
from beastd.registry.store import Store

KEY = "sha256-" + "0" * 64


def take(store: Store, chunk_bytes: int = 8) -> Partial:
    partial = claim(store, KEY, "https://example.org/m", chunk_bytes, lambda n: None)
    partial.resume(lambda n: None)
    return partial


def test_what_was_synced_is_there_for_the_next_process(store: Store) -> None:
    partial = take(store)
    partial.append(b"0123456789abcdef012")
    partial.close()  # as a kill: 16 of 19 bytes are whole chunks
    assert present_bytes(store, KEY) == 16
    again = take(store)
    assert again.position == 16
    again.append(b"!")
    assert again.digest == hashlib.sha256(b"0123456789abcdef!").hexdigest()
    again.keep()
    assert store.partials() == []


def test_on_a_slow_line_what_came_is_durable_before_its_chunk_is_full(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("beastd.fetch.partial.SYNC_S", 0.0)
    partial = take(store, chunk_bytes=1000)
    partial.append(b"0123456789")
    partial.close()
    assert present_bytes(store, KEY) == 10


@pytest.mark.parametrize("mark", [b"", b"{", b'{"synced": -5, "url": ""}', b'{"synced": 1e99}', b'{"url": 1}'])
def test_a_broken_mark_means_nothing_is_durable(store: Store, mark: bytes) -> None:
    partial = take(store)
    partial.append(b"0123456789")
    partial.close()
    store.partial(KEY + ".json").write_bytes(mark)
    again = take(store)
    assert again.position == 0
    again.close()


def test_a_partial_shorter_than_its_mark_goes_on_from_its_end(store: Store) -> None:
    partial = take(store)
    partial.append(b"0123456789abcdef")
    partial.close()
    with store.partial(KEY).open("r+b") as file:
        file.truncate(3)
    again = take(store)
    assert again.position == 3
    again.append(b"3456789a")
    assert present_bytes(store, KEY) == 11
    again.close()


def test_what_a_killed_process_left_of_writing_its_mark_is_removed(store: Store) -> None:
    left = store.partial(f".{KEY}.json.12345.tmp")
    left.write_bytes(b"{")
    take(store).close()
    assert not left.exists()


def test_only_one_has_it_and_the_other_hears_how_far_it_is(store: Store) -> None:
    first = take(store)
    first.append(b"0123456789abcdef")
    heard = threading.Event()
    sizes: list[int] = []

    def waiting(n_bytes: int) -> None:
        sizes.append(n_bytes)
        heard.set()

    found: list[Partial] = []
    other = threading.Thread(target=lambda: found.append(claim(store, KEY, "", 8, waiting)))
    other.start()
    assert heard.wait(10)
    assert (found, sizes[0]) == ([], 16)
    first.keep()
    other.join(10)
    assert store.partial(KEY).stat().st_size == 0, "the one that waited has a new file, not the blob"
    found[0].discard()
    assert store.partials() == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=40), max_size=12), st.integers(1, 30), st.integers(0, 11))
def test_position_and_digest_are_those_of_the_bytes(
    tmp_path: Path, pieces: list[bytes], chunk_bytes: int, restart_at: int
) -> None:
    partial = take(Store(tmp_path), chunk_bytes)
    partial.restart()
    kept = b""
    for i, piece in enumerate(pieces):
        if i == restart_at:
            partial.restart()
            kept = b""
        partial.append(piece)
        kept += piece
    assert (partial.position, partial.digest) == (len(kept), hashlib.sha256(kept).hexdigest())
    assert partial.read(0, 1000) == kept
    assert len(kept) - partial.mark.synced < chunk_bytes
    partial.discard()
