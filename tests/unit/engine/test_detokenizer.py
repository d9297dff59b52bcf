"""detokenizer: the same text however it is split, released as early as can be, thoughts apart from the answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beastd.engine.detokenizer import Detokenizer, ThinkingSplitter, overlap

letters = st.text("ab<é", max_size=30)
stops = st.lists(st.text("ab<é", max_size=4), max_size=3)
SPLITTABLE = st.sampled_from(["<think>", "</think>", " ", "\n", "<", "a", "think>", "</"])


@st.composite
def pieces_of(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> list[bytes]:
    """Some bytes, split anywhere."""
    data = draw(whole)
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def text_of(pieces: list[bytes], stop: list[str]) -> str:
    detokenizer = Detokenizer(stop)
    return "".join(detokenizer.push(piece) for piece in pieces) + detokenizer.flush()


def until_stop(text: str, stop: list[str]) -> str:
    """The text before the stop string that is complete first, read letter by letter."""
    for end in range(1, len(text) + 1):
        starts = [end - len(s) for s in stop if s and text[:end].endswith(s)]
        if starts:
            return text[: min(starts)]
    return text


@given(pieces_of(st.binary(max_size=40)))
def test_any_split_of_any_bytes_decodes_alike(pieces: list[bytes]) -> None:
    """Invalid and unfinished characters become U+FFFD as if decoded in one piece."""
    assert text_of(pieces, []) == b"".join(pieces).decode("utf-8", "replace")


@given(pieces_of(letters.map(str.encode)), stops)
def test_any_split_stops_alike(pieces: list[bytes], stop: list[str]) -> None:
    """The text ends before the first complete stop string, however the pieces fall."""
    assert text_of(pieces, stop) == until_stop(b"".join(pieces).decode(), stop)


@given(letters, stops)
def test_text_is_released_as_soon_as_it_is_certain(text: str, stop: list[str]) -> None:
    """After each letter, all is out but the longest end that could become a stop string."""
    detokenizer = Detokenizer(stop)
    released = ""
    for n, letter in enumerate(text, 1):
        released += detokenizer.push(letter.encode())
        if detokenizer.stopped:
            assert released == until_stop(text[:n], stop)
            break
        n_uncertain = max((i for s in stop for i in range(len(s)) if text[:n].endswith(s[:i])), default=0)
        assert released == text[: n - n_uncertain]


def test_a_character_is_never_split() -> None:
    """A four-byte character comes out with its last byte."""
    detokenizer = Detokenizer([])
    assert [detokenizer.push(bytes([byte])) for byte in "🐉".encode()] == ["", "", "", "🐉"]


def test_nothing_after_a_stop_string_is_released() -> None:
    """Neither later pieces nor the flush bring back what follows."""
    detokenizer = Detokenizer(["END"])
    assert detokenizer.push(b"so E") == "so "
    assert detokenizer.push(b"ND and more") == ""
    assert detokenizer.stopped
    assert detokenizer.push(b"text") == ""
    assert detokenizer.flush() == ""


def test_a_false_start_of_a_stop_string_is_released() -> None:
    """What was held back for nothing comes with the text that shows it, or at the end."""
    detokenizer = Detokenizer(["###"])
    assert detokenizer.push(b"a##") == "a"
    assert detokenizer.push(b"b#") == "##b"
    assert detokenizer.flush() == "#"
    assert not detokenizer.stopped


def test_a_stop_string_may_end_in_the_flush() -> None:
    """A character left unfinished counts as U+FFFD, also for stop strings."""
    detokenizer = Detokenizer(["\ufffd"])
    assert detokenizer.push(b"a\xf0\x9f") == "a"
    assert detokenizer.flush() == ""
    assert detokenizer.stopped


@given(st.text("ab", max_size=12), st.text("ab", min_size=1, max_size=6))
def test_overlap_is_the_longest_unfinished_beginning(text: str, mark: str) -> None:
    """The longest end of the text that is a beginning of the mark, but not the whole mark."""
    assert overlap(text, mark) == max(i for i in range(len(mark)) if text.endswith(mark[:i]))


# --- thinking ---


def split(pieces: list[str], *, start_inside: bool = False) -> tuple[str, str]:
    splitter = ThinkingSplitter(start_inside=start_inside)
    parts = [splitter.push(piece) for piece in pieces] + [splitter.flush()]
    return "".join(thinking for thinking, _ in parts), "".join(answer for _, answer in parts)


@pytest.mark.parametrize(
    ("text", "thinking", "answer"),
    [
        ("<think>\nhm\n</think>\n\nYes.\n", "hm\n", "Yes.\n"),
        (" \n<think>a</think>b", "a", "b"),
        ("No thought at all. ", "", "No thought at all. "),
        ("  indented", "", "  indented"),
        ("Say <think> to me</think>", "", "Say <think> to me</think>"),
        ("<think>a</think>b<think>c</think>d", "a", "b<think>c</think>d"),
        ("<think></think>x", "", "x"),
        ("<think>endless < </thin", "endless < </thin", ""),
        ("<thi", "", "<thi"),
        ("", "", ""),
    ],
)
def test_the_thought_at_the_beginning_is_set_apart(text: str, thinking: str, answer: str) -> None:
    """Only a tag at the very beginning opens a thought; whitespace after the tags goes."""
    assert split([text]) == (thinking, answer)
    assert split(list(text)) == (thinking, answer)


def test_a_thought_opened_in_the_prompt() -> None:
    """The answer begins inside of the thought when the template opened it."""
    assert split(["\nhm", "m</th", "ink>\nYes"], start_inside=True) == ("hmm", "Yes")
    assert split(["</think>", "\n\nYes"], start_inside=True) == ("", "Yes")


@given(st.lists(SPLITTABLE, max_size=12).map("".join), st.booleans(), st.lists(st.integers(0, 60), max_size=6))
def test_any_split_divides_alike(text: str, start_inside: bool, cuts: list[int]) -> None:
    """How the text comes in pieces never changes what is thought and what is answer."""
    at = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *at], [*at, len(text)], strict=True)]
    assert split(pieces, start_inside=start_inside) == split([text], start_inside=start_inside)


def test_thoughts_stream() -> None:
    """A thought comes out as it is thought; only what may be a tag waits."""
    splitter = ThinkingSplitter(start_inside=False)
    assert splitter.push("<think>first ") == ("first ", "")
    assert splitter.push("second </") == ("second ", "")
    assert splitter.push("b>") == ("</b>", "")
