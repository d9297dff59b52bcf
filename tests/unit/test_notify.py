"""What the service manager hears."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from beastd.notify import notify_ready, notify_stopping


def test_the_manager_hears_of_both_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is told how long the end may take, in microseconds."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "n"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "n"))
        notify_ready()
        notify_stopping(12.5)
        assert manager.recv(100) == b"READY=1"
        assert manager.recv(100) == b"STOPPING=1\nEXTEND_TIMEOUT_USEC=42500000"


@pytest.mark.parametrize("address", [None, "", "/nowhere/at/all", "vsock:2:3"])
def test_a_manager_that_is_not_there_is_no_trouble(address: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon without one runs as well."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if address is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify_ready()
