"""Where long work stands, in words and bars: how much is done, how fast it goes, how much longer it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from beastctl import render
from beastctl.screen import SPINNER

MIN_LABEL = 12
MIN_BAR = 8
MAX_BAR = 40
GAP = 2

Line = Mapping[str, Any]
"""One line of a job's stream: status, and maybe item, completed, total, unit, rate, eta_s."""


class Board:
    """The latest line of everything that is under way, each job under its title."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, str], Line] = {}
        self._latest: Line | None = None
        self._titles: set[str] = set()

    def take(self, title: str, line: Line) -> None:
        """News of a job. What it does as a whole gives way to what it counts."""
        self._titles.add(title)
        if line.get("item"):
            self._lines.pop((title, ""), None)
        self._lines[title, str(line.get("item") or "")] = line
        self._latest = line

    def end(self, title: str) -> None:
        """A job is over: nothing is to be shown of it."""
        self._lines = {key: line for key, line in self._lines.items() if key[0] != title}
        self._latest = next(reversed(self._lines.values()), None)

    def rows(self, width: int, height: int, turn: int) -> list[str]:
        """Everything in ``height`` rows of ``width`` cells at most; what goes on comes before what is done."""
        shown = list(self._lines.items())
        if len(shown) > height:
            shown = sorted(shown, key=lambda entry: is_done(entry[1]))[: max(height - 1, 0)]
        labels = [self._label(title, line) for (title, _), line in shown]
        label_width = min(max(map(render.cells, labels), default=0), max(width // 3, MIN_LABEL))
        rows = [row(label, line, label_width, width, turn) for label, (_, line) in zip(labels, shown, strict=True)]
        n_more = len(self._lines) - len(shown)
        return [*rows, *([render.clip(f"… and {n_more} more", width)] if n_more and height else [])]

    def sentence(self) -> str:
        """The latest news, for where nothing can be redrawn; empty without any."""
        return sentence(self._latest) if self._latest else ""

    def _label(self, title: str, line: Line) -> str:
        is_told_apart = line.get("item") or len(self._titles) == 1
        return render.visible(str(line["status"]) if is_told_apart else f"{title}: {line['status']}")


def row(label: str, line: Line, label_width: int, width: int, turn: int) -> str:
    """One line with a bar; what has no room is left out, the bar first. ``turn`` moves the spinner."""
    label = render.clip(label, label_width, label_width // 2)
    label += " " * (label_width - render.cells(label))
    if not line.get("total"):
        rest = "  ".join(part for part in (_amount(line), _rate(line)) if part)
        return render.clip(f"{label}  {SPINNER[turn % len(SPINNER)]} {rest}".rstrip(), width)
    room = width - label_width
    parts = {"percent": f"{_share(line):4.0%}", "eta": f"{_eta(line):>7}", "rate": f"{_rate(line):>11}"}
    parts["amount"] = f"{_amount(line):>15}"
    kept = {}
    for name, text in parts.items():
        if room >= len(text) + GAP:
            room -= len(text) + GAP
            kept[name] = text
    bar = _bar(_share(line), min(room - GAP, MAX_BAR)) if room >= MIN_BAR + GAP else ""
    order = [bar, *(kept.get(name, "") for name in ("percent", "amount", "rate", "eta"))]
    return (" " * GAP).join([label, *filter(None, order)]).rstrip()


def sentence(line: Line) -> str:
    """``pulling model.gguf: 45% of 2.6 GB, 34 MB/s, 1m12s left``."""
    eta = _eta(line)
    total = _count(line, "total") if line.get("total") else ""
    done = f"{_share(line):.0%} of {total}" if total else _amount(line)
    parts = [part for part in (done, _rate(line), f"{eta} left" if eta else "") if part]
    return render.visible(str(line["status"])) + (f": {', '.join(parts)}" if parts else "")


def is_done(line: Line) -> bool:
    """Everything that was to be counted has been."""
    return bool(line.get("total")) and int(line.get("completed") or 0) >= int(line["total"])


def short_time(seconds: float) -> str:
    """Time to wait: ``9s``, ``1m12s``, ``2h05m``, ``3d04h``."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02}h" if days < 1000 else "ages"
    if hours:
        return f"{h}h{m:02}m"
    return f"{m}m{s:02}s" if minutes else f"{s}s"


def _share(line: Line) -> float:
    """Rounded down: what is not done is not at 100%."""
    share = int(100 * int(line.get("completed") or 0) / int(line["total"])) / 100
    return min(max(share, 0.0), 1.0)


def _bar(share: float, width: int) -> str:
    n_full = int(share * width)
    return "━" * n_full + "─" * (width - n_full)


def _amount(line: Line) -> str:
    done = line.get("completed")
    if line.get("total"):
        return _count(line, "total") if is_done(line) else f"{_count(line, 'completed')}/{_count(line, 'total')}"
    return _count(line, "completed") if done else ""


def _count(line: Line, field: str) -> str:
    n, unit = int(line.get(field) or 0), line.get("unit") or "bytes"
    if unit == "bytes":
        return render.size(n)
    is_named = field == "total" or not line.get("total")
    return render.count(n) + f" {unit}" * is_named


def _rate(line: Line) -> str:
    rate, unit = float(line.get("rate") or 0), line.get("unit") or "bytes"
    if rate <= 0 or is_done(line):
        return ""
    return f"{render.size(rate)}/s" if unit == "bytes" else f"{rate:.3g}/s"


def _eta(line: Line) -> str:
    return "" if line.get("eta_s") is None or is_done(line) else short_time(float(line["eta_s"]))
