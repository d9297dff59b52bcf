"""When frames go out, and what is in them."""

from __future__ import annotations

from beastd import ipc
from beastd.contract import Final
from beastd.engine.outbox import COALESCE_NS, Outbox


def make() -> tuple[Outbox, list[ipc.Step]]:
    sent: list[ipc.Step] = []
    return Outbox(sent.append), sent


def test_a_first_piece_goes_out_with_the_next_frame_at_once() -> None:
    outbox, sent = make()
    outbox.flush_before(0, is_short=True)
    outbox.say(1, "a", "", [], is_first=True)
    outbox.flush_before(1, is_short=True)
    assert [delta.text for step in sent for delta in step.deltas] == ["a"]


def test_pieces_of_short_steps_share_a_frame() -> None:
    outbox, sent = make()
    outbox.say(1, "a", "", [], is_first=True)
    outbox.flush_before(0, is_short=True)
    for piece in "bc":
        outbox.say(1, piece, "", [], is_first=False)
        outbox.flush_before(1, is_short=True)
    assert len(sent) == 1
    outbox.flush_before(COALESCE_NS, is_short=True)
    assert [step.deltas[0].text for step in sent] == ["a", "bc"]


def test_nothing_is_held_back_before_a_long_step() -> None:
    outbox, sent = make()
    outbox.say(1, "a", "", [], is_first=True)
    outbox.flush_before(0, is_short=True)
    outbox.say(1, "b", "", [], is_first=False)
    outbox.flush_before(1, is_short=False)
    assert len(sent) == 2


def test_an_ending_goes_out_at_once_with_the_text_before_it() -> None:
    outbox, sent = make()
    outbox.say(1, "a", "", [], is_first=False)
    outbox.end(1, Final(reason="stop"))
    outbox.flush_before(0, is_short=True)
    (delta,) = sent[0].deltas
    assert delta.text == "a"
    assert delta.final is not None
    assert delta.final.reason == "stop"


def test_a_cancelled_request_says_no_more() -> None:
    outbox, sent = make()
    outbox.say(1, "a", "", [], is_first=True)
    outbox.say(2, "b", "", [], is_first=True)
    outbox.forget(1)
    outbox.flush(0)
    assert [delta.id for delta in sent[0].deltas] == [2]


def test_a_position_is_in_the_next_frame() -> None:
    outbox, sent = make()
    outbox.wait(1, 3)
    outbox.wait(1, 2)
    outbox.flush(0)
    assert [(delta.id, delta.n_ahead) for delta in sent[0].deltas] == [(1, 2)]
