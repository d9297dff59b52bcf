"""Beast's modelfiles: one YAML file says which files make a model, and how it wants to be run.

    from: qwen3:0.6b         # for `beast create`: everything not said here comes from this model (or GGUF file)
    variants:                # name: file, or a list of its shards; the first is the default
      q8_0: cub/cub-q8_0.gguf
      f16: cub/cub-f16-00001-of-00002.gguf
    default: q8_0            # a variant's name
    adapters:                # LoRAs: a file, or a file, its scale and whether it is on without being asked for
      pirate: {path: cub/cub-pirate-lora-f16.gguf, scale: 1.0, applied: false}
    draft: cub/cub-draft-f16.gguf
    projector: mmproj.gguf
    parameters: {temperature: 0.7}    # names as in a request's options
    kv_type: q8_0            # type of the KV cache: f16, q8_0 or q4_0
    quality: adaptive        # or fixed: whether it may run in a smaller variant when memory is short
    keep_alive: 1h           # how long it stays loaded when idle, unless a request says otherwise
    pinned: true             # once loaded it never leaves
    template: ...            # a Jinja chat template instead of the file's own
    system: ...
    messages: [{role: user, content: ...}]    # every chat begins with these
    license: ...
    description: ...
    origin: hf.co/user/repo  # where it came from
    sha256: {cub/cub-q8_0.gguf: 64 hex digits}
    registered: {/models/x.gguf: {bytes: 1, modified_ns: 2}}    # a file outside the store, as it was then

A file is named by its path, as ``sha256:HEX`` or as ``builtin:PATH`` (``locate``). A stored model needs ``variants``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec
import yaml
from msgspec import Struct

from beastd.choices import with_choices
from beastd.config import parse_duration
from beastd.contract import Message, Options
from beastd.errors import BadModel, BadRequest
from beastd.nearest import did_you_mean
from beastd.yamlfile import YamlError, parse_yaml, scalar

if TYPE_CHECKING:
    from collections.abc import Callable

    from beastd.yamlfile import Trail

T = TypeVar("T")

_PLACE = re.compile(r"(?P<problem>.*) - at `(?P<place>[^`]*)`", re.DOTALL)


class AdapterFields(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """An adapter in the long form."""

    path: str
    scale: float = 1.0
    applied: bool = False
    """Whether it is on when the model's name asks for no adapter."""


class Registered(Struct, frozen=True, forbid_unknown_fields=True):
    """A file outside Beast's store as it was when it was registered: if either differs now, it was changed."""

    bytes: int
    modified_ns: int


class Fields(Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True, rename={"from_": "from"}):
    """The file's fields, as written."""

    from_: str | None = None
    """A model or a GGUF file that everything not said here is taken from. Only ``beast create`` reads it."""
    variants: dict[str, str | list[str]] = {}
    """A quantization's name → its file, or all its shards in order; the first is the default."""
    default: str | None = None
    """The variant a name without @ means."""
    adapters: dict[str, str | AdapterFields] = {}
    """LoRA adapters by name."""
    draft: str | None = None
    """A small model with the same tokenizer, for speculative decoding."""
    projector: str | None = None
    """The model's mmproj file, for images."""
    parameters: Options = Options()
    """Defaults of a request's options."""
    kv_type: Literal["f16", "q8_0", "q4_0"] | None = None
    """Type of the KV cache instead of the configuration's."""
    quality: Literal["fixed", "adaptive"] | None = None
    """Whether it may run in a smaller variant of its own when memory is short, instead of the configuration's."""
    keep_alive: int | float | str | None = None
    """How long it stays loaded when idle, instead of the configuration's; a duration as in a request."""
    pinned: bool = False
    """Once it is loaded it never leaves memory."""
    template: str | None = None
    """A Jinja chat template instead of the GGUF's own."""
    system: str | None = None
    """System message of chats that bring none."""
    messages: list[Message] = []
    """A conversation that every chat begins with."""
    license: str | None = None
    """The licence's name or text."""
    description: str | None = None
    """One line about the model."""
    origin: str | None = None
    """Where it was pulled or imported from."""
    sha256: dict[str, str] = {}
    """A file's name here → its 64 hex digits."""
    registered: dict[str, Registered] = {}
    """A file's name here → what it was when it was registered."""


