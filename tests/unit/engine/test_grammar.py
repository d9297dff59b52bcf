"""JSON Schemas into grammars: what is sound is converted, what would keep the worker busy is refused by name."""

from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.engine.grammar import MAX_GBNF_CHARS, MAX_REPETITIONS, to_gbnf
from beastd.errors import BadRequest


def refs(n: int) -> dict[str, Any]:
    """Each definition names the next one twice, under names the converter does not find again: 2ⁿ visits."""
    twice = {f"a_{i}": {"anyOf": [{"$ref": f"#/$defs/a_{i + 1}"}] * 2} for i in range(n)}
    return {"properties": {"p": {"$ref": "#/$defs/a_0"}}, "$defs": {**twice, f"a_{n}": {"type": "string"}}}


def nested(n: int) -> dict[str, Any]:
    """A list of lists, n deep."""
    leaf: dict[str, Any] = {"type": "string"}
    return reduce(lambda items, _: {"type": "array", "items": items}, range(n), leaf)


def matching(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^{pattern}$"}


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "string", "minLength": 10**12}, ["minLength", "1000000000000"]),
        ({"type": "string", "maxLength": 10**9}, ["maxLength"]),
        ({"type": "array", "items": {}, "minItems": 10**12}, ["minItems"]),
        ({"type": "array", "items": {}, "maxItems": 10**9}, ["maxItems"]),
        ({"type": "array", "items": {}, "maxItems": -1}, ["maxItems", "-1"]),
        ({"properties": {"p": {"type": "string", "minLength": 10**12}}}, ["minLength"]),
        (
            {"$defs": {"d": {"type": "string", "minLength": 10**12}}, "properties": {"p": {"$ref": "#/$defs/d"}}},
            ["min"],
        ),
        (matching("a{1000000000000}"), ["pattern", "a{1000000000000}"]),
        (matching("[a]{1000}" * 50), ["pattern", "repeats"]),
        (matching("(a?){400}"), ["pattern", "repeats"]),
        (matching("((a?){16}){16}"), ["pattern", "repeats"]),
        (matching("a?" * 500), ["pattern", "repeats"]),
        (matching("a" * 5000), ["pattern", "5002"]),
        (matching("a]"), ["pattern", "']'"]),
        (matching("a}"), ["pattern", "'}'"]),
        (nested(200), ["format", "nests"]),
        (reduce(lambda inner, _: {"x": inner}, range(5000), {}), ["format", "nests"]),
        (refs(25), ["format", "too large"]),
        ({"properties": {f"p{i}": {} for i in range(5000)}}, ["format", "too large"]),
        ({"properties": {f"p{i}": {} for i in range(800)}}, ["format", "too large"]),
        ({"properties": {"n" * 3000: {}}}, ["format", "names"]),
        ({"enum": ["x" * 1000] * 300}, ["format", str(256 * 1024)]),
        ({"type": "array", "items": True}, ["format", "True"]),
        ({"$ref": "https://example.com/schema.json"}, ["format", "remote"]),
        ("xml", ["xml", "json"]),
    ],
)
def test_what_would_make_no_grammar_or_a_giant_one_is_refused(schema: Any, words: list[str]) -> None:
    with pytest.raises(BadRequest) as refused:
        to_gbnf(schema)
    assert all(word in refused.value.message for word in words), refused.value.message
    assert len(refused.value.message) < 1000


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
        {"type": "string", "minLength": 1, "maxLength": MAX_REPETITIONS},
        {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": MAX_REPETITIONS},
        {"enum": [f"country {n}" for n in range(300)]},
        {"properties": {f"p{i}": {"type": "string"} for i in range(200)}},
        {"properties": {f"p{i}": {"type": "string"} for i in range(900)}, "required": [f"p{i}" for i in range(900)]},
        nested(20),
        refs(4),
        matching(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}"),
        matching(r"(\+?[0-9]{1,3}[- ]?)?\(?[0-9]{3}\)?[- ]?[0-9]{3}[- ]?[0-9]{4}"),
        matching(r"([a-z]{1,63}\.){1,10}[a-z]{2,63}"),
        matching(".{0,500}"),
    ],
)
def test_schemas_as_people_write_them_are_converted(schema: dict[str, Any]) -> None:
    grammar = to_gbnf(schema)
    assert grammar is not None
    assert "root ::= " in grammar
    assert len(grammar) <= 2 * MAX_GBNF_CHARS


def test_the_schema_is_left_as_it_was() -> None:
    """The converter writes into the one it is given."""
    schema = refs(2)
    to_gbnf(schema)
    assert schema == refs(2)


KEYWORDS = [
    "type",
    "pattern",
    "items",
    "minItems",
    "maxLength",
    "anyOf",
    "allOf",
    "properties",
    "required",
    "$ref",
    "enum",
]
PARTS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from(["string", "array", "object", "integer", "#/items"]),
        st.text(alphabet="^$a(){}[]*+?|\\,01.", max_size=12).map(lambda text: f"^{text}$"),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), PARTS, max_size=5))
@settings(max_examples=300, deadline=None)
def test_any_object_is_a_grammar_or_a_bad_request(schema: dict[str, Any]) -> None:
    try:
        grammar = to_gbnf(schema)
    except BadRequest:
        return
    assert grammar
