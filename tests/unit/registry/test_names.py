"""Names of models: what is one, what it means, and that none can leave its folder."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from beastd.errors import BadRequest
from beastd.registry.names import AdapterName, ModelName, is_part, parse_name

PARTS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True).filter(lambda part: ".." not in part)
SCALES = st.none() | st.integers(-5_000_000, 5_000_000).map(lambda n: n / 1_000_000)
NAMES = st.builds(
    ModelName,
    name=PARTS,
    tag=PARTS,
    namespace=PARTS,
    host=st.just("") | PARTS | PARTS.map(lambda part: f"{part}:8080"),
    variant=st.none() | PARTS,
    adapters=st.lists(
        st.builds(AdapterName, PARTS, SCALES), max_size=3, unique_by=lambda adapter: adapter.name.lower()
    ).map(tuple),
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("cub", "cub:latest"),
        ("cub@q4_k_m", "cub:latest@q4_k_m"),
        ("cub:v1+pirate*0.50", "cub:v1+pirate*0.5"),
        ("cub@q8_0+pirate+poet*-2", "cub:latest@q8_0+pirate+poet*-2"),
        ("me/cub", "me/cub:latest"),
        ("host.example:5000/me/cub:v1", "host.example:5000/me/cub:v1"),
        ("qwen2.5-coder:0.5b-instruct", "qwen2.5-coder:0.5b-instruct"),
    ],
)
def test_a_name_has_one_canonical_form(text, canonical):
    """The tag is filled in and scales lose their padding."""
    assert str(parse_name(text)) == canonical


def test_the_parts_of_a_name():
    """Every part lands in its field."""
    name = parse_name("host:1/space/cub:tag@variant+pirate*0.5+poet")
    assert (name.host, name.namespace, name.name, name.tag, name.variant) == (
        "host:1",
        "space",
        "cub",
        "tag",
        "variant",
    )
    assert name.adapters == (AdapterName("pirate", 0.5), AdapterName("poet"))
    assert (name.base, parse_name("me/cub").short) == ("host:1/space/cub:tag", "me/cub")


def test_names_ignore_case():
    """Two spellings are one name, also as keys."""
    assert parse_name("Cub@Q8_0+Pirate") == parse_name("cub:LATEST@q8_0+pirate")
    assert len({parse_name("CUB"), parse_name("cub")}) == 1
    assert parse_name("cub") != parse_name("cubs")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " cub",
        "cub\n",
        ".cub",
        "-cub",
        "cub:",
        "cub@",
        "cub+",
        "cub+a*",
        "cub+a*x",
        "cub+a*1e9",
        "cub+a*nan",
        "cub+a*٣",
        "cub+a+A",
        "cub:a:b",
        "cub@a@b",
        "a//cub",
        "/cub",
        "a/b/c/cub",
        "../cub",
        "a/../cub",
        "cub:..",
        "cub@..",
        "cub+..",
        "a..b",
        "ho:st/a/b",
        "c\\d",
        "cüb",
        "x" * 81,
        "cub" + "+a" * 600,
        "cub" + "".join(f"+a{i}" for i in range(9)),
    ],
)
def test_what_is_no_name_is_refused_by_quoting_it(text):
    """The error shows the text (its beginning), so that a person sees what was read."""
    with pytest.raises(BadRequest, match="is not a model name") as caught:
        parse_name(text)
    assert text[:80] in caught.value.message
    assert len(caught.value.message) < 500


@given(NAMES)
def test_a_name_survives_being_written_and_read(name):
    """str() and parse_name are inverse."""
    again = parse_name(str(name))
    assert (again, str(again)) == (name, str(name))


@given(st.text(max_size=30) | st.text("ab./\\:@+*0-9_\0", max_size=20))
@example("a/..")
def test_an_accepted_name_is_safe_as_a_path(text):
    """No accepted part holds a separator, a NUL or '..', whatever the text."""
    try:
        name = parse_name(text)
    except BadRequest:
        return
    parts = [name.name, name.tag, *filter(None, [name.namespace, name.variant]), *(it.name for it in name.adapters)]
    for part in parts:
        assert is_part(part)
        assert not set(part) & set("/\\\0:@+")
        assert ".." not in part
        assert part.isascii()
    assert not set(name.host) & set("/\\\0@+")
    assert ".." not in name.host
