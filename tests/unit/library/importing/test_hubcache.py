"""Models in the Hugging Face cache."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

import pytest
from hunt import Ggufs, Hunt

OLD, NEW = "a" * 40, "b" * 40


class Cache:
    """A cache to fill."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._clock = 0

    def add(self, repo: str, commit: str, files: dict[str, bytes], *, main: bool = True) -> None:
        """A snapshot with some files; later ones are newer."""
        folder = self.root / f"models--{repo.replace('/', '--')}"
        for name, data in files.items():
            blob = folder / "blobs" / sha256(data).hexdigest()
            blob.parent.mkdir(parents=True, exist_ok=True)
            blob.write_bytes(data)
            link = folder / "snapshots" / commit / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
        self._clock += 1
        os.utime(folder / "snapshots" / commit, (self._clock, self._clock))
        if main:
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / "main").write_text(commit)


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "huggingface" / "hub")


@pytest.mark.parametrize("given", ["hub", "huggingface", "repo"])
def test_a_repository_is_one_model_of_its_own_name(cache: Cache, ggufs: Ggufs, given: str) -> None:
    """With its commit as origin, and the digests its blobs are named by; HF_HOME and one repository will do too."""
    cache.add("Qwen/Qwen3-0.6B-GGUF", NEW, {"Qwen3-0.6B-Q8_0.gguf": ggufs.model(7), "README.md": b"hello"})
    folder = cache.root / "models--Qwen--Qwen3-0.6B-GGUF"
    found = Hunt({"hub": cache.root, "huggingface": cache.root.parent, "repo": folder}[given]).only
    file = str(folder / "snapshots" / NEW / "Qwen3-0.6B-Q8_0.gguf")
    assert found.name.short == "hf.co/Qwen/Qwen3-0.6B-GGUF"
    assert found.fields.variants == {"q8_0": file}
    assert found.fields.origin == f"hf.co/Qwen/Qwen3-0.6B-GGUF@{NEW}"
    assert found.fields.sha256 == {file: sha256(ggufs.model(7)).hexdigest()}


def test_all_files_of_a_repository_are_one_place(cache: Cache, ggufs: Ggufs) -> None:
    """Subfolders too: shards in Q4_K_M/, a projector above them."""
    shards = {f"F32/big-F32-0000{i}-of-00002.gguf": data for i, data in enumerate(ggufs.shards(), 1)}
    cache.add("u/big-GGUF", NEW, shards | {"mmproj-F16.gguf": ggufs.projector(), "lora.gguf": ggufs.adapter()})
    fields = Hunt(cache.root).only.fields
    assert [Path(name).name for name in fields.variants["f32"]] == [Path(name).name for name in shards]
    assert fields.projector
    assert fields.projector.endswith("mmproj-F16.gguf")
    assert list(fields.adapters) == ["lora"]
    assert len(fields.sha256) == 4


def test_the_commit_of_main_is_taken_and_older_files_are_told(cache: Cache, ggufs: Ggufs) -> None:
    cache.add("u/r", OLD, {"r-Q8_0.gguf": ggufs.model(7), "r-Q2_K.gguf": ggufs.model(10)})
    cache.add("u/r", NEW, {"r-Q8_0.gguf": ggufs.model(7, general__name="newer")}, main=False)
    hunt = Hunt(cache.root)
    assert hunt.only.fields.origin == f"hf.co/u/r@{OLD}"
    cache.add("u/r", NEW, {})
    hunt = Hunt(cache.root)
    assert hunt.only.fields.origin == f"hf.co/u/r@{NEW}"
    assert list(hunt.only.fields.variants) == ["q8_0"]
    ((source, reason),) = hunt.skipped.items()
    assert source.endswith(f"{OLD}/r-Q2_K.gguf")
    assert "another revision" in reason


def test_without_main_the_newest_snapshot_is_taken(cache: Cache, ggufs: Ggufs) -> None:
    """Also when refs/main names one that is not there, or is not a text."""
    cache.add("u/r", OLD, {"r-Q8_0.gguf": ggufs.model(7)}, main=False)
    cache.add("u/r", NEW, {"r-Q8_0.gguf": ggufs.model(7)}, main=False)
    refs = cache.root / "models--u--r" / "refs"
    refs.mkdir()
    for text in (b"", b"\xff\xfe", b"../../..", b"c" * 1000):
        (refs / "main").write_bytes(text)
        assert Hunt(cache.root).only.fields.origin == f"hf.co/u/r@{NEW}"


def test_several_models_of_a_repository_have_tags(cache: Cache, ggufs: Ggufs) -> None:
    """The one that the repository is named after needs none."""
    files = {"cub-Q8_0.gguf": ggufs.model(7), "cub-Q2_K.gguf": ggufs.model(10), "cub-draft-F16.gguf": ggufs.model(1)}
    cache.add("u/cub-GGUF", NEW, files)
    assert set(Hunt(cache.root).found) == {"hf.co/u/cub-GGUF", "hf.co/u/cub-GGUF:cub-draft"}


def test_what_is_no_gguf_repository_is_skipped_by_name(cache: Cache, ggufs: Ggufs) -> None:
    cache.add("u/good", NEW, {"good-Q8_0.gguf": ggufs.model(7)})
    cache.add("u/transformers", NEW, {"model.safetensors": b"{}"})
    cache.add("gpt2", NEW, {"gpt2-Q8_0.gguf": ggufs.model(7)})
    (cache.root / "models--u--empty").mkdir()
    (cache.root / "models--..--x").mkdir()
    (cache.root / "models--u--file").write_text("")
    (cache.root / "datasets--u--d").mkdir()
    (cache.root / ".locks").mkdir()
    hunt = Hunt(cache.root)
    assert list(hunt.found) == ["hf.co/u/good"]
    reasons = {Path(source).name: reason for source, reason in hunt.skipped.items()}
    assert set(reasons) == {"models--u--transformers", "models--gpt2", "models--u--empty", "models--..--x"}
    assert "no GGUF files" in reasons["models--u--transformers"]
    assert "no owner" in reasons["models--gpt2"]


def test_a_download_that_is_not_finished_hides_nothing(cache: Cache, ggufs: Ggufs) -> None:
    """A link whose blob is gone, and a cut blob."""
    cache.add("u/r", NEW, {"r-Q8_0.gguf": ggufs.model(7), "r-Q2_K.gguf": ggufs.model(10)[:700]})
    folder = cache.root / "models--u--r"
    (folder / "snapshots" / NEW / "r-Q4_K_M.gguf").symlink_to("../../blobs/gone")
    hunt = Hunt(cache.root)
    assert list(hunt.only.fields.variants) == ["q8_0"]
    assert {Path(source).name for source in hunt.skipped} == {"r-Q2_K.gguf", "r-Q4_K_M.gguf"}
