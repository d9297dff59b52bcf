"""The daemon's settings: defaults < file < environment < flags, each value checked where it comes from."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from beastd.choices import with_choices
from beastd.clients import ClientRule, parse_clients
from beastd.durable import is_writable
from beastd.errors import BadRequest, ConfigError
from beastd.nearest import did_you_mean
from beastd.yamlfile import YamlError, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ENV_PREFIX = "BEAST_"
ENV_OF_PATHS = frozenset({"BEAST_HOME", "BEAST_SOCKET"})
"""Variables that say where files are (``paths``), not how the daemon behaves."""

_LISTS = {"tcp": ",", "origins": ",", "pin": ",", "preload": ",", "models": os.pathsep}
"""Settings that are lists, and what divides their items in a variable or flag."""

_DURATION_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_PART = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_BYTE_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}{end}": 1000 ** (i + 1) for i, letter in enumerate("kmgt") for end in ("", "b")},
    **{f"{letter}ib": 1024 ** (i + 1) for i, letter in enumerate("kmgt")},
}
_NUMBER = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,18})?) ?([a-z]{0,3})")


class Config(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings by the names they have in the file; ``BEAST_<NAME>`` in the environment."""

    context: Annotated[int, Meta(ge=1)] = 4096
    """Tokens one request may hold, prompt and answer, unless it asks for more."""
    parallel: Annotated[int, Meta(ge=1)] | Literal["auto"] = "auto"
    """Requests of a whole context that a loaded model's KV cache has room for; auto lets the memory decide."""
    sequences: Annotated[int, Meta(ge=1, le=192)] | Literal["auto"] = "auto"
    """Most requests a model answers at once in a unified cache: more than parallel, where most are shorter than a
    context or share a prefix, or fewer; auto is four times parallel, from 8 to 64. In a partitioned cache it is
    parallel."""
    threads: Annotated[int, Meta(ge=0)] = 0
    """0: the machine's physical cores."""
    gpu_layers: Annotated[int, Meta(ge=-1)] = -1
    """-1: all, where the build has a GPU."""
    flash_attn: Literal["auto", "on", "off"] = "auto"
    kv_type: Literal["f16", "q8_0", "q4_0"] = "f16"
    kv_layout: Literal["auto", "partitioned", "unified"] = "auto"
    """unified: all requests draw on one pool of KV cells, and lie there once as far as they begin alike. partitioned:
    each has cells of its own, which computes faster. auto: unified where sequences is set, and where memory has
    room for fewer than 4 contexts. Models with a sliding window or recurrent layers are always partitioned.
    docs/performance.md has the measurements."""
    mmap: bool = True
    batch: Annotated[int, Meta(ge=1024)] = 2048
    """Tokens one engine step may take."""
    step_ms: Annotated[int, Meta(ge=1)] = 300
    """Target for the longest step while answers stream, in milliseconds."""
    policy: Literal["mix", "fcfs", "sjf", "priority", "fair"] = "mix"
    """Which requests go first where not all can (docs/scheduling.md)."""
    clients: dict[str, ClientRule] = {}
    """Share and priority by client, as in ``uid:1000: {weight: 2, priority: low}``; see beastd/clients.py."""
    speculative: Literal["auto", "off", "ngram", "draft"] = "auto"
    """Where drafted tokens come from, unless a model or a request says: the text so far (ngram), the model's draft
    model or its own heads (draft), both as far as that pays (auto), nowhere (off). Answers are the same with all."""
    keep_alive: int | float | str = "5m"
    """How long an idle model stays loaded; see parse_duration."""
    memory_budget: Annotated[int, Meta(ge=1)] | str = "80%"
    """What all loaded models may take: a share of the machine's RAM ("80%"), or bytes ("12GB")."""
    gpu_budget: Annotated[int, Meta(ge=1)] | str = "90%"
    """The same of each GPU's memory."""
    kv_memory: Annotated[int, Meta(ge=0)] | str = "256MB"
    """What each loaded model may keep in memory of KV that left its cache: bytes, or a share of the machine's RAM; 0:
    nothing."""
    kv_disk: Annotated[int, Meta(ge=0)] | str = "4GB"
    """What all models together may keep of it on disk, where it outlives them and the daemon; 0: nothing."""
    quality: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: under memory pressure a model may run in a smaller variant of its own, and comes back by itself."""
    pin: list[str] = []
    """Models that never leave memory once they are loaded."""
    preload: list[str] = []
    """Models to load when the daemon starts."""
    sleep_after: int | float | str = "2m"
    """An idle model gives back its KV cache and compute memory after so long; negative is never."""
    queue: Annotated[int, Meta(ge=0)] = 512
    """Most requests that may wait."""
    hang_timeout_s: Annotated[float, Meta(gt=0)] = 60.0
    """A worker whose loop gives no sign of life for so long, and for as long as a slow disk (100 MB/s) takes to read
    its weights, is killed, and replaced at the next request."""
    load_timeout_s: Annotated[float, Meta(gt=0)] = 120.0
    """A load that makes no progress for so long, and as long as its weights take to read, is given up."""
    drain_s: Annotated[float, Meta(ge=0)] = 30.0
    """Time that running answers get at shutdown."""
    tcp: list[str] = []
    """Addresses ("host:port") to listen on besides the socket."""
    origins: list[str] = []
    """Browser origins answered over TCP besides the local ones."""
    models: list[str] = []
    """Models folders in place of the platform's one: the first is written to, all are read. See models_dirs."""
    default_model: Annotated[str, Meta(min_length=1)] = "cub"

    def __post_init__(self) -> None:
        try:
            _ = self.keep_alive_s, self.sleep_after_s
            self.memory_budget_bytes(1)
            self.gpu_budget_bytes(1)
            _ = self.kv_memory_bytes(1), self.kv_disk_bytes
            if self.sequences != "auto" and self.kv_layout == "partitioned":
                raise BadRequest("sequences is for a unified cache: take it out, or kv_layout: partitioned")
            if self.flash_attn == "off" and self.kv_type != "f16":
                raise BadRequest(f"kv_type {self.kv_type} needs flash attention: take out flash_attn: off, or kv_type")
            for address in self.tcp:
                split_address(address)
            for folder in self.models:
                if not Path(folder).expanduser().is_absolute():
                    raise BadRequest(f"'{folder}' is not a full path; a models folder is named from / on")
        except BadRequest as e:
            raise ValueError(e.message) from e

    def models_dirs(self, own: Path) -> list[Path]:
        """The folders to read models from; the first is the one to write to.

        That is the first setting if this user may write there, else ``own``, the folder of this user alone: so a
        folder can be shared with users who only read it.
        """
        folders = [Path(text).expanduser() for text in self.models]
        return folders if folders and is_writable(folders[0]) else [own, *folders]

    @property
    def keep_alive_s(self) -> float:
        """keep_alive in seconds; infinite for ever."""
        return parse_duration(self.keep_alive)

    @property
    def sleep_after_s(self) -> float:
        """sleep_after in seconds; infinite for never."""
        return parse_duration(self.sleep_after)

    def memory_budget_bytes(self, ram_bytes: int) -> int:
        """The budget on a machine with so much RAM."""
        return _share_of(ram_bytes, self.memory_budget)

    def gpu_budget_bytes(self, gpu_bytes: int) -> int:
        """The budget on a GPU with so much memory."""
        return _share_of(gpu_bytes, self.gpu_budget)

    def kv_memory_bytes(self, ram_bytes: int) -> int:
        """What a model may keep of KV on a machine with so much RAM."""
        return _share_of(ram_bytes, self.kv_memory)

    @property
    def kv_disk_bytes(self) -> int:
        """What all models may keep of KV on disk."""
        return parse_bytes(self.kv_disk)


