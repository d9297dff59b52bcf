"""Rows of `beast ps`."""

from __future__ import annotations

from typing import Any

import pytest
from fakedaemon import FakeDaemon

from beastctl import render
from beastctl.commands.ps import _processor

LOADED = {
    "name": "cub:latest",
    "variant": "q4_k_m",
    "digest": "0123456789abcdef",
    "size": 215_000_000,
    "context_length": 4096,
    "state": "ready",
    "n_parallel": 8,
    "expires_at": "2129-01-01T00:00:00Z",
}


@pytest.mark.parametrize(
    ("width", "columns"),
    [(60, "NAME VARIANT SIZE STATE UNTIL"), (80, "NAME VARIANT SIZE CONTEXT STATE REQUESTS UNTIL"), (None, "ID")],
)
def test_a_narrow_terminal_shows_what_matters_most(
    fake: FakeDaemon, beast: Any, monkeypatch: pytest.MonkeyPatch, width: int | None, columns: str
) -> None:
    """Ids, processors and counts give way before states; a pipe gets everything."""
    fake.says("GET /api/ps", {"models": [LOADED]})
    monkeypatch.setattr(render, "terminal_width", lambda _: width)
    lines = beast("ps").out.splitlines()
    assert set(columns.split()) <= set(lines[0].split())
    assert len(lines) == 2
    assert width is None or max(map(len, lines)) <= width


@pytest.mark.parametrize(
    ("size_bytes", "gpu_bytes", "text"),
    [(100, 0, "100% CPU"), (100, 100, "100% GPU"), (100, 52, "48%/52% CPU/GPU"), (0, 0, "100% CPU")],
)
def test_processor_tells_where_a_model_lives(size_bytes: int, gpu_bytes: int, text: str) -> None:
    """As Ollama writes it."""
    assert _processor(size_bytes, gpu_bytes) == text
