"""The routes of the daemon, and the application that serves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from beastd.api import native
from beastd.api.decode import MAX_BODY_BYTES
from beastd.api.middleware import errors_as_json, guard, request_log
from beastd.api.stream import json_response
from beastd.service import Service


def make_app(service: Service, health: Callable[[], dict[str, Any]], origins: Iterable[str]) -> web.Application:
    """Everything a client can reach."""
    app = web.Application(middlewares=[request_log(), errors_as_json, guard(origins)], client_max_size=MAX_BODY_BYTES)
    app[native.SERVICE] = service

    async def healthz(_request: web.Request) -> web.Response:
        return json_response({"status": "ok", **health()})

    async def root(_request: web.Request) -> web.Response:
        return web.Response(text="Beast is running")

    app.router.add_get("/", root)
    app.router.add_get("/healthz", healthz)
    app.router.add_post("/api/generate", native.generate)
    app.router.add_post("/api/chat", native.chat)
    app.router.add_get("/api/tags", native.tags)
    app.router.add_post("/api/show", native.show)
    app.router.add_get("/api/ps", native.ps)
    app.router.add_get("/api/version", native.version)
    return app
