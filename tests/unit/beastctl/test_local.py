"""What is a path, and what is a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from beastctl.local import absolute, path_of


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/u")
    (tmp_path / "qwen3").mkdir()
    (tmp_path / "model.gguf").touch()


@pytest.mark.parametrize("name", ["qwen3", "qwen3:0.6b", "hf.co/u/r", "https://example.org/m.gguf", "hf.co/u/r/m.gguf"])
def test_names_stay_names(name: str) -> None:
    """A folder of the same name beside us hides no model."""
    assert path_of(name) is None


def test_paths_become_full(tmp_path: Path) -> None:
    """The daemon is elsewhere."""
    assert path_of("model.gguf") == str(tmp_path / "model.gguf")
    assert path_of("./missing.gguf") == str(tmp_path / "missing.gguf")
    assert path_of("missing.gguf") == str(tmp_path / "missing.gguf")
    assert path_of("file:model.gguf") == str(tmp_path / "model.gguf")
    assert path_of("file:///m/x.gguf") == "/m/x.gguf"
    assert path_of("~/x.gguf") == "/home/u/x.gguf"
    assert absolute("qwen3") == str(tmp_path / "qwen3")