def load_config(file: Path, env: Mapping[str, str], flags: Mapping[str, Any]) -> Config:
    """The settings in force; a missing file is an empty one, a flag of None is not given.

    Raises ConfigError naming where the wrong value came from.
    """
    values: dict[str, Any] = {}
    for key, value, origin in (*_from_file(file), *_from_env(env), *_from_flags(flags)):
        values[key] = _checked(key, value, origin)
    try:
        return Config(**values)
    except ValueError as e:  # each is right by itself
        raise ConfigError(f"the settings do not go together: {e}") from e


def parse_duration(value: str | float) -> float:
    """Seconds of a duration as Go writes it ("5m", "1h30m", "300ms"); a bare number is seconds, negative is for ever.

    For ever is ``math.inf``. Raises BadRequest. The rule is Ollama's for keep_alive.
    """
    seconds = _seconds(value)
    if seconds is None:
        raise BadRequest(f"'{str(value)[:40]}' is not a duration; write seconds, or a text like '300ms', '5m', '1h30m'")
    return math.inf if seconds < 0 else seconds


def parse_bytes(value: str | int) -> int:
    """Bytes of "12GB" (powers of 1000), "12GiB" (powers of 1024) or a plain number. Raises BadRequest."""
    match = _QUANTITY.fullmatch(str(value).strip().lower())
    if match is None or match[2] not in _BYTE_UNITS:
        raise BadRequest(f"'{str(value)[:40]}' is not a size; write bytes, or a text like '500MB', '12GB', '8GiB'")
    return int(float(match[1]) * _BYTE_UNITS[match[2]]) if "." in match[1] else int(match[1]) * _BYTE_UNITS[match[2]]


