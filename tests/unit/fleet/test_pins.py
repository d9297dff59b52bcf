"""Names in a file, whatever is in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from beastd.fleet.pins import Pins


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "pins.json"


def test_without_a_file_nothing_is_pinned(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is there anything to warn of, or a file made."""
    assert Pins(file).names == frozenset()
    assert not caplog.records
    assert not file.exists()


def test_pins_are_remembered(file: Path) -> None:
    """By a later daemon; the file is sorted, for people."""
    pins = Pins(file)
    pins.change("cub:latest", is_pinned=True)
    pins.change("ace:7b@q8_0", is_pinned=True)
    assert Pins(file).names == {"cub:latest", "ace:7b@q8_0"}
    assert json.loads(file.read_text()) == ["ace:7b@q8_0", "cub:latest"]
    pins.change("Cub:latest", is_pinned=False)  # names are equal in any case
    assert Pins(file).names == {"ace:7b@q8_0"}


def test_changing_twice_is_changing_once(file: Path) -> None:
    """As is letting go what nobody pinned."""
    pins = Pins(file)
    pins.change("a", is_pinned=True)
    pins.change("a", is_pinned=True)
    pins.change("b", is_pinned=False)
    assert Pins(file).names == {"a"}


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b'["a", ', b"nonsense"])
def test_a_broken_file_pins_nothing_and_is_told(file: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A daemon starts all the same."""
    file.write_bytes(data)
    assert Pins(file).names == frozenset()
    assert str(file) in caplog.text


@pytest.mark.parametrize("data", ["{}", '"a"', "1", "null", '{"a": 1}'])
def test_json_that_is_no_list_pins_nothing(file: Path, data: str) -> None:
    """Not even the letters of a string."""
    file.write_text(data)
    assert Pins(file).names == frozenset()


def test_what_is_no_name_in_the_list_is_left_out(file: Path) -> None:
    """The names beside it count."""
    file.write_text('["a", 1, null, ["b"]]')
    assert Pins(file).names == {"a"}


def test_a_broken_file_is_mended_by_the_next_pin(file: Path) -> None:
    """It is written whole."""
    file.write_text("{")
    Pins(file).change("a", is_pinned=True)
    assert Pins(file).names == {"a"}
