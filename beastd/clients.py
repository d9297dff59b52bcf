"""What the configuration says of clients: the share and the priority of each, by its id.

An id is ``uid:<user>`` on the Unix socket; over TCP ``key:<first 12 hex digits of the bearer token's SHA-256>``, or
``ip:<address>`` where a request carries no token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from beastd.choices import with_choices
from beastd.errors import BadRequest
from beastd.nearest import did_you_mean

_ID = re.compile(r"uid:[0-9]{1,10}|key:[0-9a-f]{12}|ip:(?P<address>[0-9A-Fa-f:.]{2,45})")


class ClientRule(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a client stands to others."""

    weight: Annotated[float, Meta(ge=0.01, le=100.0)] = 1.0
    """Its share where clients share fairly, next to others' 1."""
    priority: Literal["high", "normal", "low"] = "normal"
    """Of its requests that name none."""


def parse_clients(value: object) -> dict[str, ClientRule]:
    """The setting ``clients``. Raises BadRequest naming the client and what is wrong with it."""
    if not isinstance(value, Mapping):
        raise BadRequest("takes a client and its rule a line, as in `uid:1000: {weight: 2, priority: low}`")
    return {_id(id_): _rule(id_, rule) for id_, rule in value.items()}


def _id(text: str) -> str:
    match = _ID.fullmatch(text)
    if match is None or not _is_address(match["address"] or "::"):
        raise BadRequest(f"'{text[:60]}' is no client; write uid:<number>, key:<12 hex digits> or ip:<address>")
    return f"ip:{ip_address(match['address'])}" if match["address"] else text


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _rule(id_: str, rule: object) -> ClientRule:
    known = ClientRule.__struct_fields__
    if not isinstance(rule, Mapping):
        raise BadRequest(f"{id_} takes weight and priority, as in `{{weight: 2, priority: low}}`")
    for name, value in rule.items():
        if name not in known:
            raise BadRequest(f"{id_} has no setting '{name}'{did_you_mean(name, known)}; it takes weight and priority")
        try:
            msgspec.convert({name: value}, ClientRule)
        except msgspec.ValidationError as error:
            problem = with_choices(str(error).partition(" - at `$")[0], ClientRule, name)
            raise BadRequest(f"{id_}: {name}: {problem}") from error
    return msgspec.convert(rule, ClientRule)
