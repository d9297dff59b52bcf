"""What the tests of importing share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hunt import Ggufs
from ollamashop import OllamaShop


@pytest.fixture(scope="session")
def ggufs() -> Ggufs:
    return Ggufs()


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write a file below tmp_path."""

    def write(place: str, data: bytes) -> Path:
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def shop(tmp_path: Path) -> OllamaShop:
    return OllamaShop(tmp_path / ".ollama" / "models")
