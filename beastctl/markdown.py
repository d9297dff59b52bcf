"""Markdown as a model writes it: where a block of a growing text is finished, and how one is drawn.

One parser decides both, so a text is never cut where the drawing would see a single block.
"""

from __future__ import annotations

from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.markdown import Markdown

CLOSED_BY_BLANK = frozenset({"paragraph_open", "heading_open", "hr", "fence", "blockquote_open", "table_open"})
"""Blocks that a blank line ends; a list or indented code goes on after one."""


def parser() -> MarkdownIt:
    """CommonMark with tables and strike-through, where HTML and link definitions are text like any other.

    Drawn by the book they would vanish, and with them something the model said.
    """
    return MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")


def split(text: str) -> tuple[list[str], str]:
    """The top-level blocks of ``text`` that nothing appended can change, and the rest.

    Only complete lines count, so the blocks do not depend on how the text was cut in pieces.
    """
    lines = [line + "\n" for line in text.split("\n")[:-1]]
    found = _blocks("".join(lines))
    if not found:
        return [], text
    # The line after the last block is blank, else it would belong to it or begin another.
    is_closed = found[-1].type in CLOSED_BY_BLANK and _span(found[-1])[1] < len(lines)
    starts = [0, *(_span(block)[0] for block in found[1:]), len(lines)]
    parts = ["".join(lines[start:end]) for start, end in pairwise(starts)]
    finished = parts if is_closed else parts[:-1]
    return finished, text[sum(map(len, finished)) :]


def _blocks(text: str) -> list[Token]:
    return [token for token in parser().parse(text) if token.level == 0 and token.map]


def _span(block: Token) -> tuple[int, int]:
    start, end = block.map or (0, 0)
    return start, end


def drawing(text: str) -> Markdown:
    """A rich renderable of ``text`` (without control characters) that keeps the model's line breaks and shows URLs."""
    markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)
    markdown.parsed = parser().parse(text)
    _keep_line_breaks(markdown.parsed)
    return markdown


def _keep_line_breaks(tokens: list[Token]) -> None:
    for token in tokens:
        for child in token.children or ():
            if child.type == "softbreak":
                child.type = "hardbreak"
