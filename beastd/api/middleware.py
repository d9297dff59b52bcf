"""Around every handler: who may ask over TCP and read the answer, errors as JSON, one log line a request."""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import math
import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from beastd.api.tally import Tally
from beastd.contract import Final
from beastd.errors import BeastError, Cancelled, Forbidden
from beastd.log import log_request

_log = logging.getLogger(__name__)


def error_body(error: BeastError) -> dict[str, Any]:
    """Ollama's error object, with Beast's code and whether asking again may help."""
    return {"error": error.message, "code": error.code, "retryable": error.retryable}


def error_response(error: BeastError) -> web.Response:
    """The error with its HTTP status; one that passes says when."""
    wait_s = error.retry_after_s or (1.0 if error.status == 503 else None)
    headers = {hdrs.RETRY_AFTER: str(math.ceil(wait_s))} if wait_s else None
    return web.Response(
        body=msgspec.json.encode(error_body(error)),
        status=error.status,
        content_type="application/json",
        headers=headers,
    )


def note_error(request: web.Request, error: Exception) -> BeastError:
    """The error as the client and the log line have it; one that is not Beast's own is a bug, and logged in full."""
    if not isinstance(error, BeastError):
        _log.error("unexpected error in %s %s", request.method, request.path, exc_info=error)
        error = BeastError("Beast has a bug: the error is in the daemon's log; please report it")
    request["error"] = error
    return error


async def on_prepare(request: web.Request, response: web.StreamResponse) -> None:
    """For ``on_response_prepare``: note that the answer begins; a page that may ask may read it, errors too."""
    request["begun"] = response
    if origin := request.get("origin"):
        response.headers.update(_cors(origin))


@web.middleware
async def errors_as_json(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error raised before the answer began into its JSON form; a later one breaks the connection off."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        text = f"{request.method} {request.path}: {error.reason.lower()}"
        return web.json_response({"error": text, "code": "http"}, status=error.status, headers=_allow(error))
    except Exception as error:
        begun: web.StreamResponse | None = request.get("begun")
        if begun is None:
            return error_response(note_error(request, error))
        note_error(request, Cancelled("the client left") if isinstance(error, ConnectionError) else error)
        if request.transport:  # so that nobody takes what came for the whole answer
            request.transport.abort()
        return begun


def _allow(error: web.HTTPException) -> dict[str, str]:
    return {hdrs.ALLOW: error.headers[hdrs.ALLOW]} if hdrs.ALLOW in error.headers else {}


def request_log(tally: Tally) -> Middleware:
    """Log and count each finished POST, cancelled ones too."""
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
            _finish(request, tally, next(ids), (status, reason), start_s)

    return logged


def _finish(request: web.Request, tally: Tally, id_: int, end: tuple[int, str], start_s: float) -> None:
    status, reason = end
    final: Final | None = request.get("final")
    error: BeastError | None = request.get("error")
    first_s: float | None = request.get("first_s")
    total_s, ttft_s = time.monotonic() - start_s, first_s - start_s if first_s else None
    verb = _verb(request)
    status = error.status if error else status
    tally.add(verb, status, request.get("model") if final else None, ttft_s, total_s)
    log_request(
        id=id_,
        client=request.remote or "unix",
        verb=verb,
        status=status,
        total_ms=total_s * 1e3,
        model=request.get("model"),
        variant=final.variant if final else None,
        reason=(final.reason if final else reason) or None,
        n_prompt=final.n_prompt if final else None,
        n_cached=final.n_cached if final else None,
        n_answer=final.n_answer if final else None,
        ttft_ms=None if ttft_s is None else ttft_s * 1e3,
        error=error.code if error else None,
    )


def _verb(request: web.Request) -> str:
    """The route's path, not the client's: that could be anything."""
    route = request.match_info.route.resource
    return (route.canonical if route else "unknown").removeprefix("/api/")


def guard(origins: Iterable[str]) -> Middleware:
    """Refuse TCP requests that a web page could have been tricked into: a foreign Host or Origin.

    DNS rebinding gives an attacker's name our address, so a Host must be an IP literal or a local name. The socket
    needs no such check: file permissions guard it, and its clients send any Host they like (peers' clients do).
    """
    extra = frozenset(origins)

    @web.middleware
    async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_tcp(request):
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
        request["origin"] = origin
        return web.Response(status=204) if request.method == hdrs.METH_OPTIONS else await handler(request)

    return guarded


def is_tcp(request: web.Request) -> bool:
    """Whether a request came over TCP; the Unix socket's clients are this machine's users."""
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
    name = _host_name(origin)
    address = _address(name)
    return _is_localhost(name) or (address is not None and address.is_loopback)


def is_own_host(host: str) -> bool:
    """Whether a Host header can only mean this machine: an IP literal, or localhost."""
    name = _host_name(f"//{host}")
    return _is_localhost(name) or _address(name) is not None


def _host_name(url: str) -> str:
    """The host in a URL, empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_localhost(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
