"""What llama.cpp's quantizer tells in its log, which is the only place where it tells it (``src/llama-quant.cpp``)."""

from __future__ import annotations

import re
from dataclasses import dataclass

_STEP = re.compile(r"\[ *(?P<n>\d+)/ *(?P<total>\d+)\]")
_CONVERTED = re.compile(r"type = +(?P<type>\w+), size = .* -> ")
_SOURCE_SIZE = re.compile(r"model size +=\s*(?P<mib>[\d.]+) MiB")
_MADE_SIZE = re.compile(r"quant size +=\s*(?P<mib>[\d.]+) MiB \((?P<bits>[\d.]+) BPW\)")
_FALLBACKS = re.compile(r"WARNING: (?P<n>\d+) of \d+ tensor\(s\) required fallback")
_PLAIN = frozenset({"f32", "f16", "bf16", "f64", "i8", "i16", "i32", "i64"})
"""Types that ``ggml_is_quantized`` denies."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a quantization will do, as llama.cpp's dry run tells."""

    n_tensors: int
    n_fallback: int
    """Tensors that take another type, as rows are not whole blocks of the wanted one."""
    bits_per_weight: float
    source_bytes: int
    """Tensors now, to 0.01 MiB."""
    made_bytes: int
    """Tensors then, to 0.01 MiB."""
    requantized: frozenset[str]
    """Types of tensors that are quantized already and would be again."""


def parse_plan(log: str) -> Plan:
    """The plan a whole log of a dry run tells."""
    step, source, made = _STEP.search(log), _SOURCE_SIZE.search(log), _MADE_SIZE.search(log)
    assert step is not None, "a successful dry run tells of each tensor"
    assert source is not None, "and of the sum"
    assert made is not None, "and of what it will be"
    fallbacks = _FALLBACKS.search(log)
    return Plan(
        n_tensors=int(step["total"]),
        n_fallback=int(fallbacks["n"]) if fallbacks else 0,
        bits_per_weight=float(made["bits"]),
        source_bytes=round(float(source["mib"]) * 2**20),
        made_bytes=round(float(made["mib"]) * 2**20),
        requantized=frozenset(match["type"] for match in _CONVERTED.finditer(log)) - _PLAIN,
    )


def parse_step(text: str) -> tuple[int, int] | None:
    """(the tensor now begun, counted from 1; of how many), when a piece of the log begins one."""
    step = _STEP.match(text)
    return (int(step["n"]), int(step["total"])) if step else None
