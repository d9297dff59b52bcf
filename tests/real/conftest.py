"""What tests of the real thing need: llama.cpp's sources, as llama-cpp-python's source distribution carries them."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

IN_SDIST = "vendor/llama.cpp"


@pytest.fixture(scope="session")
def llama_cpp_sources(pytestconfig: pytest.Config) -> Path:
    """A llama.cpp tree of the installed commit, or at least its ``models`` folder.

    LLAMA_CPP_SOURCES names one; else uv's cache has it from the build; else the source distribution is
    downloaded once, which takes a minute, and kept in pytest's cache.
    """
    if named := os.environ.get("LLAMA_CPP_SOURCES"):
        assert has_templates(Path(named)), f"LLAMA_CPP_SOURCES={named} holds no models/templates"
        return Path(named)
    version = importlib.metadata.version("llama-cpp-python")
    kept = pytestconfig.cache.mkdir("llama-cpp-python") / version
    found = next(filter(has_templates, [*in_uv_cache(version), kept]), None)
    return found or downloaded(version, kept)


def has_templates(tree: Path) -> bool:
    return any((tree / "models" / "templates").glob("*.jinja"))


def in_uv_cache(version: str) -> list[Path]:
    """Where uv unpacked the source distribution, from the package index or another one."""
    uv = os.environ.get("UV") or shutil.which("uv")
    if not uv:
        return []
    answer = subprocess.run([uv, "cache", "dir"], capture_output=True, text=True, timeout=60, check=True)
    tail = f"llama-cpp-python/{version}/*/src/{IN_SDIST}"
    return [tree for head in ("*", "*/*") for tree in Path(answer.stdout.strip()).glob(f"sdists-*/{head}/{tail}")]


def downloaded(version: str, kept: Path) -> Path:
    """Fetch the source distribution with pip, and keep its ``models`` folder."""
    kept.mkdir(parents=True, exist_ok=True)
    get = [
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        ":all:",
        "--dest",
        str(kept),
        f"llama-cpp-python=={version}",
    ]
    uvx = shutil.which("uvx")
    tried = []
    for pip in ([sys.executable, "-m", "pip"], [uvx or "uvx", "pip"]):
        try:
            subprocess.run([*pip, *get], capture_output=True, text=True, timeout=900, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            tried.append(f"{' '.join(pip)}: {getattr(error, 'stderr', None) or error}".strip())
            continue
        unpack(next(kept.glob("*.tar.gz")), kept)
        return kept
    pytest.skip("llama-cpp-python's sources are neither in uv's cache nor to be downloaded: " + "; ".join(tried))


def unpack(archive: Path, into: Path) -> None:
    """The ``models`` folder of the llama.cpp inside of the archive."""
    with tarfile.open(archive) as packed:
        for member in packed:
            _, _, name = member.name.partition(f"/{IN_SDIST}/")
            if name.startswith("models/"):
                packed.extract(member.replace(name=name), into, filter="data")
    archive.unlink()
