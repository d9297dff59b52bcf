"""What `beast load` asks for."""

from __future__ import annotations

from typing import Any

from fakedaemon import FakeDaemon


def test_keep_alive_is_written_as_with_run(fake: FakeDaemon, beast: Any) -> None:
    """One name for one setting."""
    final = {"model": "cub", "variant": "q8_0", "done": True, "done_reason": "load"}
    fake.routes["POST /api/generate"] = lambda _: iter([final])
    assert beast("load", "cub", "--keep-alive", "1h").status == 0
    assert fake.asked("POST /api/generate")[0]["keep_alive"] == "1h"


def test_a_context_of_nothing_is_wrong_usage(fake: FakeDaemon, beast: Any) -> None:
    """It was taken for no wish at all."""
    assert beast("load", "cub", "--num-ctx", "0").status == 2
    assert not fake.asked("POST /api/generate")
