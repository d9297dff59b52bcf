"""Who asks, over each kind of connection."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from beastd.api.client import client_of, try_peer_uid

Client = TestClient[web.Request, web.Application]


def app() -> web.Application:
    async def tell(request: web.Request) -> web.Response:
        return web.Response(text=client_of(request))

    app = web.Application()
    app.router.add_get("/", tell)
    return app


@pytest.fixture
async def over_tcp() -> AsyncIterator[Client]:
    """A server on TCP that tells each client who it is."""
    async with TestClient(TestServer(app())) as client:
        yield client


async def said(client: Client, **headers: str) -> str:
    async with client.get("/", headers=headers) as reply:
        return await reply.text()


async def test_over_tcp_a_bearer_token_names_the_client_by_its_digest(over_tcp: Client) -> None:
    """However the scheme is written; the token itself is nowhere."""
    assert await said(over_tcp, Authorization="Bearer secret") == "key:2bb80d537b1d"
    assert await said(over_tcp, Authorization="bearer  secret ") == "key:2bb80d537b1d"
    assert await said(over_tcp, Authorization="Bearer other") != "key:2bb80d537b1d"


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic c2VjcmV0"}])
async def test_over_tcp_without_a_token_the_address_does(over_tcp: Client, header: dict[str, str]) -> None:
    """Another scheme is no token."""
    assert await said(over_tcp, **header) == "ip:127.0.0.1"


async def test_over_the_socket_the_kernel_tells_the_user(tmp_path: Path) -> None:
    """A token claims nothing there."""
    runner = web.AppRunner(app())
    await runner.setup()
    path = str(tmp_path / "s")
    await web.UnixSite(runner, path).start()
    headers = {"Authorization": "Bearer secret"}
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
        session.get("http://x/", headers=headers) as reply,
    ):
        assert await reply.text() == f"uid:{os.getuid()}"
    await runner.cleanup()


def test_a_connection_whose_user_nobody_tells_has_none() -> None:
    """Such a client is nobody in particular, and is served."""

    class Silent:
        def getsockopt(self, _level: int, _name: int, _size: int, /) -> bytes:
            raise OSError

    assert try_peer_uid(Silent()) is None


def test_both_ends_of_a_pair_are_this_user() -> None:
    """The platform's own structure is read right."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert try_peer_uid(ours) == os.getuid()