def _share_of(total_bytes: int, value: str | int) -> int:
    """Bytes of a budget: a share, as in "80%", or a size. Raises BadRequest."""
    if isinstance(value, str) and value.endswith("%"):
        share = value.removesuffix("%").strip()
        if not _NUMBER.fullmatch(share) or not 0 < float(share) <= 100:
            raise BadRequest(f"'{value}' is not a share; write a number above 0 and up to 100, as in '80%'")
        return int(total_bytes * float(share) / 100)
    return parse_bytes(value)


def split_address(text: str) -> tuple[str, int]:
    """Host and port of "127.0.0.1:11434", "[::1]:11434" or ":0" (every interface, any port). Raises BadRequest."""
    host, colon, port = text.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    is_port = re.fullmatch(r"[0-9]{1,5}", port) is not None and int(port) < 65536
    if not colon or not is_port or (":" in host and bare == host):
        raise BadRequest(f"'{text[:60]}' is not an address; write host:port, as in '127.0.0.1:11434' or '[::1]:11434'")
    return bare, int(port)


def _seconds(value: str | float) -> float | None:
    if isinstance(value, str):
        text = value.strip()
        size = text.removeprefix("-").removeprefix("+")
        seconds = float(size) if _NUMBER.fullmatch(size) else _go_seconds(size)
        return -seconds if seconds is not None and text.startswith("-") else seconds
    is_sane = not isinstance(value, bool) and abs(value) <= 1e18
    return float(value) if is_sane else None


def _go_seconds(text: str) -> float | None:
    parts = list(_DURATION_PART.finditer(text))
    if not parts or "".join(part[0] for part in parts) != text:
        return None
    return sum(float(part[1]) * _DURATION_UNITS_S[part[2]] for part in parts)


def _from_file(file: Path) -> Iterator[tuple[str, Any, str]]:
    try:
        document = read_yaml(file)
    except FileNotFoundError:
        return
    except OSError as e:
        raise ConfigError(f"cannot read {file}: {e.strerror}") from e
    except YamlError as e:
        raise ConfigError(f"{file}{f' line {e.line}' if e.line else ''}: {e.message}") from e
    for key, value in document.data.items():
        yield key, value, f"{file} line {document.lines[(key,)]}"


def _from_env(env: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    for name, value in env.items():
        if name.startswith(ENV_PREFIX) and name not in ENV_OF_PATHS and value:
            yield name.removeprefix(ENV_PREFIX).lower(), value, f"environment variable {name}"


def _from_flags(flags: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    for key, value in flags.items():
        if value is not None:
            yield key, value, f"flag --{key.replace('_', '-')}"


def _checked(key: str, value: Any, origin: str) -> Any:
    known = Config.__struct_fields__
    if key not in known:
        raise ConfigError(f"{origin}: there is no setting '{key}'{did_you_mean(key, known)}")
    if key in _LISTS and isinstance(value, str):
        value = [part.strip() for part in value.split(_LISTS[key])]
    try:
        if key == "clients":
            return parse_clients(value)
        return getattr(msgspec.convert({key: value}, Config, strict=False), key)
    except BadRequest as e:
        raise ConfigError(f"{origin}: {key}: {e.message}") from e
    except msgspec.ValidationError as e:
        problem = with_choices(str(e).partition(" - at `$")[0], Config, key)
        raise ConfigError(f"{origin}: {key}: {problem}") from e
