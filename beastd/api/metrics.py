"""GET /metrics in Prometheus' text format, from one snapshot: rendered in a thread, so that no answer waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import TYPE_CHECKING

from aiohttp import web

from beastd import __version__
from beastd.api.native import SERVICE
from beastd.api.tally import BOUNDS_S, Tally, Times
from beastd.fleet.status import FleetStatus, WorkerStatus

if TYPE_CHECKING:
    from prometheus_client.core import Metric

TALLY: web.AppKey[Tally] = web.AppKey("tally", Tally)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_BOUNDS = [*map(str, BOUNDS_S), "+Inf"]
_Values = dict[str, tuple[str, Callable[[WorkerStatus], float]]]
_GAUGES: _Values = {
    "beast_worker_requests": ("Requests that use the worker.", lambda it: it.n_leases),
    "beast_worker_waiting": ("Requests that wait for its load, change or a sequence.", lambda it: it.n_waiting),
    "beast_worker_memory_bytes": ("Memory it holds, all devices together.", lambda it: it.n_bytes),
    "beast_worker_gpu_bytes": ("Of these, on GPUs.", lambda it: it.gpu_bytes),
    "beast_worker_context_tokens": ("Tokens one request may hold.", lambda it: it.n_ctx),
    "beast_worker_parallel": (
        "Most requests it answers at once, be it more or fewer than it has whole contexts for.",
        lambda it: it.n_parallel,
    ),
    "beast_worker_kv_tokens": ("Tokens whose KV is in its cache.", lambda it: it.stats.n_kv_tokens),
    "beast_worker_kv_shared_tokens": (
        "Tokens of sequences that take no cells of their own.",
        lambda it: it.stats.n_shared_tokens,
    ),
    "beast_worker_running": ("Sequences in its steps.", lambda it: it.stats.n_running),
    "beast_worker_adapters": ("LoRA adapters attached.", lambda it: it.stats.n_adapters),
    "beast_worker_tier_memory_prefixes": (
        "Prefixes whose KV left the cache and is kept in memory.",
        lambda it: it.stats.n_tier_memory,
    ),
    "beast_worker_tier_memory_bytes": ("KV that left the cache, in memory.", lambda it: it.stats.tier_memory_bytes),
    "beast_worker_tier_disk_prefixes": ("Prefixes whose KV is kept on disk.", lambda it: it.stats.n_tier_disk),
    "beast_worker_tier_disk_bytes": ("KV that left the cache, on disk.", lambda it: it.stats.tier_disk_bytes),
    "beast_worker_chunk_tokens": ("Prompt tokens that its last step had room for.", lambda it: it.stats.n_chunk),
    "beast_worker_itl_seconds": ("Between two tokens of an answer, of late.", lambda it: it.stats.itl_s),
    "beast_worker_step_predicted_seconds": ("What its last step was to take.", lambda it: it.stats.predicted_s),
    "beast_worker_step_measured_seconds": ("What its last step took.", lambda it: it.stats.measured_s),
    "beast_worker_load_seconds": ("What its load took.", lambda it: it.load_s),
}
_COUNTERS: _Values = {
    "beast_prompt_tokens": ("Prompt tokens computed.", lambda it: it.stats.n_prompt),
    "beast_prompt_cached_tokens": ("Prompt tokens found in the prefix cache.", lambda it: it.stats.n_cached),
    "beast_tier_hits": ("KV states that came back from memory or disk.", lambda it: it.stats.n_tier_hits),
    "beast_tier_tokens": ("Prompt tokens whose KV came back so.", lambda it: it.stats.n_tier_tokens),
    "beast_tier_dropped_files": ("Damaged or foreign KV files removed.", lambda it: it.stats.n_tier_dropped),
    "beast_answer_tokens": ("Tokens generated.", lambda it: it.stats.n_answer),
    "beast_draft_tokens": ("Tokens proposed and computed.", lambda it: it.stats.n_drafted),
    "beast_draft_accepted_tokens": ("Of these, those that are in answers.", lambda it: it.stats.n_accepted),
    "beast_pauses": ("Times a sequence had to give up its place.", lambda it: it.stats.n_paused),
    "beast_steps": ("Steps computed.", lambda it: it.stats.n_steps),
    "beast_step_seconds": ("Seconds spent in steps.", lambda it: it.stats.step_s),
}


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics."""
    fleet = request.app[SERVICE].fleet()
    body = await asyncio.to_thread(render, fleet, request.app[TALLY])
    return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE})


def render(fleet: FleetStatus, tally: Tally) -> bytes:
    """The metrics as text. Imports prometheus_client, which takes a tenth of a second the first time."""
    from prometheus_client import CollectorRegistry, generate_latest

    class Snapshot:
        def collect(self) -> Iterator[Metric]:
            yield from (*_of_fleet(fleet), *_of_workers(fleet.workers), *_of_requests(tally))

    registry = CollectorRegistry()
    registry.register(Snapshot())
    return generate_latest(registry)


def _of_fleet(fleet: FleetStatus) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("beast", "The daemon.", {"version": __version__})
    for name, text, by_device in (
        ("beast_memory_budget_bytes", "Memory that models may hold.", fleet.budget_bytes),
        ("beast_memory_used_bytes", "Memory that models hold.", fleet.used_bytes),
    ):
        family = GaugeMetricFamily(name, text, labels=["device"])
        for device, n_bytes in by_device.items():
            family.add_metric([device], n_bytes)
        yield family
    n_in_line = sum(claim.n_requests for claim in fleet.line)
    yield GaugeMetricFamily("beast_line_requests", "Requests that wait for memory.", n_in_line)
    yield GaugeMetricFamily("beast_resting_models", "Models that rest after a failed load.", len(fleet.resting))
    decisions = CounterMetricFamily("beast_fleet_decisions", "What the fleet did.", labels=["act"])
    for act, n in fleet.n_decisions.items():
        decisions.add_metric([act], n)
    yield decisions


def _of_workers(workers: list[WorkerStatus]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    labels = ["model", "variant", "worker"]
    states = GaugeMetricFamily("beast_worker_state", "1 for the state it is in.", labels=[*labels, "state"])
    for worker in workers:
        states.add_metric([worker.name, worker.variant, str(worker.id), worker.state], 1)
    yield states
    for name, (text, value) in _GAUGES.items():
        gauge = GaugeMetricFamily(name, text, labels=labels)
        for worker in workers:
            gauge.add_metric([worker.name, worker.variant, str(worker.id)], value(worker))
        yield gauge
    for name, (text, value) in _COUNTERS.items():
        counter = CounterMetricFamily(name, f"{text} By a worker, since its load.", labels=["model", "worker"])
        for worker in workers:
            counter.add_metric([worker.name, str(worker.id)], value(worker))
        yield counter


def _of_requests(tally: Tally) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("beast_requests", "Finished POST requests.", labels=["verb", "status"])
    for (verb, status), n in list(tally.n_requests.items()):
        requests.add_metric([verb, str(status)], n)
    yield requests
    for name, text, by_model in (
        ("beast_ttft_seconds", "Time to the first piece of an answer.", tally.ttft),
        ("beast_answer_seconds", "Time to the end of an answer.", tally.total),
    ):
        family = HistogramMetricFamily(name, text, labels=["model"])
        for model, times in list(by_model.items()):
            family.add_metric([model], _buckets(times), times.sum_s)
        yield family


def _buckets(times: Times) -> list[tuple[str, float]]:
    return list(zip(_BOUNDS, map(float, accumulate(times.counts)), strict=True))
