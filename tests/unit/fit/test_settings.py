"""How a worker loads its model, by the configuration."""

from __future__ import annotations

from typing import Any

import pytest

from beastd.config import Config
from beastd.fit.settings import load_settings


@pytest.mark.parametrize(
    ("configured", "n_parallel", "layout", "n_at_once"),
    [
        ({}, 8, "partitioned", 8),
        ({}, 3, "unified", 12),
        ({}, 1, "unified", 8),
        ({"parallel": 3}, 3, "partitioned", 3),
        ({"parallel": 30, "kv_layout": "unified"}, 30, "unified", 64),
        ({"sequences": 20}, 8, "unified", 20),
        ({"sequences": 2}, 8, "unified", 2),
        ({"sequences": 4, "parallel": 4}, 4, "unified", 4),
        ({"sequences": 1, "kv_layout": "unified"}, 4, "unified", 1),
    ],
)
def test_a_number_of_sequences_that_is_configured_is_kept(
    configured: dict[str, Any], n_parallel: int, layout: str, n_at_once: int
) -> None:
    """Be it more than the contexts there is room for, or fewer."""
    settings = load_settings(Config(**configured), 4096, n_parallel, "f16")
    assert (settings.kv_layout, settings.n_at_once) == (layout, n_at_once)
