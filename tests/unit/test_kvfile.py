"""Files of the KV disk tier: what was written is read, and nothing else is ever taken for it."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beastd import kvfile
from beastd.kvfile import AdapterFile, BadFile, Meta

META = Meta(identity="ab" * 20, label="cub:latest (q8_0)", adapters=(AdapterFile("/a.gguf", 0.5, 7, 9),), start=1)
TOKENS = struct.pack(">3I", 5, 6, 7)
STATE = bytes(range(40))


def written(folder: Path) -> Path:
    path = folder / "entry"
    with io.FileIO(path, "wb") as file:
        kvfile.write(file, META, TOKENS, memoryview(STATE))
    return path


def read(path: Path) -> tuple[kvfile.Header, bytes]:
    with io.FileIO(path) as file:
        header = kvfile.read_header(file)
        state = bytearray(header.state_bytes)
        kvfile.read_state(file, header, memoryview(state))
    return header, bytes(state)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    """And takes as many bytes as was said."""
    path = written(tmp_path)
    header, state = read(path)
    assert (header.meta, header.tokens, header.n_tokens, state) == (META, TOKENS, 3, STATE)
    assert path.stat().st_size == kvfile.size_bytes(META, TOKENS, len(STATE))


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    """At every byte, and one that has more than it should as well."""
    path = written(tmp_path)
    whole = path.read_bytes()
    for data in (*(whole[:n] for n in range(len(whole))), whole + b"x"):
        path.write_bytes(data)
        with pytest.raises(BadFile):
            read(path)


def test_a_changed_bit_is_noticed_anywhere(tmp_path: Path) -> None:
    """In the header, the tokens, and the state."""
    path = written(tmp_path)
    whole = path.read_bytes()
    for n in range(len(whole)):
        data = bytearray(whole)
        data[n] ^= 1 << n % 8
        path.write_bytes(data)
        with pytest.raises(BadFile):
            read(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)
@given(data=st.binary(max_size=200), keeps=st.integers(0, 60))
def test_any_bytes_are_refused_at_once(tmp_path: Path, data: bytes, keeps: int) -> None:
    """Whatever lengths they claim: nothing is reserved for them, and no other error comes."""
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:keeps] + data)
    with pytest.raises(BadFile):
        read(path)


@pytest.mark.parametrize(
    "description", [b"nonsense", b'{"identity":1,"label":""}', b'{"identity":"ab","label":"","start":3}']
)
def test_a_description_that_makes_no_sense_is_refused(tmp_path: Path, description: bytes) -> None:
    """Though its checksum holds: somebody else may have written it."""
    fixed = (b"BEASTKV\n", kvfile.VERSION, len(description), 3, 0, 0)
    head = kvfile._FIXED.pack(*fixed, kvfile._head_crc(fixed, description, TOKENS))
    path = tmp_path / "entry"
    path.write_bytes(head + description + TOKENS)
    with pytest.raises(BadFile):
        read(path)


def test_names_differ_by_all_that_makes_kv_another() -> None:
    """And only by that: the label is for people."""
    name = kvfile.file_name(META, TOKENS)
    assert kvfile.NAME.fullmatch(name)
    assert kvfile.file_name(Meta(identity=META.identity, label="x", adapters=META.adapters, start=1), TOKENS) == name
    others = [
        kvfile.file_name(Meta(identity="cd" * 20, label="", adapters=META.adapters, start=1), TOKENS),
        kvfile.file_name(Meta(identity=META.identity, label="", start=1), TOKENS),
        kvfile.file_name(Meta(identity=META.identity, label="", adapters=META.adapters), TOKENS),
        kvfile.file_name(META, TOKENS[:8]),
    ]
    assert len({name, *others}) == 5


def test_a_count_of_tokens_beyond_all_contexts_is_refused_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kvfile, "MAX_TOKENS", 2)
    with pytest.raises(BadFile, match="none of ours"):
        read(written(tmp_path))
