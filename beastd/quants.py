"""The quantizations that ``beast quantize`` makes: the table of llama.cpp's own quantizer.

Names and file types are ``QUANT_OPTIONS`` of ``tools/quantize/quantize.cpp``.
"""

from __future__ import annotations

from typing import NamedTuple

from beastd.errors import BadRequest
from beastd.nearest import did_you_mean


class QuantType(NamedTuple):
    """A quantization one can ask for."""

    name: str
    """As in a variant's name: lower case."""
    file_type: int
    """``enum llama_ftype`` of ``llama.h``."""
    bits: float
    """Bits a weight, about: of Llama 3 8B's whole file, where llama.cpp mixes types."""
    about: str
    """One line for people."""
    needs_imatrix: bool = False
    """Whether llama.cpp refuses it without an importance matrix, for a model of usual shape."""


COPY = "copy"
"""Takes every tensor as it is; of a split model, one file comes out."""

QUANT_TYPES = {
    made.name: made
    for made in (
        QuantType("f32", 0, 32, "32-bit floats: four times q8_0's size, for no better answers"),
        QuantType("bf16", 32, 16, "16-bit brain floats: no loss for models trained in them, as most are"),
        QuantType("f16", 1, 16, "16-bit floats: practically no loss"),
        QuantType("q8_0", 7, 8.5, "8-bit: the loss is hardly measurable"),
        QuantType("q6_k", 18, 6.56, "6-bit: very small loss"),
        QuantType("q5_k_m", 17, 5.7, "5-bit mix: small loss"),
        QuantType("q5_k_s", 16, 5.57, "5-bit, smaller: small loss"),
        QuantType("q5_1", 9, 6, "5-bit with offsets, legacy: q5_k_m is better"),
        QuantType("q5_0", 8, 5.5, "5-bit, legacy: q5_k_s is better"),
        QuantType("q4_k_m", 15, 4.89, "4-bit mix: the usual choice"),
        QuantType("q4_k_s", 14, 4.67, "4-bit, smaller: a little more loss than q4_k_m"),
        QuantType("q4_1", 3, 5, "4-bit with offsets, legacy: q4_k_m is better"),
        QuantType("q4_0", 2, 4.5, "4-bit, legacy: fast on ARM, q4_k_s is better"),
        QuantType("iq4_nl", 25, 4.5, "4-bit non-linear: for rows that 256 does not divide"),
        QuantType("iq4_xs", 30, 4.25, "4-bit non-linear: near q4_k_s, smaller, slower on CPUs"),
        QuantType("mxfp4_moe", 38, 4.25, "4-bit microscaling floats for the experts, 8-bit for the rest"),
        QuantType("q3_k_l", 13, 4.3, "3-bit mix, larger: noticeable loss"),
        QuantType("q3_k_m", 12, 4, "3-bit mix: noticeable loss"),
        QuantType("q3_k_s", 11, 3.64, "3-bit: large loss"),
        QuantType("iq3_m", 27, 3.66, "3-bit mix: noticeable loss"),
        QuantType("iq3_s", 26, 3.44, "3-bit: better than q3_k_s, slower on CPUs"),
        QuantType("iq3_xs", 22, 3.3, "3-bit mix, smaller: large loss", needs_imatrix=True),
        QuantType("iq3_xxs", 23, 3.06, "3-bit, smallest: large loss", needs_imatrix=True),
        QuantType("q2_k", 10, 3.2, "2-bit mix: very large loss"),
        QuantType("q2_k_s", 21, 2.97, "2-bit: very large loss", needs_imatrix=True),
        QuantType("q2_0", 41, 2.25, "2-bit, groups of 64: for models trained for it"),
        QuantType("iq2_m", 29, 2.7, "2-bit mix: very large loss", needs_imatrix=True),
        QuantType("iq2_s", 28, 2.5, "2-bit: very large loss", needs_imatrix=True),
        QuantType("iq2_xs", 20, 2.31, "2-bit, smaller: very large loss", needs_imatrix=True),
        QuantType("iq2_xxs", 19, 2.06, "2-bit, smallest: extreme loss", needs_imatrix=True),
        QuantType("tq2_0", 37, 2.06, "ternary: for models trained for it (BitNet)"),
        QuantType("tq1_0", 36, 1.69, "ternary, packed: for models trained for it (BitNet)"),
        QuantType("iq1_m", 31, 1.75, "1-bit mix: extreme loss", needs_imatrix=True),
        QuantType("iq1_s", 24, 1.56, "1-bit: extreme loss", needs_imatrix=True),
        QuantType("q1_0", 40, 1.125, "1-bit, groups of 128: for models trained for it"),
        QuantType(COPY, 0, 0, "every tensor as it is; a split model becomes one file"),
    )
}
"""Name → quantization, from the best to the smallest."""

ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
"""Short names llama.cpp knows too."""

OVERRIDE_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}
"""Types one may choose for the output matrix and the embeddings alone → ``enum ggml_type`` of ``ggml.h``."""


def quant_type(name: str) -> QuantType:
    """The quantization a person asked for, in any case. Raises BadRequest that tells the nearest."""
    wanted = name.lower()
    found = QUANT_TYPES.get(ALIASES.get(wanted, wanted))
    if found is None:
        hint = did_you_mean(wanted, QUANT_TYPES)
        raise BadRequest(f"there is no quantization '{name[:40]}'{hint}; known: {', '.join(QUANT_TYPES)}")
    return found
