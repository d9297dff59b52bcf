"""What lists tell of a GGUF, remembered on disk: reading a thousand headers takes minutes, reading this a blink."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from beastd.durable import write_atomically
from beastd.errors import BeastError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from beastd.registry.cache import Stamp
    from beastd.registry.header import Header

MAX_FACTS = 16384

_log = logging.getLogger(__name__)


class Facts(Struct, frozen=True, kw_only=True):
    """The few values of a header that every list shows."""

    architecture: str
    n_params: int
    n_ctx_train: int
    """Tokens of context it was trained with."""
    quantization: str
    bits_per_weight: float


def facts_of(header: Header) -> Facts:
    """The facts of a model's header. Raises BadModel when it is no model."""
    shape = header.shape()
    return Facts(
        architecture=shape.architecture,
        n_params=shape.n_params,
        n_ctx_train=shape.n_ctx_train,
        quantization=header.quantization,
        bits_per_weight=round(header.bits_per_weight, 3),
    )


class FactsFile:
    """Facts by the stamp of their files. The file is a cache: a lost or broken one is made again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, Facts] | None = None
        self._is_changed = False

    def get(self, stamp: Stamp, read: Callable[[], Header]) -> Facts:
        """The facts of these files, from ``read`` unless they are known. What it raises is not remembered."""
        known = self._known()
        key = msgspec.json.encode(stamp).decode()
        if key not in known:
            known[key] = facts_of(read())
            self._is_changed = True
        return known[key]

    def save(self) -> None:
        """Write what is new; the oldest go when there are too many. A disk that is full costs only time, later."""
        if not self._is_changed or self._facts is None:
            return
        self._facts = dict(list(self._facts.items())[-MAX_FACTS:])
        self._is_changed = False
        try:
            write_atomically(self._path, msgspec.json.encode(self._facts), mode=0o600)
        except BeastError as e:
            _log.warning("%s", e.message)

    def _known(self) -> dict[str, Facts]:
        if self._facts is None:
            self._facts = {}
            with suppress(OSError, msgspec.MsgspecError):
                self._facts = msgspec.json.decode(self._path.read_bytes(), type=dict[str, Facts])
        return self._facts
