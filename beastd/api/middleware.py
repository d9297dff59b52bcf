"""Around every handler: who may ask over TCP, errors as JSON, one log line a request."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from beastd.contract import Final
from beastd.errors import BadRequest, BeastError, Forbidden
from beastd.log import log_request

_LOCAL_NAMES = ("localhost",)
_log = logging.getLogger(__name__)


def error_body(error: BeastError) -> dict[str, Any]:
    """Ollama's error object, with Beast's code and whether asking again may help."""
    return {"error": error.message, "code": error.code, "retryable": error.retryable}


def error_response(error: BeastError) -> web.Response:
    """The error with its HTTP status; a retryable one says when."""
    headers = {"Retry-After": "1"} if error.status == 503 else None
    return web.Response(
        body=msgspec.json.encode(error_body(error)),
        status=error.status,
        content_type="application/json",
        headers=headers,
    )


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error raised before the answer began into its JSON form."""
    try:
        return await handler(request)
    except BeastError as error:
        request["error"] = error
        return error_response(error)
    except web.HTTPRequestEntityTooLarge as error:
        return error_response(BadRequest(f"the request's body is too large: {error.text}"))
    except web.HTTPException as error:
        text = f"{request.method} {request.path}: {error.reason.lower()}"
        return web.json_response({"error": text, "code": "http"}, status=error.status, headers=_allow(error))
    except Exception:
        _log.exception("unexpected error in %s %s", request.method, request.path)
        wrong = BeastError("Beast has a bug: the error is in the daemon's log; please report it")
        request["error"] = wrong
        return error_response(wrong)


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}


def request_log() -> Middleware:
    """Log one line for each finished POST, cancelled ones too."""
    ids = itertools.count(1)

    @web.middleware
    async def logged(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method != hdrs.METH_POST:
            return await handler(request)
        start_s = time.monotonic()
        status, reason = 499, "cancelled"
        try:
            response = await handler(request)
            status, reason = response.status, ""
            return response
        except asyncio.CancelledError:
            raise
        finally:
            _log_line(request, next(ids), status, reason, start_s)

    return logged


def _log_line(request: web.Request, id_: int, status: int, reason: str, start_s: float) -> None:
    final: Final | None = request.get("final")
    error: BeastError | None = request.get("error")
    first_s: float | None = request.get("first_s")
    log_request(
        id=id_,
        client=request.remote or "unix",
        verb=request.path.removeprefix("/api/"),
        status=error.status if error else status,
        total_ms=(time.monotonic() - start_s) * 1e3,
        model=request.get("model"),
        variant=final.variant if final else None,
        reason=(final.reason if final else reason) or None,
        n_prompt=final.n_prompt if final else None,
        n_cached=final.n_cached if final else None,
        n_answer=final.n_answer if final else None,
        ttft_ms=(first_s - start_s) * 1e3 if first_s else None,
        error=error.code if error else None,
    )


def guard(origins: Iterable[str]) -> Middleware:
    """Refuse TCP requests that a web page could have been tricked into: a foreign Host or Origin.

    DNS rebinding gives an attacker's name our address, so a Host must be an IP literal or a local name. The socket
    needs no such check: file permissions guard it, and its clients send any Host they like (peers' clients do).
    """
    extra = frozenset(origins)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not _is_tcp(request):
            return await handler(request)
        if not is_own_host(request.headers.get(hdrs.HOST, "")):
            raise Forbidden(
                f"Host {request.headers.get(hdrs.HOST, '')!r} is not this machine; use its IP address or localhost"
            )
        origin = request.headers.get(hdrs.ORIGIN)
        if origin is None:
            return await handler(request)
        if origin not in extra and not is_local_origin(origin):
            raise Forbidden(f"Origin {origin!r} may not use this daemon; allow it with origins in config.yaml")
        response = web.Response(status=204) if request.method == hdrs.METH_OPTIONS else await handler(request)
        if not response.prepared:
            response.headers.update(_cors(origin))
        return response

    return guarded


def _is_tcp(request: web.Request) -> bool:
    return request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), tuple)


def _cors(origin: str) -> dict[str, str]:
    return {
        hdrs.ACCESS_CONTROL_ALLOW_ORIGIN: origin,
        hdrs.ACCESS_CONTROL_ALLOW_METHODS: "GET, POST, DELETE, HEAD, OPTIONS",
        hdrs.ACCESS_CONTROL_ALLOW_HEADERS: "Authorization, Content-Type",
        hdrs.VARY: "Origin",
    }


def is_local_origin(origin: str) -> bool:
    """Whether a page's origin is this machine: unlike for a Host, any other address is a foreign page."""
    try:
        name = urlsplit(origin).hostname or ""
        return name in _LOCAL_NAMES or name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_own_host(host: str) -> bool:
    """Whether a Host header can only mean this machine: an IP literal, or localhost."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
