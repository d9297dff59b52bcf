"""The door to the scales: POST /api/fit."""

from __future__ import annotations

from aiohttp import web

from beastd.api.decode import body
from beastd.api.middleware import is_tcp
from beastd.api.stream import json_response
from beastd.fit.advisor import Advisor
from beastd.fit.contract import FitRequest

ADVISOR: web.AppKey[Advisor] = web.AppKey("advisor", Advisor)


async def fit(request: web.Request) -> web.Response:
    """POST /api/fit."""
    asked = await body(request, FitRequest)
    request["model"] = asked.model
    return json_response(await request.app[ADVISOR].fit(asked, is_local=not is_tcp(request)))
