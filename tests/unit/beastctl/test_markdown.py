"""Where a growing Markdown text may be cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastctl.markdown import drawing, parser, split

LINES = (
    "", "", "text", "more *text*", "# heading", "===", "---", "***", "- item", "* other", "  - nested",
    "1. one", "2) two", "   continued", "    indented", "```", "```python", "````", "~~~", "   ```",
    "> quote", "> ```", "| a | b |", "|---|---|", "<div>", "</div>", "<!-- note", "-->", "[x]: /url",
    '"title"', "\\", "end\\", "`code", "\t", "a|b", "-|-", "- ```", "  ```",
)  # fmt: skip
documents = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)


def blocks_of(text: str, cuts: list[int]) -> list[str]:
    """What is settled while ``text`` grows piece by piece, and the rest at its end."""
    settled, tail, start = [], "", 0
    for end in [*sorted(cut % (len(text) + 1) for cut in cuts), len(text)]:
        tail += text[start:end]
        start = end
        finished, tail = split(tail)
        settled += finished
    return [*settled, tail]


def block_lines(text: str) -> list[tuple[str, int, int]]:
    tokens = parser().parse(text)
    return [(token.type, token.map[0], token.map[1]) for token in tokens if token.level == 0 and token.map]


@given(documents, st.lists(st.integers(min_value=0), max_size=10))
def test_pieces_join_to_the_text_and_each_is_drawn_as_in_the_whole(text: str, cuts: list[int]) -> None:
    """However a text arrives, its settled pieces are whole blocks: parsed apart they are what they were together."""
    pieces = blocks_of(text, cuts)
    assert "".join(pieces) == text
    apart, line = [], 0
    for piece in pieces:
        apart += [(kind, start + line, end + line) for kind, start, end in block_lines(piece)]
        line += piece.count("\n")
    assert apart == block_lines(text)


@given(documents)
def test_what_is_finished_stays_finished(text: str) -> None:
    """Nothing that follows can change where a cut was."""
    finished = [block.rstrip() for block in split(text)[0]]
    later = [block.rstrip() for block in split(text + "\n\n# more\n")[0]]
    assert later[: len(finished)] == finished


@pytest.mark.parametrize(
    ("text", "finished"),
    [
        ("para", ""),
        ("para\n", ""),
        ("para\n\n", "para\n\n"),
        ("# title\ntext", ""),
        ("# title\n\ntext\n", "# title\n\n"),
        ("```\na\n\nb\n", ""),
        ("````\n```\n\n```\n", ""),
        ("```\na\n```\n\n", "```\na\n```\n\n"),
        ("- one\n\n", ""),
        ("- one\n\n- two\n\nnext\n", "- one\n\n- two\n\n"),
        ("| a |\n|---|\n| 1 |\n", ""),
        ("| a |\n|---|\n| 1 |\n\n", "| a |\n|---|\n| 1 |\n\n"),
    ],
)
def test_blocks_are_finished_when_nothing_can_join_them(text: str, finished: str) -> None:
    """Paragraphs, code and tables end at a blank line; lists and open fences do not."""
    assert "".join(split(text)[0]) == finished


def test_each_block_is_a_piece_of_its_own() -> None:
    """Blocks that end at the same moment are still told apart."""
    assert split("# a\nb\n```\nc\n```\n\nd") == (["# a\n", "b\n", "```\nc\n```\n\n"], "d")


@pytest.mark.parametrize("text", ["a <b>tag</b>", "<div>\nblock\n</div>", "[x]: /url", "&#27;[31m"])
def test_nothing_a_model_says_vanishes_or_becomes_a_control(text: str) -> None:
    """HTML and link definitions are shown as text, and entities give no control characters."""
    tokens = parser().parse(text)
    shown = "".join(token.content for token in tokens if token.type == "inline")
    assert shown == text
    rendered = "".join(child.content for token in tokens for child in token.children or ())
    assert "\x1b" not in rendered


def test_line_breaks_of_the_model_are_kept() -> None:
    """A poem stays a poem."""
    inline = next(token for token in drawing("roses\nviolets").parsed if token.type == "inline")
    assert [child.type for child in inline.children or ()] == ["text", "hardbreak", "text"]
