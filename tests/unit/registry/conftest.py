"""What the library's tests share."""

from __future__ import annotations

from pathlib import Path

import pytest
from ggufwriter import GgufWriter


@pytest.fixture(scope="session")
def gguf() -> GgufWriter:
    """Writes GGUF files."""
    return GgufWriter()


@pytest.fixture(scope="session")
def builtin_dir() -> Path:
    """The models inside the package."""
    return Path(__file__).parents[3] / "beastd" / "builtin"
