"""The cells of a cache and the tiers: how long a sequence waits for what is on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import numpy as np
import pytest

from beastd import ipc
from beastd.engine.cells import LlamaCells
from beastd.engine.llama import Llama
from beastd.engine.pace import Pace
from beastd.engine.tiers import Tiers

PROMPT = list(range(300))
N_THERE = 99


@pytest.mark.parametrize(
    ("rate", "waits_s", "gives_up_s"), [(1000.0, 0.19, 0.21), (20.0, 9.9, 10.1), (1e5, 0.09, 0.11)]
)
def test_nobody_waits_longer_for_a_disk_than_computing_takes(
    tmp_path: Path, rate: float, waits_s: float, gives_up_s: float
) -> None:
    """Of the 200 tokens that come, unless that is next to nothing; those that come later are still found."""
    now_s = 0.0
    settings = ipc.KvTiers(folder=str(tmp_path), memory_bytes=0, disk_bytes=10**6)
    tiers = Tiers(settings, "ab" * 20, clock=lambda: now_s)
    tiers.put((), PROMPT, 0, np.zeros(100, np.uint8), is_exact=False)
    tiers.flush(60)
    cells = LlamaCells(cast("Llama", SimpleNamespace(is_plain=True, is_unified=True)), tiers)
    sequence: Any = SimpleNamespace(adapters=(), prompt=PROMPT)
    pace = Pace(0.3, 512, rate)
    assert tiers._disk
    with patch.object(tiers._disk, "start"):
        assert cells.is_reading(sequence, N_THERE, pace)
        now_s = waits_s
        assert cells.is_reading(sequence, N_THERE, pace)
        now_s = gives_up_s
        assert not cells.is_reading(sequence, N_THERE, pace)
    assert tiers.find((), PROMPT, N_THERE, is_exact=False)
