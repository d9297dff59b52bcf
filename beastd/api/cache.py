"""The door to the KV cache: GET and DELETE /api/cache."""

from __future__ import annotations

from aiohttp import web

from beastd.api.decode import body
from beastd.api.stream import json_response
from beastd.cache import Cache
from beastd.contract import CacheClearRequest

CACHE: web.AppKey[Cache] = web.AppKey("cache", Cache)


async def status(request: web.Request) -> web.Response:
    """GET /api/cache: what KV is kept of each model, in memory and on disk."""
    return json_response(await request.app[CACHE].status())


async def clear(request: web.Request) -> web.Response:
    """DELETE /api/cache: forget it, or one model's."""
    asked = await body(request, CacheClearRequest)
    request["model"] = asked.model
    cleared = await request.app[CACHE].clear(asked.model)
    return json_response({"status": "success", "bytes": cleared.disk_bytes, "memory_bytes": cleared.memory_bytes})
