"""What the library's tests share: a models folder with something in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from ggufwriter import GgufWriter
from shelf import Shelf

from beastd.registry.modelfile import AdapterFields


@pytest.fixture(scope="session")
def gguf_bytes() -> bytes:
    return GgufWriter().file(n_data=3000)


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


@pytest.fixture
def full_shelf(shelf: Shelf, gguf_bytes: bytes) -> Shelf:
    """Two models: ``all`` has every kind of file, ``small`` shares one of them."""
    (shelf.builtin / "inside.gguf").write_bytes(gguf_bytes + b"inside")
    q8_0, lora = shelf.blob(gguf_bytes), shelf.blob(gguf_bytes + b"lora")
    outside = shelf.file("f16.gguf", gguf_bytes + b"outside")
    shelf.put(
        "me/all:v1",
        variants={
            "q8_0": q8_0,
            "f16": str(outside),
            "split": [shelf.blob(gguf_bytes + b"1"), shelf.blob(gguf_bytes + b"2")],
        },
        default="f16",
        adapters={"pirate": AdapterFields(lora, 0.5, applied=True)},
        draft="builtin:inside.gguf",
        projector=shelf.blob(b"projector"),
        template="{{ messages }}\nend",
        system="Be brief: always.",
        license="# long\n" * 40,
    )
    shelf.put("small", variants={"q8_0": q8_0})
    return shelf
