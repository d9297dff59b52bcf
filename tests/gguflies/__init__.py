"""GGUF files made to harm their reader, by what they lie about. The tests read all; the fuzzer goes on from them.

A new lie is a line in its family: what it is called, the file, and what the error must say (a regular expression).
"""

from __future__ import annotations

from gguflies.frame import beginnings, counts, cuts
from gguflies.metadata import keys, types, values
from gguflies.models import shapes
from gguflies.pieces import HUGE, rich, spent
from gguflies.tensors import alignments, tensor_names, tensor_places, tensor_shapes

__all__ = ["FAMILIES", "HUGE", "corpus", "rich", "spent"]

FAMILIES = (
    beginnings,
    cuts,
    counts,
    keys,
    values,
    types,
    alignments,
    tensor_names,
    tensor_shapes,
    tensor_places,
    shapes,
)


def corpus() -> dict[str, tuple[bytes, str]]:
    """All lies: name → file and what the error must say."""
    found: dict[str, tuple[bytes, str]] = {}
    for family in FAMILIES:
        for name, raw, problem in family():
            assert name not in found, name
            found[name] = (raw, problem)
    return found
