"""The fetch process: ``python -P -m beastd.fetch``, a FetchOrder in, progress and a Fetched out (``beastd.tool``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from beastd.fetch.order import FetchOrder
from beastd.fetch.pull import fetch
from beastd.tool import serve

if TYPE_CHECKING:
    from beastd.tool import Report


def work(order: FetchOrder, report: Report) -> dict[str, Any]:
    """Carry out one order."""
    result: dict[str, Any] = msgspec.to_builtins(fetch(order, report))
    return result


if __name__ == "__main__":
    serve(FetchOrder, work)
