"""The routes of the daemon, and the application that serves them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from aiohttp import web

from beastd.api import cache as kept
from beastd.api import fit as scales
from beastd.api import library as shelf
from beastd.api import native
from beastd.api.decode import MAX_BODY_BYTES
from beastd.api.metrics import TALLY, metrics
from beastd.api.middleware import errors_as_json, guard, on_prepare, request_log
from beastd.api.stream import json_response
from beastd.api.tally import Tally
from beastd.cache import Cache
from beastd.fit.advisor import Advisor
from beastd.library.library import Library
from beastd.service import Service


def make_app(  # noqa: PLR0917 - one room each
    service: Service,
    library: Library,
    advisor: Advisor,
    cache: Cache,
    health: Callable[[], dict[str, Any]],
    origins: Iterable[str],
) -> web.Application:
    """Everything a client can reach."""
    tally = Tally()
    middlewares = [request_log(tally), errors_as_json, guard(origins)]
    app = web.Application(middlewares=middlewares, client_max_size=MAX_BODY_BYTES)
    app[TALLY] = tally
    app.on_response_prepare.append(on_prepare)
    app[native.SERVICE] = service
    app[shelf.LIBRARY] = library
    app[scales.ADVISOR] = advisor
    app[kept.CACHE] = cache

    async def healthz(_request: web.Request) -> web.Response:
        return json_response({"status": "ok", **health()})

    async def root(_request: web.Request) -> web.Response:
        return web.Response(text="Beast is running")

    app.router.add_get("/", root)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/api/generate", native.generate)
    app.router.add_post("/api/chat", native.chat)
    app.router.add_get("/api/tags", native.tags)
    app.router.add_post("/api/show", native.show)
    app.router.add_get("/api/ps", native.ps)
    app.router.add_get("/api/fleet", native.fleet)
    app.router.add_post("/api/pin", native.pin)
    app.router.add_get("/api/cache", kept.status)
    app.router.add_delete("/api/cache", kept.clear)
    app.router.add_get("/api/version", native.version)
    app.router.add_post("/api/fit", scales.fit)
    app.router.add_post("/api/pull", shelf.pull)
    app.router.add_get("/api/search", shelf.search)
    app.router.add_post("/api/create", shelf.create)
    app.router.add_post("/api/copy", shelf.copy)
    app.router.add_post("/api/modelfile", shelf.modelfile)
    app.router.add_post("/api/edit", shelf.edit)
    app.router.add_delete("/api/delete", shelf.delete)
    app.router.add_head("/api/blobs/{digest}", shelf.has_blob)
    app.router.add_post("/api/blobs/{digest}", shelf.post_blob)
    app.router.add_post("/api/quantize", shelf.quantize)
    app.router.add_get("/api/quantizations", shelf.quantizations)
    app.router.add_post("/api/perplexity", shelf.perplexity)
    app.router.add_post("/api/adapters", shelf.add_adapter)
    app.router.add_post("/api/import", shelf.import_)
    app.router.add_post("/api/export", shelf.export)
    app.router.add_get("/api/du", shelf.usage)
    app.router.add_post("/api/prune", shelf.prune)
    app.router.add_post("/api/move", shelf.move)
    app.router.add_get("/api/jobs", shelf.jobs)
    app.router.add_get("/api/jobs/{id}", shelf.watch_job)
    app.router.add_delete("/api/jobs/{id}", shelf.cancel_job)
    return app
