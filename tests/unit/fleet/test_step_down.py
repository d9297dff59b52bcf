"""Steps to smaller variants, where two workers of one model are there."""

from __future__ import annotations

from typing import Any


def test_two_workers_of_one_model_do_not_step_down_to_the_same_variant(notebook: Any, want: Any) -> None:
    """A plan that moves both lets the first have it, and makes the rest of the room otherwise."""
    book, ladder = notebook(budget_gb=16), (8, 4, 1)
    second = book.request(want("cub", ladder=ladder, pick="v1"))
    book.settle()
    anyone = book.request(want("cub", ladder=ladder))
    first = book.request(want("cub", ladder=ladder, pick="v0"))
    book.settle()
    other = book.request(want("cub", ladder=ladder))
    for ticket in (second, anyone, first, other):
        book.release(ticket, 1e6)
    book.orders.clear()
    large = book.request(want("large", gb=10.4))
    assert [key for act, key in book.orders if act == "step_down"] == ["cub@v2"]
    book.settle()
    assert book.outcomes[large] == "large@q8_0"
    assert [key for act, key in book.orders if act == "step_down"] == ["cub@v2"]
