"""What a row found: pairs of values, round by round, their ratio, and the bar it is held against. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from beastctl.bench.stats import percentile
from beastctl.render import table
from tests.bench.peer.asking import Answer


@dataclass(slots=True)
class Figure:
    """One thing measured on two sides; ``ours[i]`` and ``theirs[i]`` are of the same round."""

    what: str
    unit: str
    against: str
    """Who or what the other side is."""
    at_most: float | None = None
    """The bar: what ours / theirs may be."""
    at_least: float | None = None
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        """Of each round."""
        return [a / b if b else float("inf") for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def is_met(self) -> bool | None:
        """Whether the median ratio keeps to the bar; None where there is none."""
        ratio = statistics.median(self.ratios)
        if self.at_most is not None:
            return ratio <= self.at_most
        return ratio >= self.at_least if self.at_least is not None else None


@dataclass(slots=True)
class Row:
    """All figures of one row, and what else is worth saying."""

    name: str
    figures: dict[str, Figure] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failure: str = ""
    """Why it could not be measured."""

    def add(
        self,
        what: str,
        ours: float,
        theirs: float,
        unit: str = "s",
        *,
        against: str = "llama-server",
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """A round's pair."""
        figure = self.figures.setdefault(what, Figure(what, unit, against, at_most, at_least))
        figure.ours.append(ours)
        figure.theirs.append(theirs)

    def note(self, text: str) -> None:
        """Say it once."""
        if text not in self.notes:
            self.notes.append(text)


def of_answers(answers: Sequence[Answer]) -> dict[str, float]:
    """What clients saw of requests that ran together, as name → seconds (``tok/s``: tokens a second)."""
    total_s = max(it.ended_s for it in answers) - min(it.sent_s for it in answers)
    ttfts = [it.ttft_s for it in answers]
    gaps = [gap for it in answers for gap in it.gaps_s]
    return {
        "total time": total_s,
        "TTFT mean": statistics.mean(ttfts),
        "TTFT p50": percentile(ttfts, 0.5),
        "TTFT p99": percentile(ttfts, 0.99),
        "ITL p50": percentile(gaps, 0.5),
        "ITL p99": percentile(gaps, 0.99),
        "tok/s": sum(it.n_answer for it in answers) / total_s,
    }


def add_answers(row: Row, ours: Sequence[Answer], theirs: Sequence[Answer], **at_most: float) -> None:
    """Compare two servers' answers to the same requests; ``at_most`` has bars, TTFT_mean for "TTFT mean"."""
    bars = {name.replace("_", " "): bar for name, bar in at_most.items()}
    others = of_answers(theirs)
    for what, value in of_answers(ours).items():
        unit = "tok/s" if what == "tok/s" else "s"
        row.add(what, value, others[what], unit, at_most=bars.get(what))
    note_work(row, ours, theirs, "llama-server")


def note_work(row: Row, ours: Sequence[Answer], theirs: Sequence[Answer], name: str) -> None:
    """Say it if the two sides did not do the same work; a prompt of 0 tokens is one that the reply does not count."""
    prompts, answers = (_sums(ours, theirs, field) for field in ("n_prompt", "n_answer"))
    if (prompts[1] and prompts[0] != prompts[1]) or answers[0] != answers[1]:
        row.note(
            f"UNEQUAL WORK: prompt and answer tokens {prompts[0]} + {answers[0]} at Beast, "
            f"{prompts[1]} + {answers[1]} at {name}"
        )


def _sums(ours: Sequence[Answer], theirs: Sequence[Answer], field: str) -> tuple[int, int]:
    return sum(getattr(it, field) for it in ours), sum(getattr(it, field) for it in theirs)


def as_text(row: Row) -> str:
    """The row for a terminal."""
    head = f"{row.name}: not measured: {row.failure}" if row.failure else row.name
    body = [table(("WHAT", "BEAST", "AGAINST", "", "RATIO", "BAR", ""), [_line(it) for it in row.figures.values()])]
    return "\n".join([head, *(body if row.figures else []), *(f"  {note}" for note in row.notes)])


def as_dict(row: Row) -> dict[str, object]:
    """The row as plain data."""
    figures = [
        {
            "what": it.what,
            "unit": it.unit,
            "against": it.against,
            "beast": it.ours,
            "other": it.theirs,
            "ratio": statistics.median(it.ratios),
            "at_most": it.at_most,
            "at_least": it.at_least,
            "is_met": it.is_met,
        }
        for it in row.figures.values()
    ]
    return {"row": row.name, "figures": figures, "notes": row.notes, "failure": row.failure}


def _line(it: Figure) -> tuple[str, ...]:
    ratios = it.ratios
    spread = f" ({min(ratios):.2f}-{max(ratios):.2f})" if len(ratios) > 1 else ""
    bar = f"≤ {it.at_most:g}×" if it.at_most is not None else f"≥ {it.at_least:g}×" if it.at_least is not None else ""
    verdict = {True: "met", False: "MISSED", None: ""}[it.is_met]
    ours, theirs = (_value(statistics.median(side), it.unit) for side in (it.ours, it.theirs))
    return (it.what, ours, theirs, it.against, f"{statistics.median(ratios):.2f}×{spread}", bar, verdict)


def _value(value: float, unit: str) -> str:
    return f"{value * 1e3:.0f} ms" if unit == "s" and value < 1 else f"{value:.2f} {unit}"
