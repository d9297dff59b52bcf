"""Which adapters fit which models."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import pytest

from beastd.errors import BadModel
from beastd.registry.adapters import check_adapter
from beastd.registry.gguf import parse_header, read_header
from beastd.registry.header import Header, Tensor

BASE = {
    "token_embd.weight": (64, 500),
    "output.weight": (64, 500),
    "blk.0.attn_q.weight": (64, 64),
    "blk.0.attn_k.weight": (64, 32),
    "blk.0.ffn_up_exps.weight": (64, 128, 4),
}
LORA = {
    "token_embd.weight.lora_a": (8, 500),
    "token_embd.weight.lora_b": (8, 64),
    "blk.0.attn_q.weight.lora_a": (64, 8),
    "blk.0.attn_q.weight.lora_b": (8, 64),
    "blk.0.attn_k.weight.lora_a": (64, 8),
    "blk.0.attn_k.weight.lora_b": (8, 32),
    "blk.0.ffn_up_exps.weight.lora_a": (64, 8, 4),
    "blk.0.ffn_up_exps.weight.lora_b": (8, 128, 4),
}


def header(gguf, what: str, pairs: list[bytes], shapes: dict[str, tuple[int, ...]]) -> Header:
    tensors, offset = [], 0
    for name, shape in shapes.items():
        tensors.append(gguf.tensor(name, shape, 0, offset))
        n = 4
        for length in shape:
            n *= length
        offset += -(-n // 32) * 32
    raw = gguf.file(pairs, tensors, n_data=offset)
    return parse_header(BytesIO(raw), len(raw), what)


@pytest.fixture
def base(gguf) -> Header:
    return header(gguf, "base.gguf", gguf.model(), BASE)


@pytest.fixture
def make(gguf):
    """An adapter, some of it changed: metadata by name with underscores for dots, tensors by their name."""

    def made(tensors: dict[str, tuple[int, ...] | None] | None = None, **changes: tuple[str, object] | None) -> Header:
        pairs = {"general_type": ("str", "adapter"), "adapter_type": ("str", "lora")}
        pairs |= {"general_architecture": ("str", "llama"), "adapter_lora_alpha": ("f32", 16.0)} | changes
        shapes = LORA | (tensors or {})
        return header(
            gguf,
            "lora.gguf",
            [gguf.pair(key.replace("_", "."), *value) for key, value in pairs.items() if value],
            {name: shape for name, shape in shapes.items() if shape},
        )

    return made


@pytest.mark.parametrize("variant", ["q8_0", "q4_k_m", "f16-00001-of-00002"])
def test_the_pirate_fits_every_cub(builtin_dir, variant):
    """Whatever the quantization, and for shards too."""
    cub = builtin_dir / "cub"
    check_adapter(read_header(cub / "cub-pirate-lora-f16.gguf"), read_header(cub / f"cub-{variant}.gguf"))


def test_the_pirate_does_not_fit_the_draft_model(builtin_dir):
    """Of the same architecture, but smaller: the message has the tensor and all shapes."""
    cub = builtin_dir / "cub"
    with pytest.raises(BadModel, match=r"'blk\.\d+\.[a-z_]+\.weight', which (is \d+×\d+ in|.* does not have)"):
        check_adapter(read_header(cub / "cub-pirate-lora-f16.gguf"), read_header(cub / "cub-draft-f16.gguf"))


def test_a_model_is_no_adapter_and_an_adapter_no_base(builtin_dir):
    """Mixing the two up is told."""
    cub = builtin_dir / "cub"
    model, adapter = read_header(cub / "cub-q2_k.gguf"), read_header(cub / "cub-pirate-lora-f16.gguf")
    with pytest.raises(BadModel, match=r"general\.type is '(model|not given)'"):
        check_adapter(model, model)
    with pytest.raises(BadModel, match="does not have"):
        check_adapter(adapter, adapter)


def test_a_sound_adapter_fits(make, base):
    """Matrices, embeddings (whose halves are swapped) and stacks of experts."""
    check_adapter(make(), base)


def test_one_matrix_is_enough(make, base):
    """And neither alpha nor the other matrices are needed."""
    only = dict.fromkeys([name for name in LORA if "attn_q" not in name])
    check_adapter(make(only, adapter_lora_alpha=None), base)


def test_norm_vectors_are_passed_over(make, base):
    """As llama.cpp does."""
    check_adapter(make({"blk.0.attn_norm.weight": (64,)}), base)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general_type": ("str", "model")}, "general.type is 'model'"),
        ({"general_type": None}, "not given"),
        ({"adapter_type": ("str", "control_vector")}, "of type 'control_vector'"),
        ({"adapter_type": None}, "of type 'not given'"),
        ({"general_architecture": ("str", "qwen3")}, "architecture 'qwen3', base.gguf is 'llama'"),
        ({"general_architecture": None}, "general.architecture"),
        ({"adapter_type": ("str", "x" * 300)}, "of type 'x{40}'"),
    ],
)
def test_metadata_of_something_else_is_refused(make, base, changes, message):
    """With what it says instead."""
    with pytest.raises(BadModel, match=message):
        check_adapter(make(**changes), base)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blk.0.attn_q.weight.lora_a": None}, "'blk.0.attn_q.weight' it holds one half"),
        ({"blk.0.attn_q.weight.lora_b": None}, "'blk.0.attn_q.weight' it holds one half"),
        (
            {"blk.9.attn_q.weight.lora_a": (64, 8), "blk.9.attn_q.weight.lora_b": (8, 64)},
            "'blk.9.attn_q.weight', which",
        ),
        ({"blk.0.attn_q.weight": (64, 64)}, "'blk.0.attn_q.weight' is no part of a LoRA"),
        ({"blk.0.attn_q.weight.lora_a": (128, 8)}, r"128×8 and 8×64 do not make 'blk\.0\.attn_q.* is 64×64 in base"),
        ({"blk.0.attn_k.weight.lora_b": (8, 64)}, r"64×8 and 8×64 do not make 'blk\.0\.attn_k.* is 64×32 in base"),
        ({"blk.0.attn_q.weight.lora_a": (64, 4)}, "64×4 and 8×64, of two different ranks"),
        ({"blk.0.attn_q.weight.lora_a": (8, 64)}, "do not make"),
        ({"blk.0.ffn_up_exps.weight.lora_a": (64, 8)}, "do not make 'blk.0.ffn_up_exps"),
        ({"blk.0.ffn_up_exps.weight.lora_b": (8, 128, 2)}, "do not make 'blk.0.ffn_up_exps"),
        ({"token_embd.weight.lora_a": (64, 8), "token_embd.weight.lora_b": (8, 500)}, "do not make 'token_embd"),
        ({"token_embd.weight.lora_b": (4, 64)}, "8×500 and 4×64, of two different ranks"),
        (dict.fromkeys(LORA), "changes no tensor"),
        (dict.fromkeys(LORA) | {"blk.0.attn_norm.weight": (64,)}, "changes no tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_shapes(make, base, tensors, message):
    """Each rule of llama.cpp's loader, and each of its graph's."""
    with pytest.raises(BadModel, match=message):
        check_adapter(make(tensors), base)


def test_an_activated_lora_is_refused(make, base):
    """It would be applied to all tokens instead of those after its invocation."""
    adapter = make()
    marked = replace(adapter, metadata=adapter.metadata | {"adapter.alora.invocation_tokens": [1, 2]})
    with pytest.raises(BadModel, match="activated LoRA"):
        check_adapter(marked, base)


def test_embeddings_that_are_the_output_too_cannot_be_changed(gguf, make):
    """llama.cpp would use the halves the wrong way round for the output, and abort (seen with Cub)."""
    tied = header(gguf, "tied.gguf", gguf.model(), {name: BASE[name] for name in BASE if name != "output.weight"})
    with pytest.raises(BadModel, match=r"tied\.gguf uses as its output too"):
        check_adapter(make(), tied)
    check_adapter(make({"token_embd.weight.lora_a": None, "token_embd.weight.lora_b": None}), tied)


def test_shapes_may_spell_out_trailing_ones(make, base):
    """A matrix is a stack of one."""
    adapter = make()
    tensors = tuple(Tensor(it.name, (*it.shape, 1), it.type) if "attn_q" in it.name else it for it in adapter.tensors)
    check_adapter(replace(adapter, tensors=tensors), base)
