"""Names of models: ``[host/][namespace/]name[:tag][@variant][+adapter[*scale]]...``, parsed and checked.

The base is Ollama's (``types/model/name.go``); variant and adapters are Beast's. A checked name holds no path
separator and no "..", so it can become a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from beastd.errors import BadRequest

MAX_PART_CHARS = 80
MAX_HOST_CHARS = 350
MAX_NAME_CHARS = 1000
MAX_ADAPTERS = 8
DEFAULT_TAG = "latest"

_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]{1,5})?")
_SCALE = re.compile(r"-?[0-9]{1,4}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class AdapterName:
    """An adapter asked for by name; without a scale, the model's own for it holds."""

    name: str
    scale: float | None = None

    def __str__(self) -> str:
        if self.scale is None:
            return self.name
        digits = f"{self.scale:.6f}".rstrip("0").rstrip(".")
        return f"{self.name}*{digits}"


@dataclass(frozen=True, slots=True, eq=False)
class ModelName:
    """A checked name; ``str()`` is its canonical form, and equality ignores case."""

    name: str
    tag: str = DEFAULT_TAG
    namespace: str = ""
    host: str = ""
    variant: str | None = None
    """None: the model's default."""
    adapters: tuple[AdapterName, ...] = ()

    @property
    def base(self) -> str:
        """The model alone, without variant and adapters."""
        return "/".join(part for part in (self.host, self.namespace, f"{self.name}:{self.tag}") if part)

    @property
    def whole(self) -> str:
        """The model and its variant, where one is named; without adapters."""
        return f"{self.base}@{self.variant}" if self.variant else self.base

    @property
    def short(self) -> str:
        """The model as a person would type it: no ``:latest``."""
        return self.base.removesuffix(f":{DEFAULT_TAG}")

    def __str__(self) -> str:
        return self.whole + "".join(f"+{adapter}" for adapter in self.adapters)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModelName) and str(self).lower() == str(other).lower()

    def __hash__(self) -> int:
        return hash(str(self).lower())


def parse_name(text: str) -> ModelName:
    """Parse what a person typed. Raises BadRequest that quotes it."""
    if len(text) > MAX_NAME_CHARS:
        raise _refusal(text, f"it is longer than {MAX_NAME_CHARS} characters")
    head, *adapters = text.split("+")
    base, at, variant = head.partition("@")
    *path, last = base.split("/")
    name, colon, tag = last.partition(":")
    if len(path) > 2:
        raise _refusal(text, "it has more than host/namespace/name")
    parts = [name, *path[-1:], *([tag] if colon else []), *([variant] if at else [])]
    for part in parts:
        if not is_part(part):
            raise _refusal(text, _why(part))
    if len(path) == 2 and not is_host(path[0]):
        raise _refusal(text, f"'{path[0][:40]}' is not a host")
    return ModelName(
        name=name,
        tag=spelled_tag(tag),
        namespace=path[-1] if path else "",
        host=path[0] if len(path) == 2 else "",
        variant=variant or None,
        adapters=_adapters(text, adapters),
    )


def parse_whole_name(text: str) -> ModelName:
    """Parse the name of a model alone. Raises BadRequest, also for one with a variant or an adapter."""
    name = parse_name(text)
    if name.variant or name.adapters:
        raise BadRequest(f"'{text[:80]}' names a variant or an adapter; give the model's name alone")
    return name


def spelled_tag(text: str) -> str:
    """A tag as it is kept: the default one in one spelling, since it is left out of paths."""
    return DEFAULT_TAG if text.lower() in {"", DEFAULT_TAG} else text


def is_part(text: str) -> bool:
    """Whether a text can be one part of a name: a tag, a variant, an adapter."""
    return len(text) <= MAX_PART_CHARS and ".." not in text and _PART.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """Whether a text can be the host of a name: a part, maybe with a port."""
    return len(text) <= MAX_HOST_CHARS and ".." not in text and _HOST.fullmatch(text) is not None


def _adapters(text: str, parts: list[str]) -> tuple[AdapterName, ...]:
    found = tuple(_adapter(text, part) for part in parts)
    if len(found) > MAX_ADAPTERS:
        raise _refusal(text, f"it asks for more than {MAX_ADAPTERS} adapters")
    if len({adapter.name.lower() for adapter in found}) < len(found):
        raise _refusal(text, "it names an adapter twice")
    return found


def _adapter(text: str, part: str) -> AdapterName:
    name, star, scale = part.partition("*")
    if not is_part(name):
        raise _refusal(text, _why(name))
    if star and not _SCALE.fullmatch(scale):
        raise _refusal(text, f"'{scale[:40]}' is not a scale; write a number like 0.5")
    return AdapterName(name, float(scale) if star else None)


def _why(part: str) -> str:
    if not part:
        return "a part of it is empty"
    return (
        f"'{part[:40]}' is not a name of at most {MAX_PART_CHARS} letters, digits and _.- that begins with a letter, "
        "digit or _ and has no '..'"
    )


def _refusal(text: str, why: str) -> BadRequest:
    return BadRequest(
        f"'{text[:80]}' is not a model name: {why}; write name, name:tag, name:tag@variant or name:tag+adapter*scale"
    )
