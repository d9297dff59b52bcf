"""The sampler at the very edges of every option: an answer is drawn, whatever was asked for."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.contract import Options
from beastd.engine.sampler import Sampler
from beastd.errors import BadModel
from beastd.ipc import Sampling

N_VOCAB = 50
N_TOKENS = 30


def edges(field: msgspec.inspect.Field) -> list[float]:
    """The least and the largest number this option may be; those of a float where it has no bound."""
    kinds = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
    for kind in kinds:
        if isinstance(kind, msgspec.inspect.FloatType):
            least = kind.ge if kind.ge is not None else 5e-324 if kind.gt is not None else -1e308
            return [least, kind.le if kind.le is not None else 1e308]
        if isinstance(kind, msgspec.inspect.IntType) and field.name != "seed":
            return [kind.ge if kind.ge is not None else -(2**63), kind.le if kind.le is not None else 2**63 - 1]
        if isinstance(kind, msgspec.inspect.LiteralType):
            return list(kind.values)
    return []


def options() -> st.SearchStrategy[dict[str, Any]]:
    """Some options at their edges."""
    shape = msgspec.inspect.type_info(Options)
    assert isinstance(shape, msgspec.inspect.StructType)
    found = {field.name: edges(field) for field in shape.fields}
    given_ = {name: st.sampled_from(values) for name, values in found.items() if values and name != "num_ctx"}
    return st.fixed_dictionaries({}, optional=given_)


def bias_edges() -> list[float]:
    shape = msgspec.inspect.type_info(Options)
    assert isinstance(shape, msgspec.inspect.StructType)
    (kind,) = [field.type for field in shape.fields if field.name == "logit_bias"]
    assert isinstance(kind, msgspec.inspect.UnionType)
    (biases,) = [each.value_type for each in kind.types if isinstance(each, msgspec.inspect.DictType)]
    assert isinstance(biases, msgspec.inspect.FloatType)
    return [biases.ge if biases.ge is not None else -1e308, biases.le if biases.le is not None else 1e308]


@given(options(), st.dictionaries(st.integers(0, N_VOCAB - 1), st.sampled_from(bias_edges())), st.integers(0, 2**32))
@settings(max_examples=300, deadline=None)
def test_every_answer_goes_on_and_no_sound_model_is_blamed(
    chosen: dict[str, Any], bias: dict[int, float], seed: int
) -> None:
    """No number overflows into NaN, which would pass for a damaged model, or for a token that is not there."""
    values = {**chosen, "seed": seed}
    logits = np.random.default_rng(seed).normal(0, 10, (N_TOKENS, N_VOCAB)).astype(np.float32)
    sampler = Sampler(
        Sampling(**{name: value for name, value in values.items() if name in Sampling.__struct_fields__}),
        n_vocab=N_VOCAB,
        logit_bias=bias,
        breakers=frozenset({3}),
        eog=frozenset({0}),
        history=[1, 2, 1, 2, 1],
        grammar=None,
    )
    for row in logits:
        sampled = sampler.sample(row, 2)
        assert 0 <= sampled.token < N_VOCAB
        assert sampled.logprob is not None
        assert math.isfinite(sampled.logprob)


def test_a_damaged_model_is_blamed() -> None:
    """The counterpart: the check is there."""
    sampler = Sampler(
        Sampling(), n_vocab=2, logit_bias={}, breakers=frozenset(), eog=frozenset(), history=[], grammar=None
    )
    with pytest.raises(BadModel):
        sampler.sample(np.array([math.nan, 0], np.float32), None)
