"""A worker whose process never comes to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beastd.errors import LoadFailed
from beastd.fleet.worker import Worker


async def test_a_process_that_cannot_start_fails_the_load(spec: Any, tmp_path: Path) -> None:
    """The system's reason is told, as Beast's own error."""
    (tmp_path / "logs").write_text("a file where the folder should be")
    worker = Worker(spec(), tmp_path / "logs" / "worker.log", 60.0)
    with pytest.raises(LoadFailed, match="could not be started"):
        await worker.load(lambda _: None)
    assert worker.pid is None
