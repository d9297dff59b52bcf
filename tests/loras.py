"""Different LoRA adapters of one model, made from one of its adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from beastd.registry.gguf import read_header


def variations(original: Path, folder: Path, n: int) -> list[Path]:
    """Write ``n`` adapters of f16 weights into the folder: the original, and others with noise on every weight."""
    header = read_header(original)
    assert {tensor.type.name for tensor in header.tensors} == {"F16"}
    n_weights = sum(tensor.n_elements for tensor in header.tensors)  # their bytes are the file's end, without gaps
    head, tail = original.read_bytes()[: -2 * n_weights], original.read_bytes()[-2 * n_weights :]
    weights = np.frombuffer(tail, np.float16).astype(np.float32)
    paths = [folder / f"adapter-{i}.gguf" for i in range(n)]
    for i, path in enumerate(paths):
        noise = np.random.default_rng(i).standard_normal(n_weights) * (0.5 if i else 0)
        path.write_bytes(head + (weights * (1 + noise)).astype(np.float16).tobytes())
    return paths
