"""A server of our middlewares over TCP: who may ask and read, and that every answer ends once and as what it is."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from beastd.api.decode import body
from beastd.api.middleware import errors_as_json, guard, is_local_origin, is_own_host, on_prepare, request_log
from beastd.api.stream import json_response, ndjson
from beastd.api.tally import Tally
from beastd.contract import GenerateRequest
from beastd.errors import EngineFailed, ModelNotFound

PAGE = {"Origin": "https://app.example"}
MAX_BODY_BYTES = 1000
# The keys that aiohttp recommends instead of strings came with 3.14; Beast runs on older ones.
pytestmark = pytest.mark.filterwarnings("ignore::aiohttp.web.NotAppKeyWarning")

Client = TestClient[web.Request, web.Application]
StartServer = Callable[[Callable[[web.Request], Awaitable[web.StreamResponse]]], Awaitable[Client]]


@pytest.fixture
async def serve() -> AsyncIterator[StartServer]:
    """Start a server whose only resource, /, is the handler given."""
    clients: list[Client] = []

    async def start(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Client:
        middlewares = [request_log(Tally()), errors_as_json, guard(["https://app.example"])]
        app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
        app.on_response_prepare.append(on_prepare)
        app.router.add_post("/", handler)
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


async def lines_then(error: Exception) -> AsyncIterator[dict[str, Any]]:
    yield {"n": 1}
    yield {"n": 2}
    raise error


async def streamed(request: web.Request) -> web.StreamResponse:
    return await ndjson(request, lines_then(EngineFailed("no step")))


async def broken(_request: web.Request) -> web.StreamResponse:
    raise ModelNotFound("no such model")


async def buggy(_request: web.Request) -> web.StreamResponse:
    raise KeyError("oops")


async def whole(_request: web.Request) -> web.StreamResponse:
    return json_response({})


# --- who may read ---


@pytest.mark.parametrize(("handler", "status"), [(whole, 200), (streamed, 200), (broken, 404), (buggy, 500)], ids=str)
async def test_a_page_of_an_admitted_origin_may_read_every_answer(
    serve: StartServer, handler: Any, status: int
) -> None:
    """Streams and errors as well."""
    client = await serve(handler)
    async with client.post("/", headers=PAGE) as response:
        assert response.status == status
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"
        assert response.headers["Vary"] == "Origin"


async def test_an_unknown_path_may_be_read_too(serve: StartServer) -> None:
    client = await serve(whole)
    async with client.get("/nothing", headers=PAGE) as response:
        assert response.status == 404
        assert response.headers["Access-Control-Allow-Origin"] == "https://app.example"


async def test_a_preflight_is_answered_for_an_admitted_origin(serve: StartServer) -> None:
    client = await serve(whole)
    async with client.options("/", headers=PAGE) as response:
        assert response.status == 204
        assert "POST" in response.headers["Access-Control-Allow-Methods"]


@pytest.mark.parametrize("headers", [{"Origin": "https://evil.example"}, {}])
async def test_nobody_else_is_told_that_pages_may_read(serve: StartServer, headers: dict[str, str]) -> None:
    """Neither a foreign origin, which is refused, nor a client that is no page."""
    client = await serve(streamed)
    async with client.post("/", headers=headers) as response:
        assert response.status == (403 if headers else 200)
        assert "Access-Control-Allow-Origin" not in response.headers


# --- one ending ---


async def test_a_beast_error_after_the_first_line_is_the_last_line(serve: StartServer) -> None:
    client = await serve(streamed)
    async with client.post("/") as response:
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert lines[:2] == [{"n": 1}, {"n": 2}]
    assert lines[2:] == [{"error": "no step", "code": "engine_failed", "retryable": True}]


async def test_a_bug_after_the_first_line_is_a_last_line_too_and_logged(
    serve: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        return await ndjson(request, lines_then(KeyError("oops")))

    client = await serve(handler)
    async with client.post("/") as response:
        lines = (await response.text()).splitlines()
    assert len(lines) == 3
    assert json.loads(lines[2])["code"] == "internal"
    assert "KeyError: 'oops'" in caplog.text


async def test_what_cannot_be_written_as_json_is_a_bug_like_others(serve: StartServer) -> None:
    async def lines() -> AsyncIterator[dict[str, Any]]:
        yield {"n": 1}
        yield {"n": object()}

    async def handler(request: web.Request) -> web.StreamResponse:
        return await ndjson(request, lines())

    client = await serve(handler)
    async with client.post("/") as response:
        assert json.loads((await response.text()).splitlines()[1])["code"] == "internal"


async def test_a_stream_that_cannot_say_its_error_is_broken_off(serve: StartServer) -> None:
    """So that the client does not take a part, or a second response in its midst, for the answer."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half of i")
        raise EngineFailed("no step")

    client = await serve(handler)
    async with client.post("/") as response:
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_a_client_that_left_is_no_bug(serve: StartServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is one line with status 499."""

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"x")
        assert request.transport is not None
        request.transport.abort()
        while True:
            await response.write(b"x")

    caplog.set_level(logging.INFO)
    client = await serve(handler)
    with pytest.raises(aiohttp.ClientError):
        async with client.post("/") as response:
            await response.read()
    assert "unexpected error" not in caplog.text
    (line,) = [record for record in caplog.records if record.name == "beastd.requests"]
    assert line.__dict__["fields"]["status"] == 499


# --- bodies ---


async def decoded(request: web.Request) -> web.StreamResponse:
    return json_response(await body(request, GenerateRequest))


async def test_a_body_too_large_is_a_413_of_its_own_code(serve: StartServer) -> None:
    client = await serve(decoded)
    async with client.post("/", data=b"x" * (MAX_BODY_BYTES + 1)) as response:
        assert response.status == 413
        error = await response.json()
    assert error["code"] == "too_large"
    assert str(MAX_BODY_BYTES) in error["error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stop": ["x"] * 65}, ["options.stop", "64"]),
        ({"logit_bias": {"x": 1e300}}, ["options.logit_bias"]),
        ({"temprature": 1}, ["option", "temprature"]),
    ],
)
async def test_an_option_out_of_bounds_is_named(serve: StartServer, options: Any, words: list[str]) -> None:
    client = await serve(decoded)
    async with client.post("/", json={"options": options}) as response:
        assert response.status == 400
        error = (await response.json())["error"]
    assert all(word in error for word in words), error


# --- names of this machine ---


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [
        ("localhost", True),
        ("localhost:11434", True),
        ("beast.localhost", True),
        ("127.0.0.1:1", True),
        ("192.168.1.5", True),
        ("[::1]:1", True),
        ("", False),
        ("[", False),
        ("localhost.evil.example", False),
        ("notlocalhost", False),
    ],
)
def test_a_host_is_ours_if_it_can_only_be_this_machine(host: str, is_ours: bool) -> None:
    assert is_own_host(host) is is_ours


@pytest.mark.parametrize(
    ("origin", "is_local"),
    [
        ("http://localhost:3000", True),
        ("http://app.localhost", True),
        ("http://127.0.0.2", True),
        ("http://[::1]:80", True),
        ("http://192.168.1.5", False),
        ("http://[", False),
        ("null", False),
        ("", False),
        ("https://localhost.evil.example", False),
    ],
)
def test_an_origin_is_local_if_its_page_comes_from_this_machine(origin: str, is_local: bool) -> None:
    assert is_local_origin(origin) is is_local
