"""The strict YAML reader: YAML 1.2's plain values, lines for messages, and no tricks."""

from __future__ import annotations

import pytest

from beastd.yamlfile import MAX_FILE_BYTES, YamlError, parse_yaml, read_yaml


def test_plain_words_have_the_types_of_yaml_1_2():
    """`on`, dates and times are text, as people mean them."""
    text = "a: [on, no, 2024-01-01, 12:30:45, 0x10, .inf]\nb: [1, -2.5, 1e3, true, null, ~, '1']\nc:\n"
    data = parse_yaml(text).data
    assert data["a"] == ["on", "no", "2024-01-01", "12:30:45", "0x10", ".inf"]
    assert data["b"] == [1, -2.5, 1000.0, True, None, None, "1"]
    assert data["c"] is None


def test_numbers_too_long_for_a_number_are_text():
    """Thousands of digits cost nothing and crash nothing."""
    assert parse_yaml("a: " + "9" * 10_000).data["a"] == "9" * 10_000


def test_fields_know_their_lines():
    """Nested fields and list items, counted from 1."""
    lines = parse_yaml("# c\na: 1\nb:\n  c:\n    - x\n    - y\n").lines
    assert lines == {("a",): 2, ("b",): 3, ("b", "c"): 4, ("b", "c", "0"): 5, ("b", "c", "1"): 6}


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "null"])
def test_nothing_is_an_empty_mapping(text):
    """An empty configuration file is a fine one."""
    assert parse_yaml(text).data == {}


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ("a: 1\nb: &x 2", "anchors", 2),
        ("a: *x", "anchors", 1),
        ("a: !!python/object:os.system x", "tags", 1),
        ("a: !x 1", "tags", 1),
        ("a: 1\n\na: 2", "'a' is given twice", 3),
        ("? [a]\n: b", "a key must be a word", 1),
        ("a: 1\n---\nb: 2", "more than one document", 2),
        ("- a", "top level", 1),
        ("a: [[[[[[[[[[", "nested deeper", 1),
        ("a: 1\nb: c: d", "mapping values are not allowed", 2),
        ("a: \x07", "control characters", None),
    ],
)
def test_what_beast_does_not_take_is_told_with_its_line(text, problem, line):
    """So that no document means more than it shows."""
    with pytest.raises(YamlError, match=problem) as caught:
        parse_yaml(text)
    assert caught.value.line == line


def test_files_are_bounded_and_utf8(tmp_path):
    """Size and encoding are checked before the parser sees anything."""
    path = tmp_path / "f.yaml"
    path.write_bytes(b"a: " + b"x" * MAX_FILE_BYTES)
    with pytest.raises(YamlError, match="larger than"):
        read_yaml(path)
    path.write_bytes(b"a: 1\nb: \xff")
    with pytest.raises(YamlError, match="not UTF-8") as caught:
        read_yaml(path)
    assert caught.value.line == 2
