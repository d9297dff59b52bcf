"""Rows of `beast ps`."""

from __future__ import annotations

import pytest

from beastctl.commands.ps import _processor


@pytest.mark.parametrize(
    ("size_bytes", "gpu_bytes", "text"),
    [(100, 0, "100% CPU"), (100, 100, "100% GPU"), (100, 52, "48%/52% CPU/GPU"), (0, 0, "100% CPU")],
)
def test_processor_tells_where_a_model_lives(size_bytes: int, gpu_bytes: int, text: str) -> None:
    """As Ollama writes it."""
    assert _processor(size_bytes, gpu_bytes) == text
