"""Tell the service manager how the daemon is: systemd's notification protocol, one datagram a message."""

from __future__ import annotations

import os
import socket
from contextlib import suppress

END_MARGIN_S = 30.0
"""What ending takes beyond the draining: workers get a moment each."""


def notify_ready() -> None:
    """The sockets answer: what is ordered after the service may start."""
    _send("READY=1")


def notify_stopping(drain_s: float) -> None:
    """The end has begun, and may take ``drain_s`` seconds and a margin, whatever the unit allows."""
    _send(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={round((drain_s + END_MARGIN_S) * 1e6)}")


def _send(message: str) -> None:
    """Nobody hears it where NOTIFY_SOCKET is not set; a manager that is gone must not end the daemon."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.sendto(message.encode(), "\0" + address[1:] if address[0] == "@" else address)