class Places:
    """Tells where in a file a field is, for messages."""

    def __init__(self, source: object, lines: dict[Trail, int]) -> None:
        self._source = source
        self._lines = lines

    def where(self, trail: Trail) -> str:
        """File, line and field."""
        known = next((trail[:n] for n in range(len(trail), 0, -1) if trail[:n] in self._lines), None)
        line = f" line {self._lines[known]}" if known else ""
        return f"{self._source}{line}" + (f": {'.'.join(trail)}" if trail else "")

    def refusal(self, trail: Trail, problem: str) -> BadModel:
        """The error to raise for a field."""
        return BadModel(f"{self.where(trail)}: {problem}")


def parse_modelfile(text: str, source: object) -> tuple[Fields, Places]:
    """Read a modelfile's text; ``source`` names it in errors. Raises BadModel with file, line and field."""
    try:
        document = parse_yaml(text)
    except YamlError as e:
        raise BadModel(f"{source}{f' line {e.line}' if e.line else ''}: {e.message}") from e
    places, data = Places(source, document.lines), document.data
    _check_known(places, (), data, Fields)
    _check_known(places, ("parameters",), data.get("parameters"), Options)
    fields = converted(places, (), data, Fields)
    _check_keep_alive(places, fields)
    return fields, places


def _check_keep_alive(places: Places, fields: Fields) -> None:
    if fields.keep_alive is not None:
        try:
            parse_duration(fields.keep_alive)
        except BadRequest as e:
            raise places.refusal(("keep_alive",), e.message) from e


def converted(places: Places, trail: Trail, data: Any, kind: type[T]) -> T:
    """Data at this place as ``kind``. Raises BadModel with file, line and field."""
    try:
        return msgspec.convert(data, kind)
    except msgspec.ValidationError as e:
        found = _PLACE.fullmatch(str(e))
        inner = found["place"].replace("[...]", "").split(".")[1:] if found else []
        problem = found["problem"] if found else str(e)
        if len(inner) == 1:
            problem = with_choices(problem, kind, inner[0])
        raise places.refusal((*trail, *inner), problem) from e


def file_names(fields: Fields) -> list[str]:
    """Every file the fields name, as they name it."""
    shards = [[value] if isinstance(value, str) else value for value in fields.variants.values()]
    adapters = [it.path if isinstance(it, AdapterFields) else it for it in fields.adapters.values()]
    others = [name for name in (fields.draft, fields.projector) if name]
    return [*(name for names in shards for name in names), *adapters, *others]


def with_files(fields: Fields, name_of: Callable[[str], str]) -> Fields:
    """The fields with every file called what ``name_of`` makes of its name here."""

    def named(value: str | list[str]) -> str | list[str]:
        return name_of(value) if isinstance(value, str) else [name_of(name) for name in value]

    adapters = {key: it if isinstance(it, AdapterFields) else AdapterFields(it) for key, it in fields.adapters.items()}
    return msgspec.structs.replace(
        fields,
        variants={key: named(value) for key, value in fields.variants.items()},
        adapters={key: msgspec.structs.replace(it, path=name_of(it.path)) for key, it in adapters.items()},
        draft=name_of(fields.draft) if fields.draft else None,
        projector=name_of(fields.projector) if fields.projector else None,
        sha256={name_of(key): it for key, it in fields.sha256.items()},
        registered={name_of(key): it for key, it in fields.registered.items()},
    )


def dump(fields: Fields) -> str:
    """The modelfile that reads back as these fields."""
    data = {name: value for name, value in msgspec.to_builtins(fields).items() if value != {}}
    for adapter in data.get("adapters", {}).values():
        if isinstance(adapter, dict) and adapter.get("scale") == 1.0:
            del adapter["scale"]  # equal to the default, though not the same object
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _check_known(places: Places, trail: Trail, data: Any, known: type[Struct]) -> None:
    names = known.__struct_encode_fields__
    for key in data if isinstance(data, dict) else ():
        if key not in names:
            raise places.refusal((*trail, key), f"there is no field of this name{did_you_mean(key, names)}")


class _Dumper(yaml.SafeDumper):
    """Writes what our reader (YAML 1.2's core schema) reads back as the same."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    is_block = "\n" in value and value.isprintable() is False and all(c.isprintable() or c == "\n" for c in value)
    has_loose_ends = any(line != line.rstrip() for line in value.split("\n"))
    if is_block and not has_loose_ends:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|")
    is_word = isinstance(scalar(value), str) and value.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if is_word else '"')


_Dumper.add_representer(str, _text)
