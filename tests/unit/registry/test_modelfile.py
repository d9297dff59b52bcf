"""Model descriptions: what they mean and how a wrong one is told."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.contract import Options
from beastd.errors import BadModel
from beastd.registry.modelfile import AdapterFile, Description, describe
from beastd.yamlfile import YamlError, parse_yaml

SOURCE = Path("/models/m.yaml")


def read(text: str) -> Description:
    return describe(parse_yaml(text), SOURCE)


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
    assert found.variants == {"q8_0": folder / "m-q8_0.gguf", "f16": Path("/elsewhere/m-f16.gguf")}
    assert found.default == "f16"
    pirate, poet = AdapterFile(folder / "pirate.gguf", 1.0), AdapterFile(folder / "poet.gguf", 0.5)
    assert found.adapters == {"pirate": pirate, "poet": poet}
    assert found.draft == folder / "draft.gguf"
    assert found.parameters == Options(temperature=0, stop=["a", "b"], num_ctx=2048)
    texts = (found.template, found.system, found.license, found.description)
    assert texts == ("{{ messages }}", "Be brief.", "MIT", "A model.")
    assert found.sha256 == {folder / "m-q8_0.gguf": "ab" * 32}


def test_the_first_variant_is_the_default():
    """One line is a whole description."""
    found = read("variants: {b: b.gguf, a: a.gguf}")
    assert (found.default, list(found.variants)) == ("b", ["b", "a"])


def test_every_named_file_knows_its_field():
    """A missing file can be told by file, line and field."""
    found = read("variants:\n  q: q.gguf\nadapters:\n  p: p.gguf\ndraft: d.gguf\n")
    assert [found.where(trail) for trail, _ in found.files()] == [
        "/models/m.yaml line 2: variants.q",
        "/models/m.yaml line 4: adapters.p",
        "/models/m.yaml line 5: draft",
    ]


GOOD = "variants: {q: q.gguf}\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "missing required field `variants`"),
        ("variants: {}", "line 1: variants: a model needs at least one"),
        ("variants: q.gguf", "line 1: variants: Expected `object`"),
        ("variants:\n  q: 3", "line 1: variants: Expected `str`, got `int`"),
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


KEYS = st.sampled_from(["variants", "default", "adapters", "draft", "parameters", "sha256", "q", "path", "scale", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text("aq./ \0", max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(KEYS, VALUES, max_size=6))
def test_any_data_is_a_description_or_bad_model(data):
    """Nothing else is raised, whatever the fields hold."""
    document = parse_yaml("")
    try:
        found = describe(type(document)("", data, {}), SOURCE)
    except BadModel:
        return
    assert found.default in found.variants


@given(st.text(max_size=60) | st.text("abc:-[]{}&*!|>'\"\n #%@`,? ", max_size=40))
def test_any_text_is_yaml_or_refused(text):
    """The parser's own exceptions never come through."""
    with suppress(YamlError):
        assert isinstance(parse_yaml(text).data, dict)
