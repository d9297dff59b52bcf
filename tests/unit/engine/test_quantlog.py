"""What is read out of llama.cpp's quantizer log."""

from __future__ import annotations

import pytest

from beastd.engine.quantlog import parse_plan, parse_step

DRY_RUN = """\
warning: blk.0.attn_k.weight - ncols     96 not divisible by 256 (required for type    q4_K) -> falling back to    q5_0
[   1/  92] output.weight - [   512,  12000,      1,      1], type =    f16, size =    11.72 MiB ->     4.81 MiB (q6_K)
[   2/  92] ffn_up.weight - [   512,   1280,      1,      1], type =   q8_0, size =     0.66 MiB ->     0.35 MiB (q4_K)
[   3/  92] output_norm.weight - [   512,      1,      1,      1], type =    f32, size =    0.002 MiB
[   4/  92] ffn_down.weight - [   512,   1280,      1,      1], type =   q6_K, size =    0.502 MiB
llama_model_quantize_impl: model size  =    60.54 MiB (16.01 BPW)
llama_model_quantize_impl: quant size  =    19.05 MiB (5.04 BPW)
"""


def test_a_plan_tells_sizes_and_what_is_quantized_twice():
    """A q8_0 that becomes q4_K is requantized; a q6_K that stays as it is is not."""
    plan = parse_plan(DRY_RUN)
    assert (plan.n_tensors, plan.n_fallback, plan.bits_per_weight) == (92, 0, 5.04)
    assert plan.source_bytes == round(60.54 * 2**20)
    assert plan.made_bytes == round(19.05 * 2**20)
    assert plan.requantized == {"q8_0"}


def test_fallbacks_are_counted():
    """llama.cpp sums them up in its last line."""
    line = "llama_model_quantize_impl: WARNING: 8 of 92 tensor(s) required fallback quantization\n"
    assert parse_plan(DRY_RUN + line).n_fallback == 8


@pytest.mark.parametrize(
    ("text", "step"),
    [
        ("[   7/  92] blk.0.ffn_up.weight - [   512,   1280,      1,      1], type =    f16, ", (7, 92)),
        ("[12345/99999] x", (12345, 99999)),
        ("converting to q4_K .. ", None),
        ("size =     1.25 MiB ->     0.21 MiB\n", None),
    ],
)
def test_steps_begin_with_their_number(text, step):
    """Other pieces of the log are no steps."""
    assert parse_step(text) == step
