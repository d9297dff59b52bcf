"""The table of quantizations."""

from __future__ import annotations

import llama_cpp.llama_cpp as lib
import pytest

from beastd.errors import BadRequest
from beastd.quants import ALIASES, COPY, OVERRIDE_TYPES, QUANT_TYPES, quant_type
from beastd.registry.ggml import FILE_TYPES, TENSOR_TYPES
from beastd.registry.names import is_part


def test_the_numbers_are_the_installed_llama_cpp_s():
    """Each file type is the one its name has in llama.h, and the name that the header reader gives it."""
    for name, made in QUANT_TYPES.items():
        assert made.name == name
        if name not in {COPY, "f32"}:
            found = getattr(lib, f"LLAMA_FTYPE_MOSTLY_{name.upper()}", made.file_type)
            assert (name, found) == (name, made.file_type)
            assert FILE_TYPES[made.file_type].lower() == name.removesuffix("_moe")
    for name, number in OVERRIDE_TYPES.items():
        assert TENSOR_TYPES[number].name.lower() == name


def test_every_name_can_be_a_variant_s():
    """``model@q4_k_m``."""
    assert all(is_part(name) and name == name.lower() for name in QUANT_TYPES)


@pytest.mark.parametrize(("asked", "found"), [("Q4_K_M", "q4_k_m"), ("q4_k", "q4_k_m"), ("BF16", "bf16")])
def test_case_and_aliases_do_not_matter(asked, found):
    """As with llama-quantize."""
    assert quant_type(asked).name == found
    assert set(ALIASES.values()) <= set(QUANT_TYPES)


def test_an_unknown_one_is_refused_with_all_known():
    """And the nearest, if one is near."""
    with pytest.raises(BadRequest, match="no quantization 'q7'"):
        quant_type("q7")
