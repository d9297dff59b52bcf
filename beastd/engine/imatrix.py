"""Reads importance matrices: llama-imatrix's GGUF files, and its older binary ones.

Both formats, and what the numbers mean, are those of llama.cpp's ``common/imatrix-loader.cpp`` and
``tools/quantize/quantize.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from beastd.engine.gguffloats import FloatArray, open_floats
from beastd.errors import BadModel, BadRequest

_SUMS, _COUNTS = ".in_sum2", ".counts"


@dataclass(frozen=True, slots=True)
class ImportanceMatrix:
    """How much each input of each tensor matters."""

    weights: dict[str, FloatArray]
    """Tensor → mean square of each of its inputs; expert after expert, where it has them."""
    n_chunks: int
    """Chunks of text it was computed on; 0: not known."""
    dataset: str
    """The text's file; empty: not known."""


def read_imatrix(path: Path) -> ImportanceMatrix:
    """Read a file of either format. Raises BadRequest when it cannot be read, BadModel when it is broken."""
    try:
        with path.open("rb") as stream:
            is_gguf = stream.read(4) == b"GGUF"
        found = _of_gguf(path) if is_gguf else _of_binary(path)
    except OSError as e:
        raise BadRequest(f"cannot read the importance matrix {path}: {e.strerror}") from e
    if not found.weights or not all(np.isfinite(values).all() for values in found.weights.values()):
        raise _broken(path, "it is empty, or holds values that are no numbers")
    return found


def _of_gguf(path: Path) -> ImportanceMatrix:
    with open_floats(path) as file:
        datasets, n_chunks = file.texts("imatrix.datasets"), file.number("imatrix.chunk_count")
        if datasets is None or n_chunks is None or file.number("imatrix.chunk_size") is None:
            raise _broken(path, "it lacks the metadata of one")
        tensors = file.tensors()
    names = [name.removesuffix(_SUMS) for name in tensors if name.endswith(_SUMS)]
    weights = {name: _means(path, tensors[name + _SUMS], tensors.get(name + _COUNTS)) for name in names}
    return ImportanceMatrix(weights, n_chunks, datasets[0] if datasets else "")


def _means(path: Path, sums: FloatArray, counts: FloatArray | None) -> FloatArray:
    """Mean squares of each expert's inputs; all alike for one that saw no token."""
    if counts is None or not counts.size or sums.size % counts.size:
        raise _broken(path, "its sums and counts do not match")
    per_expert = sums.reshape(counts.size, -1)
    n = np.rint(counts)[:, None]
    return np.where(n > 0, per_expert / np.where(n > 0, n, 1), np.float32(1)).astype(np.float32).ravel()


def _of_binary(path: Path) -> ImportanceMatrix:
    file = _Binary(path)
    weights = dict(file.entry() for _ in range(file.count()))
    if file.is_at_end:  # very old files end here
        return ImportanceMatrix(weights, 0, "")
    return ImportanceMatrix(weights, file.count(), file.text())


class _Binary:
    """Cursor in a file of the older format; every length is checked against what is left of the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._bytes = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.empty(0, np.uint8)
        self._at = 0

    @property
    def is_at_end(self) -> bool:
        return self._at == self._bytes.size

    def entry(self) -> tuple[str, FloatArray]:
        name, n_calls = self.text(), self.count()
        values = np.frombuffer(self._take(4 * self.count()), np.float32)
        return name, values / np.float32(n_calls) if n_calls else values

    def text(self) -> str:
        return self._take(self.count()).decode("utf-8", "replace")

    def count(self) -> int:
        n = int.from_bytes(self._take(4), "little", signed=True)
        if n < 0:
            raise _broken(self._path, "it holds a negative count")
        return n

    def _take(self, n_bytes: int) -> bytes:
        end = self._at + n_bytes
        if end > self._bytes.size:
            raise _broken(self._path, "it was cut short, or is something else")
        taken = self._bytes[self._at : end].tobytes()
        self._at = end
        return taken


def _broken(path: Path, why: str) -> BadModel:
    return BadModel(f"{path} is no importance matrix: {why}; make one with llama-imatrix")
