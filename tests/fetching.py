"""What tests of the fetch process share: models to offer, and orders for small files."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from ggufwriter import GgufWriter

from beastd.fetch.order import Fetched, FetchOrder
from beastd.registry.store import Store

CHUNK_BYTES = 64 * 1024
REPO = "user/model-GGUF"
"""Where tests put their models."""
Pull = Callable[..., Fetched]


def gguf(n_bytes: int, seed: int = 0, kind: str | None = None) -> bytes:
    """A sound model with random weights."""
    writer = GgufWriter()
    pairs = writer.model() + ([writer.pair("general.type", "str", kind)] if kind else [])
    return writer.file(pairs, n_data=4096) + random.Random(seed).randbytes(n_bytes)


def digest(data: bytes) -> str:
    """sha256 in hex."""
    return hashlib.sha256(data).hexdigest()


def order(store: Store, source: Any, **changes: Any) -> FetchOrder:
    """An order whose chunks and waits suit small files."""
    settings = {"budget_bytes": 10**9, "chunk_bytes": CHUNK_BYTES, "keep_free_bytes": 0, "retry_s": 0.001}
    return FetchOrder(store=str(store.root), source=source, **(settings | {"stall_s": 20.0} | changes))
