"""How a worker loads its model, by the configuration."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from beastd.config import Config
from beastd.contract import ModelShape
from beastd.fit.settings import load_settings

SHAPE = ModelShape(
    architecture="llama",
    weights_bytes=1,
    n_params=1,
    n_layers=1,
    n_embd=1,
    n_vocab=1,
    n_ctx_train=10**6,
    kv_elements_per_token=1,
)


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
    settings = load_settings(Config(**configured), SHAPE, 4096, n_parallel, "f16")
    assert (settings.kv_layout, settings.n_at_once) == (layout, n_at_once)


@pytest.mark.parametrize("kind", ["has_window", "is_recurrent"])
@pytest.mark.parametrize("configured", [{}, {"sequences": 20}, {"kv_layout": "unified"}])
def test_windows_and_states_are_a_sequences_own(kind: str, configured: dict[str, Any]) -> None:
    """As the engine runs such models, whatever is configured: no more are sent there than it has slots for."""
    shape = msgspec.structs.replace(SHAPE, **{kind: True})
    settings = load_settings(Config(**configured), shape, 4096, 2, "f16")
    assert (settings.kv_layout, settings.n_at_once) == ("partitioned", 2)
