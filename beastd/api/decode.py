"""Request bodies into contract objects: strict JSON, errors that name the field."""

from __future__ import annotations

import re
from typing import TypeVar

import msgspec
from aiohttp import web

from beastd.errors import BadRequest, TooLarge

MAX_BODY_BYTES = 16 * 2**20

_HINTS = {
    "num_keep": "Beast never shifts the context, so there is nothing to keep",
    "num_batch": "it is set for the machine: batch in config.yaml",
    "num_gpu": "it is set for the machine: gpu_layers in config.yaml",
    "num_thread": "it is set for the machine: threads in config.yaml",
    "use_mmap": "it is set for the machine: mmap in config.yaml",
}
"""Options other servers take with a request, and why Beast does not."""

_UNKNOWN = re.compile(r"Object contains unknown field `(.+?)`(?: - at `\$\.?(.*)`)?", re.DOTALL)
_PLACE = re.compile(r" - at (`key` in )?`\$\.?(.*)`$", re.DOTALL)

T = TypeVar("T")


async def body(request: web.Request, kind: type[T]) -> T:
    """The request's JSON body as ``kind``; an empty body is an empty object.

    Raises ``BadRequest`` naming the unknown field, wrong type or value, ``TooLarge`` for more than the server takes.
    """
    try:
        data = await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        raise TooLarge(f"the request's body is larger than {request.client_max_size} bytes; send less") from error
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise BadRequest(_explain(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request's body is not JSON: {error}") from error


def _explain(message: str) -> str:
    if found := _UNKNOWN.fullmatch(message):
        name, place = found[1], found[2]
        hint = f": {_HINTS[name]}" if name in _HINTS else "; remove it, or check its spelling"
        return f"unknown {'option' if place == 'options' else 'field'} '{name}'{hint}"
    if found := _PLACE.search(message):
        return f"{'a key of ' if found[1] else ''}{found[2] or 'body'}: {message[: found.start()]}"
    return message
