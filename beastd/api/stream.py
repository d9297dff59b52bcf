"""Answers as newline-delimited JSON."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

import msgspec
from aiohttp import web

from beastd.api.middleware import error_body, note_error

_encoder = msgspec.json.Encoder()


def json_response(value: object, status: int = 200) -> web.Response:
    """One JSON document."""
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


async def ndjson(request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    """Send one JSON object a line, each as soon as it is there.

    An error before the first line keeps its HTTP status; after it, it is the last line (as in Ollama).
    """
    first = _encoder.encode(await anext(lines))
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(first + b"\n")
    async with aclosing(_until_error(request, lines)) as rest:
        async for line in rest:
            await response.write(line + b"\n")
    await response.write_eof()
    return response


async def _until_error(request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> AsyncGenerator[bytes, None]:
    """The lines as JSON; whatever ends them early becomes the last one."""
    try:
        async for line in lines:
            yield _encoder.encode(line)
    except Exception as error:
        yield _encoder.encode(error_body(note_error(request, error)))
