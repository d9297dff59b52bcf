"""Modelfiles and descriptions: what they mean, how a wrong one is told, and that they are written as they are read."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beastd.contract import Message, Options
from beastd.errors import BadModel
from beastd.registry.description import AdapterFile, Description, describe
from beastd.registry.locate import Locator
from beastd.registry.modelfile import AdapterFields, Fields, Registered, dump, parse_modelfile
from beastd.yamlfile import YamlError, parse_yaml

SOURCE = Path("/models/m.yaml")
LOCATOR = Locator([Path("/models")], Path("/package"))


def read(text: str) -> Description:
    return describe(text, SOURCE, LOCATOR)


def test_every_field_is_read():
    """A full description comes back with absolute paths."""
    found = read(
        f"""
variants:
  q8_0: files/m-q8_0.gguf
  f16: /elsewhere/m-f16.gguf
default: f16
adapters:
  pirate: files/pirate.gguf
  poet: {{path: files/poet.gguf, scale: 0.5}}
draft: files/draft.gguf
parameters: {{temperature: 0, stop: [a, b], num_ctx: 2048}}
template: "{{{{ messages }}}}"
system: Be brief.
license: MIT
description: A model.
sha256:
  files/m-q8_0.gguf: sha256:{"AB" * 32}
"""
    )
    folder = Path("/models/files")
    assert found.variants == {"q8_0": (folder / "m-q8_0.gguf",), "f16": (Path("/elsewhere/m-f16.gguf"),)}
    assert found.default == "f16"
    pirate, poet = AdapterFile(folder / "pirate.gguf", 1.0), AdapterFile(folder / "poet.gguf", 0.5)
    assert found.adapters == {"pirate": pirate, "poet": poet}
    assert found.draft == folder / "draft.gguf"
    assert found.fields.parameters == Options(temperature=0, stop=["a", "b"], num_ctx=2048)
    it = found.fields
    texts = (it.template, it.system, it.license, it.description)
    assert texts == ("{{ messages }}", "Be brief.", "MIT", "A model.")
    assert found.sha256 == {folder / "m-q8_0.gguf": "ab" * 32}


def test_the_first_variant_is_the_default():
    """One line is a whole description."""
    found = read("variants: {b: b.gguf, a: a.gguf}")
    assert (found.default, list(found.variants)) == ("b", ["b", "a"])


def test_every_named_file_knows_its_field():
    """A missing file can be told by file, line and field."""
    found = read("variants:\n  q: q.gguf\nadapters:\n  p: p.gguf\ndraft: d.gguf\n")
    assert [found.places.where(trail) for trail, _ in found.files()] == [
        "/models/m.yaml line 2: variants.q",
        "/models/m.yaml line 4: adapters.p",
        "/models/m.yaml line 5: draft",
    ]


GOOD = "variants: {q: q.gguf}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "variants: a model needs at least one"),
        ("variants: {}", "line 1: variants: a model needs at least one"),
        ("variants: q.gguf", "line 1: variants: Expected `object`"),
        ("variants:\n  q: 3", "line 1: variants: Expected `str | array`, got `int`"),
        ("variants:\n  q: ''", r"line 2: variants\.q: a file's path"),
        ('variants:\n  q: "a\\0b"', r"line 2: variants\.q: a file's path"),
        ("variants:\n  a/b: q.gguf", "line 2: variants.a/b: a name is letters"),
        ("variants:\n  q: a.gguf\n  Q: b.gguf", "line 3: variants.Q: .*more than case"),
        (GOOD + "variant: x", r"line 2: variant: there is no field of this name \(did you mean 'variants'\?\)"),
        (GOOD + "default: r", "line 2: default: there is no variant 'r'"),
        (GOOD + "default: 4", "line 2: default: Expected `str"),
        (GOOD + "adapters:\n  p: {file: x}", r"line \d: adapters: Object .*path|line \d: adapters: .*file"),
        (GOOD + "adapters:\n  p: {path: x, scale: big}", "line 2: adapters.scale: Expected `float`"),
        (GOOD + "parameters:\n  temprature: 1", r"line 3: parameters.temprature: .*did you mean 'temperature'\?"),
        (GOOD + "parameters:\n  temperature: -1", "line 3: parameters.temperature: Expected `float` >= 0"),
        (GOOD + "parameters:\n  top_k: lots", "line 3: parameters.top_k: Expected `int"),
        (GOOD + "kv_type: q3", "line 2: kv_type: 'q3' is not possible; write f16, q8_0 or q4_0"),
        (GOOD + "quality: best", "line 2: quality: 'best' is not possible; write fixed or adaptive"),
        (GOOD + "keep_alive: soon", "line 2: keep_alive: 'soon' is not a duration"),
        (GOOD + "parameters: 7", "line 2: parameters: Expected `object`"),
        (GOOD + "sha256: {q.gguf: 12}", "line 2: sha256: Expected `str`"),
        (GOOD + "sha256: {q.gguf: '12'}", r"line 2: sha256\.q\.gguf: 64 hexadecimal digits"),
        (GOOD + f"sha256: {{r.gguf: {'0a' * 32}}}", r"line 2: sha256\.r\.gguf: no variant, adapter or draft"),
    ],
)
def test_a_wrong_field_is_named_with_its_line(text, problem):
    """File, line, field, and what would be right."""
    with pytest.raises(BadModel, match=problem) as caught:
        read(text)
    assert caught.value.message.startswith("/models/m.yaml")


def test_a_wrong_duration_is_told_where_it_was_written():
    """By the line of the text that was given, before anything is added to it from another model."""
    with pytest.raises(BadModel, match=r"^the modelfile line 2: keep_alive: 'soon' is not a duration"):
        parse_modelfile("from: cub\nkeep_alive: soon", "the modelfile")


KEYS = st.sampled_from(["variants", "default", "adapters", "draft", "parameters", "sha256", "q", "path", "scale", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("aq./ \0", max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_data_is_a_description_or_bad_model(data):
    """Nothing else is raised, whatever the fields hold."""
    try:
        found = describe(json.dumps(data), SOURCE, LOCATOR)  # JSON is YAML
    except BadModel:
        return
    assert found.default in found.variants


@given(st.text(max_size=60) | st.text("abc:-[]{}&*!|>'\"\n #%@`,? ", max_size=40))
def test_any_text_is_yaml_or_refused(text):
    """The parser's own exceptions never come through."""
    with suppress(YamlError):
        assert isinstance(parse_yaml(text).data, dict)


