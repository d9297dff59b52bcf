"""Who asks: an id that fair shares and rules of the configuration know a client by."""

from __future__ import annotations

import hashlib
import socket
import struct
import sys
from typing import Protocol

from aiohttp import hdrs, web

_LINUX_CRED = struct.Struct("iII")
"""``struct ucred``: process, user, group."""
_BSD_CRED = struct.Struct("IIh2x16I")
"""``struct xucred``: version, user, groups."""
_SOL_LOCAL = 0
_LOCAL_PEERCRED = 1
"""Python does not name these on macOS."""
_KEY_DIGITS = 12


class _Socket(Protocol):
    """What asyncio gives out of a connection's socket."""

    def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
        """As ``socket.socket``'s."""


def client_of(request: web.Request) -> str:
    """``uid:1000`` over the Unix socket; over TCP ``key:…`` for a bearer token, else ``ip:…``; "" where none is known.

    A token is named by its digest, so that neither logs nor files hold it.
    """
    transport = request.transport
    if transport is None:
        return ""
    if not isinstance(transport.get_extra_info("sockname"), tuple):
        uid = try_peer_uid(transport.get_extra_info("socket"))
        return "" if uid is None else f"uid:{uid}"
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return f"key:{hashlib.sha256(token.strip().encode('utf-8', 'surrogateescape')).hexdigest()[:_KEY_DIGITS]}"
    return f"ip:{transport.get_extra_info('peername')[0]}"


def try_peer_uid(connection: _Socket) -> int | None:
    """The user at the other end of a Unix socket, where the platform tells."""
    try:
        if sys.platform == "linux":
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _LINUX_CRED.size)
            return int(_LINUX_CRED.unpack(raw)[1])
        raw = connection.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _BSD_CRED.size)
        return int(_BSD_CRED.unpack(raw)[1])
    except (OSError, struct.error):
        return None
