"""Who asks for what, and when."""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from fleetsim.shop import GB, N_CTX, RUNGS, SimModel, make_models

LARGE_CONTEXT_SHARE = 0.03
INSISTING_SHARE = 0.02
"""Of the requests: those that ask for one variant by name."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a trace."""

    at_s: float
    model: SimModel
    service_s: float
    """Seconds its answer takes once it has a sequence."""
    n_ctx: int = N_CTX
    variant: str | None = None
    """It insists on this one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """A day of a machine."""

    name: str
    budget_bytes: int
    requests: list[Request]


@dataclass(frozen=True, slots=True)
class Traffic:
    """How requests come."""

    name: str
    n_models: int = 50
    n_requests: int = 10_000
    budget_gb: float = 96.0
    """0: what ``fits`` average models take."""
    fits: float = 0.0
    gap_s: float = 8.0
    """Mean time between requests."""
    zipf: float = 1.0
    service_s: float = 10.0
    drift_s: float = math.inf
    """So often, two models trade places in popularity."""
    session: float = 1.0
    """Requests that come after each other for one model, on average."""
    think_s: float = 30.0
    """Between the requests of a session."""
    median_gb: float = 6.0
    spread: float = 0.9
    keep_alives_s: tuple[float, ...] = (300.0, 1800.0, math.inf)
    has_odd_ones: bool = True
    """Some ask for more context, some insist on a variant."""


def make_trace(traffic: Traffic, seed: int) -> Trace:
    """The same for the same seed."""
    draw = random.Random(seed)
    models = make_models(
        traffic.n_models, draw, median_gb=traffic.median_gb, spread=traffic.spread, keep_alives_s=traffic.keep_alives_s
    )
    mean_gb = sum(it.weights_bytes + it.working_bytes for it in models) / len(models) / GB
    largest = max(it.weights_bytes + 2 * it.working_bytes for it in models)
    budget = max(round((traffic.budget_gb or traffic.fits * mean_gb) * GB), largest + GB)
    arrivals = sorted(itertools.islice(_arrivals(traffic, models, draw), traffic.n_requests), key=lambda it: it[0])
    return Trace(traffic.name, budget, [_request(traffic, at_s, model, draw) for at_s, model in arrivals])


def _arrivals(traffic: Traffic, models: list[SimModel], draw: random.Random) -> Iterator[tuple[float, SimModel]]:
    """Sessions come as a Poisson process, each with one model; one request makes a plain Poisson process."""
    order = list(models)
    weights = list(itertools.accumulate(1 / rank**traffic.zipf for rank in range(1, len(models) + 1)))
    now_s, drifted_s = 0.0, 0.0
    while True:
        now_s += draw.expovariate(1 / (traffic.gap_s * traffic.session))
        while drifted_s + traffic.drift_s < now_s:
            drifted_s += traffic.drift_s
            i, k = draw.randrange(len(order)), draw.randrange(len(order))
            order[i], order[k] = order[k], order[i]
        model = order[bisect.bisect(weights, draw.random() * weights[-1])]
        at_s = now_s
        yield at_s, model
        while draw.random() > 1 / traffic.session:
            at_s += draw.expovariate(1 / traffic.think_s)
            yield at_s, model


def _request(traffic: Traffic, at_s: float, model: SimModel, draw: random.Random) -> Request:
    service_s = draw.expovariate(1 / traffic.service_s)
    kind = draw.random() if traffic.has_odd_ones else 1.0
    if kind < LARGE_CONTEXT_SHARE:
        return Request(at_s, model, service_s, n_ctx=2 * N_CTX)
    if kind < LARGE_CONTEXT_SHARE + INSISTING_SHARE:
        return Request(at_s, model, service_s, variant=draw.choice(list(RUNGS)))
    return Request(at_s, model, service_s)