DIGEST = "ab" * 32


def test_files_are_named_by_digest_and_by_their_place_in_the_package():
    """Such names mean the same in every description."""
    found = read(
        f"variants: {{q: sha256:{DIGEST}, s: [sha256:{DIGEST}, 'builtin:cub/b.gguf'], t: x-00001-of-00002.gguf}}"
    )
    blob = Path(f"/models/.blobs/sha256-{DIGEST}")
    shards = tuple(Path(f"/models/x-{n:05d}-of-00002.gguf") for n in (1, 2))
    assert found.variants == {"q": (blob,), "s": (blob, Path("/package/cub/b.gguf")), "t": shards}
    assert found.digests() == {DIGEST}
    assert [LOCATOR.name(path) for path in found.variants["s"]] == [f"sha256:{DIGEST}", "builtin:cub/b.gguf"]
    for outside in ("builtin:../x", "builtin:cub/../../x"):
        with pytest.raises(BadModel, match="a file's path"):
            read(f"variants: {{q: '{outside}'}}")


def test_a_stored_model_starts_from_nothing():
    """What only `create` understands is refused, not ignored."""
    with pytest.raises(BadModel, match="line 1: from: only `beast create"):
        read("from: cub\nvariants: {q: q.gguf}")


NAMES = st.text("abcXYZ019_.-", min_size=1, max_size=8).filter(lambda name: name[0] not in ".-" and ".." not in name)
TEXTS = st.text(max_size=60) | st.sampled_from(
    ["on", "1e3", "0x1f", "~", "null", "2024-01-01", "a: b", "- x", "a\n\nb\n"]
)
FIELDS = st.builds(
    Fields,
    from_=st.none() | TEXTS,
    variants=st.dictionaries(NAMES, TEXTS | st.lists(TEXTS, max_size=3), max_size=3),
    adapters=st.dictionaries(NAMES, st.builds(AdapterFields, TEXTS, st.floats(-9, 9), st.booleans()), max_size=2),
    parameters=st.builds(
        Options, temperature=st.none() | st.floats(0, 9), stop=st.none() | st.lists(TEXTS, max_size=2)
    ),
    template=st.none() | TEXTS,
    system=st.none() | TEXTS,
    messages=st.lists(st.builds(Message, role=st.just("user"), content=TEXTS), max_size=2),
    license=st.none() | TEXTS,
    sha256=st.dictionaries(TEXTS, st.just(DIGEST), max_size=2),
    registered=st.dictionaries(TEXTS, st.builds(Registered, st.integers(0, 2**50), st.integers(0, 2**60)), max_size=2),
)


@settings(max_examples=50)
@given(FIELDS)
def test_what_is_written_reads_back_as_the_same(fields):
    """Texts that look like numbers, dates or YAML, control characters, and long lines among them."""
    assert parse_modelfile(dump(fields), "m")[0] == fields
