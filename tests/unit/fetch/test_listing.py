"""What a repository's file names say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.errors import BadRequest, ModelNotFound
from beastd.fetch.listing import RemoteFile, models, named, projectors, quant_of, shard_names, stem, with_quant


def files(*names: str) -> list[RemoteFile]:
    return [RemoteFile(name, 10, None) for name in names]


@pytest.mark.parametrize(
    ("file", "quant"),
    [
        ("Qwen3-0.6B-Q8_0.gguf", "q8_0"),
        ("llama-2-7b.Q4_K_M.gguf", "q4_k_m"),
        ("model-ud-q4_k_xl.gguf", "ud-q4_k_xl"),
        ("Llama-3.3-70B-Instruct-UD-IQ2_XXS.gguf", "ud-iq2_xxs"),
        ("Q4_K_M/model-00001-of-00003.gguf", "q4_k_m"),
        ("BF16/Model-BF16-00001-of-00002.gguf", "bf16"),
        ("Phi-3-mini-4k-instruct-fp16.gguf", "f16"),
        ("Phi-3-mini-4k-instruct-q4.gguf", "q4"),
        ("gpt-oss-20b-mxfp4.gguf", "mxfp4"),
        ("Model.i1-IQ3_XS.gguf", "iq3_xs"),
        ("Model-TQ1_0.gguf", "tq1_0"),
        ("Model-Q4_0_4_8.gguf", "q4_0_4_8"),
        ("model.gguf", ""),
        ("qwen2-faq1x.gguf", ""),
    ],
)
def test_reads_the_quantization_out_of_a_name(file: str, quant: str) -> None:
    assert quant_of(file) == quant


def test_groups_shards_and_leaves_out_what_is_no_model() -> None:
    listed = files(
        "README.md",
        "M-Q8_0.gguf",
        "mmproj-M-F16.gguf",
        "M.imatrix.gguf",
        "M-Q4_0_4_4.gguf",
        "F16/M-F16-00002-of-00002.gguf",
        "F16/M-F16-00001-of-00002.gguf",
        "M-Q2_K-00001-of-00002.gguf",
        "M-Q3\x1b[2J.gguf",
    )
    found = models(listed)
    assert [(it.name, [part.name for part in it.parts]) for it in found] == [
        ("f16", ["F16/M-F16-00001-of-00002.gguf", "F16/M-F16-00002-of-00002.gguf"]),
        ("q8_0", ["M-Q8_0.gguf"]),
    ]
    assert found[0].n_bytes == 20
    assert projectors(listed) == ["mmproj-M-F16.gguf"]
    assert len({stem(it) for it in found}) == 1


def test_any_shard_names_the_whole_model() -> None:
    listed = files("M-00001-of-00002.gguf", "M-00002-of-00002.gguf")
    assert len(named(listed, "M-00002-of-00002.gguf", "u/m").parts) == 2


def test_a_file_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ModelNotFound, match=r"u/m has no file 'M-Q4_0.gguf'; there is M-Q4_K.gguf"):
        named(files("M-Q4_K.gguf", "other.gguf"), "M-Q4_0.gguf", "u/m")


def test_a_quantization_is_found_in_any_case_and_without_its_prefix() -> None:
    found = models(files("M-Q8_0.gguf", "M-UD-Q4_K_XL.gguf", "M-FP16.gguf"))
    assert with_quant(found, "Q8_0", "u/m").file == "M-Q8_0.gguf"
    assert with_quant(found, "q4_k_xl", "u/m").file == "M-UD-Q4_K_XL.gguf"
    assert with_quant(found, "fp16", "u/m").file == "M-FP16.gguf"
    with pytest.raises(ModelNotFound, match=r"u/m has no 'q8_1'; there is f16, q8_0, ud-q4_k_xl"):
        with_quant(found, "q8_1", "u/m")


def test_two_models_of_one_quantization_are_not_chosen_between() -> None:
    with pytest.raises(BadRequest, match=r"holds several models; name one's file: A-Q8_0.gguf, B-Q8_0.gguf"):
        with_quant(models(files("A-Q8_0.gguf", "B-Q8_0.gguf")), "q8_0", "u/m")


@given(st.text(max_size=40), st.integers(1, 1000))
def test_shard_names_lead_back_to_the_first(name: str, n: int) -> None:
    first = f"{name}x-00001-of-{n:05d}.gguf"
    names = shard_names(first)
    if "\n" not in name:
        assert len(names) == n
    assert names[0] == first


@given(st.text(max_size=200))
def test_any_name_is_read_without_harm(name: str) -> None:
    quant_of(name)
    models(files(name, f"{name}.gguf"))
