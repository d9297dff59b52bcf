"""What file names tell."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.library.importing.assemble import default_variant
from beastd.library.importing.filenames import adapter_stem, folder_stem, is_quant_folder, model_stem, slug, unique
from beastd.registry.names import is_part


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "qwen3-0.6b"),
        ("gemma-3-4b-it-UD-Q4_K_XL.gguf", "gemma-3-4b-it"),
        ("Llama-3.3-70B.Q4_K_M-00001-of-00002.gguf", "llama-3.3-70b"),
        ("mistral 7b (v0.3) f16.gguf", "mistral-7b-v0.3"),
        ("..weird..--name-.gguf", "weird.name"),
    ],
)
def test_a_models_name_is_its_files_without_quantization(file: str, name: str) -> None:
    assert model_stem(Path("/models") / file, "") == name


@pytest.mark.parametrize(
    ("path", "title", "name"),
    [
        ("/repos/Phi-4-GGUF/ggml-model-q4_0.gguf", "", "phi-4"),
        ("/repos/Phi-4-GGUF/Q4_K_M.gguf", "", "phi-4"),
        ("/repos/x/model.gguf", "Phi 4", "phi-4"),
        (f"/ollama/blobs/sha256-{'a' * 64}", "Phi 4", "phi-4"),
        ("/models/model.gguf", "", "models"),
        ("/model.gguf", "", "model"),
    ],
)
def test_a_file_whose_name_says_nothing_is_named_by_its_title_or_folder(path: str, title: str, name: str) -> None:
    assert model_stem(Path(path), title) == name


def test_an_adapters_name_is_what_it_adds_to_the_models() -> None:
    assert adapter_stem(Path("cub-pirate-lora-f16.gguf"), "cub") == "pirate"
    assert adapter_stem(Path("poet.gguf"), "cub") == "poet"
    assert adapter_stem(Path("f16.gguf"), "cub") == "adapter"


def test_a_folder_named_for_a_quantization_is_told_from_a_models() -> None:
    assert is_quant_folder("Q4_K_M")
    assert is_quant_folder("UD-Q2_K_XL")
    assert not is_quant_folder("Qwen3-Q4_K_M")
    assert not is_quant_folder("models")
    assert folder_stem("Qwen3-0.6B-GGUF") == "qwen3-0.6b"


@given(st.text(max_size=300))
def test_a_slug_is_a_part_of_a_name_or_nothing(text: str) -> None:
    found = slug(text)
    assert found == "" or is_part(found)


@given(st.text(max_size=120).filter(lambda text: "/" not in text and "\0" not in text and text not in ("", ".", "..")))
def test_every_file_name_gives_a_name(file: str) -> None:
    assert is_part(model_stem(Path("/models") / file, ""))
    assert is_part(adapter_stem(Path("/models") / file, "cub"))


def test_a_taken_name_is_numbered() -> None:
    assert unique("q4", {"q4", "q4-2"}) == "q4-3"
    assert is_part(unique("x" * 80, {"x" * 80}))


@pytest.mark.parametrize(
    ("names", "default"),
    [
        (["f16", "q8_0", "q4_k_m", "q2_k"], "q4_k_m"),
        (["q8_0", "q6_k", "q5_k_m", "q2_k"], "q5_k_m"),
        (["q8_0", "q3_k_m"], "q3_k_m"),
        (["f16", "q8_0"], "f16"),
        (["unknown"], "unknown"),
    ],
)
def test_the_default_is_q4_k_m_or_the_nearest_below_q8_0(names: list[str], default: str) -> None:
    assert default_variant(names) == default
