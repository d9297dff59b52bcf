"""Policies compared by what they spend on reloading: the real fleet's decisions in a simulated world.

    python tests/bench/fleet_sim.py [--requests 10000] [--seed 1] [--days 5] [--plot FILE.svg]

Three traces of many requests over 50 models, then many short days of 10 models with room for 4 of them.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fleetsim.plot import draw_plot
from fleetsim.policies import LRU, OLLAMA, POLICIES, Policy
from fleetsim.traces import Trace, Traffic, make_trace
from fleetsim.world import Tally, World

LONG = (
    Traffic("steady"),
    Traffic("drifting", drift_s=600.0),
    Traffic("sessions, drifting", drift_s=600.0, session=6.0),
)
MIXED_S = (300.0, 1800.0, math.inf)
DAY = Traffic("", n_models=10, n_requests=500, budget_gb=0, fits=4, service_s=5.0, has_odd_ones=False)
DAYS = (
    dataclasses.replace(DAY, name="busy, keep_alive 5m", gap_s=8.0, keep_alives_s=(300.0,)),
    dataclasses.replace(DAY, name="busy, kept for ever", gap_s=8.0, keep_alives_s=(math.inf,)),
    dataclasses.replace(DAY, name="quiet, mixed keep_alive", gap_s=30.0, keep_alives_s=MIXED_S),
    dataclasses.replace(DAY, name="quiet, models of like size", gap_s=30.0, keep_alives_s=MIXED_S, spread=0.3),
)
EXPONENTS = (0.8, 1.0, 1.2, 1.4)


def replay(trace: Trace, policy: Policy) -> Tally:
    world = World(trace, policy)
    tally = world.replay()
    assert world.n_unfinished == 0
    assert tally.peak_bytes <= trace.budget_bytes
    return tally


def compare_long(n_requests: int, seed: int) -> dict[str, dict[str, Tally]]:
    """Each trace under each policy, a table of it printed."""
    found: dict[str, dict[str, Tally]] = {}
    print("| trace | policy | load s | wake s | switch s | all | loads | wait p50, p95 s | refused | best variant |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for traffic in LONG:
        trace = make_trace(dataclasses.replace(traffic, n_requests=n_requests), seed)
        for policy in POLICIES:
            started = time.process_time()
            tally = found.setdefault(trace.name, {})[policy.name] = replay(trace, policy)
            print(
                f"| {trace.name} | {policy.name} | {tally.load_s:,.0f} | {tally.wake_s:,.0f} | {tally.switch_s:,.0f} "
                f"| {tally.reload_s:,.0f} | {tally.n_loads:,} | {tally.wait_s(0.5):.1f}, {tally.wait_s(0.95):.1f} "
                f"| {tally.n_refused} | {tally.n_best / n_requests:.0%} |",
                flush=True,
            )
            print(f"  {time.process_time() - started:.1f} s of CPU", file=sys.stderr)
    return found


def days(day: Traffic, n_seeds: int) -> Iterator[Trace]:
    """The same sort of day, by exponent and seed."""
    for zipf in EXPONENTS:
        for seed in range(n_seeds):
            yield make_trace(dataclasses.replace(day, zipf=zipf), seed)


def compare_days(n_seeds: int) -> None:
    """Reload seconds against plain LRU's and Ollama's, the median and the worst of all days."""
    print("| day | policy | of LRU's: median, worst | of Ollama's: median, worst | both ≤ 0.7 | best variant |")
    print("|---|---|---|---|---|---|")
    for day in DAYS:
        tallies = {policy.name: [replay(trace, policy) for trace in days(day, n_seeds)] for policy in POLICIES}
        for policy in POLICIES[2:]:
            ours = tallies[policy.name]
            lru, ollama = (
                [mine.reload_s / its.reload_s for mine, its in zip(ours, tallies[other.name], strict=True)]
                for other in (LRU, OLLAMA)
            )
            n_good = sum(max(pair) <= 0.7 for pair in zip(lru, ollama, strict=True))
            best = sum(tally.n_best for tally in ours) / sum(len(tally.waits_s) for tally in ours)
            print(
                f"| {day.name} | {policy.name} | {statistics.median(lru):.2f}, {max(lru):.2f} "
                f"| {statistics.median(ollama):.2f}, {max(ollama):.2f} | {n_good} of {len(ours)} | {best:.0%} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--days", type=int, default=5, help="seeds for each exponent")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    found = compare_long(args.requests, args.seed)
    if args.plot:
        draw_plot(found, args.plot)
    compare_days(args.days)


if __name__ == "__main__":
    main()
