"""What ``POST /api/fit`` takes and gives. Sizes are bytes, contexts tokens."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from beastd.contract import MOST_TOKENS

KvType = Literal["f16", "q8_0", "q4_0"]


class FitRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whether a model fits, loaded like this."""

    model: str = ""
    """One that is here, or anything ``/api/pull`` takes. Empty means the built-in model."""
    num_ctx: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    """Tokens of context; else the model's, then the configuration's."""
    num_parallel: Annotated[int, Meta(ge=1, le=256)] | None = None
    """Requests at once; else the configuration's."""
    kv_type: KvType | None = None
    """Type of the KV cache; else the configuration's."""
    token: Annotated[str, Meta(pattern=r"^[!-~]{1,1000}$")] | None = None
    """For the hub, instead of the daemon's HF_TOKEN; over the Unix socket alone."""


class DeviceShare(Struct, frozen=True, kw_only=True):
    """What an option takes on one device."""

    device: str
    """"RAM", or a GPU ("CUDA0")."""
    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    process_bytes: int
    """Of main memory: interpreter, libraries, vocabulary."""
    total_bytes: int


class FitOption(Struct, frozen=True, kw_only=True):
    """One way to load the model."""

    variant: str
    num_ctx: int
    num_parallel: int
    kv_type: str
    fits: bool
    devices: list[DeviceShare]


class Device(Struct, frozen=True, kw_only=True):
    """What this machine has."""

    device: str
    description: str
    total_bytes: int
    budget_bytes: int
    """What all models may take of it."""
    free_bytes: int
    """What the system could give now."""


class Download(Struct, frozen=True, kw_only=True):
    """What pulling the model would take."""

    file: str
    size_bytes: int
    missing_bytes: int
    """How much of that is not here yet."""
    disk_free_bytes: int
    has_room: bool


class FitReply(Struct, frozen=True, kw_only=True):
    """The verdict, and the numbers behind it."""

    model: str
    answer: Literal["fits", "smaller", "no"]
    """smaller: not as asked, but as each of ``instead``."""
    sentence: str
    """The verdict for people."""
    asked: FitOption
    instead: list[FitOption]
    """What fits in its place, the best first."""
    machine: list[Device]
    is_exact: bool
    """False: llama.cpp could not simulate the load, so the numbers are estimates."""
    warnings: list[str]
    next: list[str]
    """What to do, for people."""
    download: Download | None = None
    """None for a model that is here."""
