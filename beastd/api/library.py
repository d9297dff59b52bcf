"""The door to the library: Ollama's /api/pull, create, copy, delete and blobs, and what Beast has besides."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from beastd.api.cache import CACHE
from beastd.api.decode import body
from beastd.api.middleware import is_tcp
from beastd.api.stream import json_response, ndjson
from beastd.errors import BadRequest
from beastd.jobs.job import Job, Line
from beastd.library import contract
from beastd.library.library import Library
from beastd.quants import QUANT_TYPES

LIBRARY: web.AppKey[Library] = web.AppKey("library", Library)

T = TypeVar("T", bound=contract.LongRequest)

_DIGEST = re.compile(r"sha256[:-](?P<hex>[0-9a-f]{64})")


def _long(kind: type[T], verb: Callable[[Library, T, bool], Job]) -> Handler:
    """A handler that starts, or joins, the job of a verb and follows it."""

    async def handler(request: web.Request) -> web.StreamResponse:
        asked = await body(request, kind)
        request["model"] = getattr(asked, "model", None)
        return await _follow(request, verb(request.app[LIBRARY], asked, not is_tcp(request)), asked.stream)

    return handler


pull = _long(contract.PullRequest, Library.pull)
create = _long(contract.CreateRequest, Library.create)
quantize = _long(contract.QuantizeRequest, Library.quantize)
perplexity = _long(contract.PerplexityRequest, Library.perplexity)
add_adapter = _long(contract.AdapterRequest, Library.add_adapter)
import_ = _long(contract.ImportRequest, Library.import_)
export = _long(contract.ExportRequest, Library.export)
move = _long(contract.MoveRequest, Library.move)


async def copy(request: web.Request) -> web.Response:
    """POST /api/copy."""
    await _library(request).copy(await body(request, contract.CopyRequest))
    return json_response({"status": "success"})


async def delete(request: web.Request) -> web.Response:
    """DELETE /api/delete."""
    removed = await _library(request).delete(await body(request, contract.DeleteRequest))
    await request.app[CACHE].forget(removed["removed"])
    return json_response({"status": "success"} | removed)


async def modelfile(request: web.Request) -> web.Response:
    """POST /api/modelfile."""
    return json_response(_library(request).modelfile(await body(request, contract.ModelfileRequest)))


async def edit(request: web.Request) -> web.Response:
    """POST /api/edit."""
    asked = await body(request, contract.EditRequest)
    edited = await _library(request).edit(asked, is_local=not is_tcp(request))
    return json_response({"status": "success"} | edited)


async def search(request: web.Request) -> web.Response:
    """GET /api/search?q=TEXT."""
    found = await asyncio.to_thread(_library(request).search, request.query.get("q", "")[:200])
    models = [
        {
            "name": it.name.short,
            "description": it.description,
            "license": it.license,
            "context_length": it.context,
            "n_params": it.n_params,
            "repository": it.repo,
            "variants": list(it.variants),
            "installed": is_here,
        }
        for it, is_here in found
    ]
    return json_response({"models": models})


async def usage(request: web.Request) -> web.Response:
    """GET /api/du."""
    return json_response(await _library(request).usage())


async def prune(request: web.Request) -> web.Response:
    """POST /api/prune."""
    return json_response(await _library(request).prune(await body(request, contract.PruneRequest)))


async def quantizations(_request: web.Request) -> web.Response:
    """GET /api/quantizations."""
    return json_response(
        {
            "types": [
                {"name": it.name, "bits": it.bits, "about": it.about, "needs_imatrix": it.needs_imatrix}
                for it in QUANT_TYPES.values()
            ]
        }
    )


# --- blobs ---


async def has_blob(request: web.Request) -> web.Response:
    """HEAD /api/blobs/{digest}."""
    return web.Response(status=200 if _library(request).has_blob(_digest(request)) else 404)


async def post_blob(request: web.Request) -> web.Response:
    """POST /api/blobs/{digest}: a file, its bytes as they are."""
    digest, library = _digest(request), _library(request)
    if library.has_blob(digest):
        return web.Response(status=200)
    with library.upload(digest, request.content_length or 0) as upload:
        async for data in request.content.iter_chunked(2**20):
            await asyncio.to_thread(upload.write, data)
        await asyncio.to_thread(upload.keep)
    return web.Response(status=201)


def _digest(request: web.Request) -> str:
    match = _DIGEST.fullmatch(request.match_info["digest"].lower())
    if match is None:
        raise BadRequest("a blob's address ends in sha256: and 64 hexadecimal digits")
    return match["hex"]


# --- jobs ---


async def jobs(request: web.Request) -> web.Response:
    """GET /api/jobs."""
    return json_response({"jobs": [_info(job) for job in _library(request).jobs()]})


async def watch_job(request: web.Request) -> web.StreamResponse:
    """GET /api/jobs/{id}: its progress so far, and on to its end."""
    return await _follow(request, _library(request).job(request.match_info["id"]), True)


async def cancel_job(request: web.Request) -> web.Response:
    """DELETE /api/jobs/{id}; with ``?if_alone=true`` only when nobody watches it."""
    job = _library(request).job(request.match_info["id"])
    is_wanted = request.query.get("if_alone") == "true" and job.n_watchers > 0
    if not is_wanted:
        job.cancel()
        await job.ended()
    return json_response({"cancelled": job.state == "cancelled"})


def _info(job: Job) -> contract.JobInfo:
    return contract.JobInfo(
        id=job.id,
        kind=job.kind,
        subject=job.subject,
        state=job.state,
        started_at=job.started_at.isoformat().replace("+00:00", "Z"),
        n_watchers=job.n_watchers,
        error=job.error.message if job.error else None,
        progress=[_line(job, line) for line in job.lines],
    )


async def _follow(request: web.Request, job: Job, stream: bool | None) -> web.StreamResponse:
    """A job's progress as lines, its result the last; or without ``stream`` that alone."""
    watching = job.watch()
    async with aclosing(watching):
        if stream is False:
            async for _ in watching:
                pass
            return json_response(_ending(job))
        return await ndjson(request, _lines(job, watching))


async def _lines(job: Job, watching: AsyncGenerator[Line, None]) -> AsyncIterator[dict[str, Any]]:
    async for line in watching:
        yield _line(job, line)
    yield _ending(job)


def _line(job: Job, line: Line) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(line.progress)
    del told["type"]
    if line.progress.total:
        told["completed"] = line.progress.completed  # also where it is 0
    if line.rate > 0:
        told["rate"] = round(line.rate, 3)
    if line.eta_s is not None:
        told["eta_s"] = round(line.eta_s, 1)
    return told | {"job": job.id}


def _ending(job: Job) -> dict[str, Any]:
    return {"status": "success", "job": job.id} | job.result


def _library(request: web.Request) -> Library:
    return request.app[LIBRARY]
