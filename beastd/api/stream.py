"""Answers as newline-delimited JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
from aiohttp import web

from beastd.api.middleware import error_body
from beastd.errors import BeastError

_encoder = msgspec.json.Encoder()


def json_response(value: object, status: int = 200) -> web.Response:
    """One JSON document."""
    return web.Response(body=_encoder.encode(value), status=status, content_type="application/json")


async def ndjson(request: web.Request, lines: AsyncIterator[dict[str, Any]]) -> web.StreamResponse:
    """Send one JSON object a line, each as soon as it is there.

    An error before the first line keeps its HTTP status; after it, it is the last line (as in Ollama).
    """
    first = await anext(lines)
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    await response.write(_encoder.encode(first) + b"\n")
    try:
        async for line in lines:
            await response.write(_encoder.encode(line) + b"\n")
    except BeastError as error:
        request["error"] = error
        await response.write(_encoder.encode(error_body(error)) + b"\n")
    await response.write_eof()
    return response
