"""From the moments a client saw to figures a person compares. Pure; all times in seconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Timeline:
    """One request as its client saw it, on one clock."""

    sent_s: float
    stamps_s: list[float] = field(default_factory=list)
    """When each piece of text arrived."""
    ended_s: float = 0.0
    n_prompt: int = 0
    n_answer: int = 0
    """Tokens, as the server counted them; else pieces."""
    error: str = ""

    @property
    def ttft_s(self) -> float:
        """Time to the first piece of text."""
        return self.stamps_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        """Times between pieces: inter-token latency where the server sends a piece for each token."""
        return [after - before for before, after in zip(self.stamps_s, self.stamps_s[1:], strict=False)]

    @property
    def generation_rate(self) -> float:
        """Tokens a second after the first; 0 when there is no second."""
        took_s = self.stamps_s[-1] - self.stamps_s[0]
        return (self.n_answer - 1) / took_s if took_s > 0 else 0.0

    @property
    def prefill_rate(self) -> float:
        """Prompt tokens a second until the first piece of text."""
        return self.n_prompt / self.ttft_s if self.ttft_s > 0 else 0.0


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which ``share`` (0 to 1) of the values lie, interpolated; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def percentiles(values: Sequence[float]) -> dict[str, float]:
    """The three that are reported."""
    return {name: percentile(values, share) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}


def one_stream(runs: Sequence[Timeline]) -> dict[str, Any]:
    """Medians over runs of one request at a time."""
    good = [run for run in runs if not run.error]
    return {
        "n_runs": len(good),
        "n_prompt": percentile([run.n_prompt for run in good], 0.5),
        "ttft_s": percentile([run.ttft_s for run in good], 0.5),
        "prefill_tokens_per_s": percentile([run.prefill_rate for run in good], 0.5),
        "generation_tokens_per_s": percentile([run.generation_rate for run in good], 0.5),
        "errors": sorted({run.error for run in runs if run.error}),
    }


def many_streams(streams: Sequence[Sequence[Timeline]]) -> dict[str, Any]:
    """What streams that ran at once got together and each; every stream is its requests, one after another."""
    runs = [run for stream in streams for run in stream]
    good = [run for run in runs if not run.error]
    wall_s = max((run.ended_s for run in good), default=0.0) - min((run.sent_s for run in good), default=0.0)
    n_answer = sum(run.n_answer for run in good)
    return {
        "n_streams": len(streams),
        "n_requests": len(runs),
        "n_errors": len(runs) - len(good),
        "wall_s": wall_s,
        "n_prompt": sum(run.n_prompt for run in good),
        "n_answer": n_answer,
        "tokens_per_s": n_answer / wall_s if wall_s else 0.0,
        "steady_tokens_per_s": steady_rate(streams),
        "requests_per_s": len(good) / wall_s if wall_s else 0.0,
        "ttft_s": percentiles([run.ttft_s for run in good]),
        "itl_s": percentiles([gap for run in good for gap in run.gaps_s]),
        "errors": sorted({run.error for run in runs if run.error}),
    }


def steady_rate(streams: Sequence[Sequence[Timeline]]) -> float:
    """Tokens a second from when every stream has begun to answer until the first has done all its work."""
    working = [good for stream in streams if (good := [run for run in stream if not run.error])]
    first = max((stream[0].stamps_s[0] for stream in working), default=0.0)
    last = min((stream[-1].stamps_s[-1] for stream in working), default=0.0)
    runs = [run for stream in working for run in stream]
    # A piece of text may hold several tokens: each stands for its share.
    n_tokens = sum(sum(first < at <= last for at in run.stamps_s) * run.n_answer / len(run.stamps_s) for run in runs)
    return n_tokens / (last - first) if last > first else 0.0
