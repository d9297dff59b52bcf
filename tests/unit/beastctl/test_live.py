"""Markdown that renders while it streams, seen through a small terminal."""

from __future__ import annotations

import io
import re
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from beastctl.live import LiveScreen
from beastctl.markdown import drawing
from beastctl.screen import Progress


class Terminal(io.StringIO):
    """Lines of a terminal that obeys what LiveScreen uses; those above the window are out of reach."""

    def __init__(self, width: int, height: int) -> None:
        super().__init__()
        self.width, self.height = width, height
        self.rows, self.row, self.column = [""], 0, 0

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", text):
            self._obey(part)
        return len(text)

    def _obey(self, part: str) -> None:
        if part == "\n":
            self.row, self.column = self.row + 1, 0
            self.rows += [""] * (self.row + 1 - len(self.rows))
        elif part == "\r":
            self.column = 0
        elif part.endswith("A"):
            top = max(len(self.rows) - self.height, 0)
            self.row = max(self.row - int(part[2:-1]), top)
        elif part == "\x1b[2K":
            self.rows[self.row] = ""
            while len(self.rows) > self.row + 1 and not self.rows[-1]:
                self.rows.pop()
        elif not part.startswith("\x1b"):
            line = self.rows[self.row].ljust(self.column)
            self.rows[self.row] = line[: self.column] + part + line[self.column + 1 :]
            self.column += 1
            assert self.column <= self.width, "a line reached past the terminal's edge"


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.05
        return self.now


def console_of(terminal: Terminal) -> Console:
    return Console(
        file=terminal, width=terminal.width, height=terminal.height, force_terminal=True, legacy_windows=False
    )


def shown(pieces: list[str], width: int = 40, height: int = 8) -> list[str]:
    """The terminal's lines, scrollback included, after an answer in pieces."""
    terminal = Terminal(width, height)
    screen = LiveScreen(console_of(terminal), Progress(io.StringIO()), Clock())
    for piece in pieces:
        screen.on_text(piece)
        screen.on_tick()
    screen.on_end()
    return terminal.rows


WORDS = st.sampled_from(["word", "*it*", "`x`", "a b c d e f g h i j k l m n o p q r s t u v w x y z" * 2, "wörter"])
BLOCKS = st.sampled_from(
    ["para\nmore", "- a\n- b\n\n- c", "```\nx\n\ny\n```", "# head", "> quote", "| a |\n|---|\n| 1 |", "1. one\n2. two"]
)
documents = st.lists(st.one_of(BLOCKS, st.lists(WORDS, max_size=6).map(" ".join)), max_size=8).map("\n\n".join)


@settings(max_examples=50)
@given(documents, st.lists(st.integers(min_value=0), max_size=12))
def test_the_scrollback_is_the_same_however_the_text_streams(text: str, cuts: list[int]) -> None:
    """Every line stands there once, as if the whole answer had been drawn at its end."""
    places = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    assert shown(pieces) == shown([text])


def test_a_block_taller_than_the_terminal_stands_there_once() -> None:
    """Only the last lines of an unfinished block are drawn, so none is left behind in the scrollback."""
    code = ["```\n", *(f"line {n}\n" for n in range(30)), "```\n", "\nend"]
    lines = shown(code, height=6)
    assert [line.strip() for line in lines if line.strip()] == [*(f"line {n}" for n in range(30)), "end"]


def test_blocks_stand_one_line_apart() -> None:
    """As the drawing of the whole text has them."""
    assert shown(["one\n\ntwo\n\n- three\n"]) == ["one", "", "two", "", " • three", ""]


def test_thinking_is_shown_before_the_answer() -> None:
    """It is kept, and set off from the answer."""
    terminal = Terminal(40, 8)
    screen = LiveScreen(console_of(terminal), Progress(io.StringIO()), Clock())
    screen.on_thinking("let me see")
    for _ in range(40):
        screen.on_tick()
    screen.on_text("yes")
    screen.on_end()
    assert terminal.rows == ["let me see", "", "yes", ""]


def test_what_is_waited_for_stays_beside_the_spinner() -> None:
    """Whole, however long the wait; a load that begins takes it off the screen."""
    terminal = Terminal(40, 8)
    screen = LiveScreen(console_of(terminal), Progress(io.StringIO()), Clock())
    screen.on_waiting("place 2 in line, waiting for the answers of bear to end")
    for _ in range(200):
        screen.on_tick()
    assert " ".join(terminal.rows)[1:] == " place 2 in line, waiting for the answers of bear to end"
    screen.on_loading(0.5)
    assert terminal.rows == [""]


def test_escape_codes_of_the_model_reach_the_terminal_as_text() -> None:
    """Neither raw nor through an entity or an address."""
    raw = io.StringIO()
    console = Console(file=raw, width=80, height=8, force_terminal=True, color_system=None)
    screen = LiveScreen(console, Progress(io.StringIO()), Clock())
    screen.on_text("\x1b]0;owned\x07 &#27;[2J [x](http://a/\x9b2J&#x9b;)\n\n```\n\x1b[2J\n```\n")
    screen.on_end()
    assert not set(re.sub(r"\x1b\[[0-9;?]*[mAK]", "", raw.getvalue())) & {"\x1b", "\x07", "\x9b"}
    assert "\x1b[2J" not in raw.getvalue()


def test_the_terminal_never_sees_a_whole_document_redrawn() -> None:
    """What is written grows with the text, not with its square: settled blocks are left alone."""
    terminal = Terminal(40, 8)
    written = []
    terminal.write = lambda text: written.append(len(text)) or len(text)  # type: ignore[method-assign]
    screen = LiveScreen(console_of(terminal), Progress(io.StringIO()), Clock())
    for n in range(200):
        screen.on_text(f"paragraph {n}\n\n")
        screen.on_tick()
    screen.on_end()
    assert sum(written) < 200 * 100


def test_a_drawing_shows_where_a_link_leads() -> None:
    """Its address is text: a name cannot hide it."""
    out = io.StringIO()
    Console(file=out, width=80).print(drawing("[home](http://elsewhere/x)"))
    assert "http://elsewhere/x" in out.getvalue()
