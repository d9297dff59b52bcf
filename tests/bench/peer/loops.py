"""Throughput: a closed loop of many clients against what the library itself can do, and against a serial server."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from random import Random

from beastctl.bench.stats import percentile
from tests.bench.peer.asking import Answer, Ask, words
from tests.bench.peer.figures import Row, note_work, of_answers
from tests.bench.peer.plan import ClientLoad, Plan, at_once, in_turn, seeded, together, warm_up
from tests.bench.peer.servers import NotMeasured, Server, ask, python_server

N_CLIENTS, N_PROMPT, N_ANSWER = 64, 30, 16
N_CTX = 128
RAMP_S = 3.0
"""From the start of a closed loop to when it counts."""


async def closed(plan: Plan) -> Row:
    """64 clients that ask Cub again as soon as they are answered, against llama-batched-bench before and after."""
    row = Row("closed")
    async with plan.pair(plan.cub, N_CLIENTS, N_CTX) as pair:
        for round_ in range(plan.n_rounds):
            before = _limit_per_s(plan, row)
            load = ClientLoad()
            answers = {server.name: await _loop(plan, server, round_) for server in in_turn(pair, round_)}
            load.note(row)
            limit = (before + _limit_per_s(plan, row)) / 2
            ours, theirs = (_figures(plan, answers[server.name]) for server in pair)
            row.add("requests/s", ours["rate"], limit, "/s", against="batched-bench", at_least=0.85)
            row.add("requests/s ", ours["rate"], theirs["rate"], "/s")
            for what in ("TTFT p50", "TTFT p99"):
                row.add(what, ours[what], theirs[what])
    return row


async def _loop(plan: Plan, server: Server, round_: int) -> list[Answer]:
    """What all clients were answered, the ramp and the last answers included."""
    end_s = time.perf_counter() + RAMP_S + plan.seconds

    async def client(random: Random) -> list[Answer]:
        answers = []
        while time.perf_counter() < end_s:
            answers.append(await ask(server, Ask(words(random, N_PROMPT), N_ANSWER)))
        return answers

    clients = (client(seeded("closed", round_, i)) for i in range(N_CLIENTS))
    return [answer for answers in await at_once(clients) for answer in answers]


def _figures(plan: Plan, answers: list[Answer]) -> dict[str, float]:
    """Of the requests that ended after the ramp, until the first client had no more to ask."""
    start_s = min(it.sent_s for it in answers) + RAMP_S
    counted = [it for it in answers if start_s <= it.ended_s < start_s + plan.seconds]
    if not counted:
        raise NotMeasured("no request ended in the time that counts; give it more --seconds")
    ttfts = [it.ttft_s for it in counted]
    rate = len(counted) / plan.seconds
    return {"rate": rate, "TTFT p50": percentile(ttfts, 0.5), "TTFT p99": percentile(ttfts, 0.99)}


def _limit_per_s(plan: Plan, row: Row) -> float:
    """Requests a second, if prompts and answers went one after the other at the library's own rates."""
    command = [_batched_bench(plan.peer_binary()), "-m", plan.cub, "-t", plan.n_threads, "-c", N_CLIENTS * N_CTX]
    shape = ["-npp", N_PROMPT, "-ntg", N_ANSWER, "-npl", N_CLIENTS, "--output-format", "jsonl"]
    run = subprocess.run([*map(str, command), *map(str, shape)], capture_output=True, text=True, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    if not lines:
        raise NotMeasured(f"llama-batched-bench: {run.stderr[-300:]}")
    prefill, generation = lines[-1]["speed_pp"], lines[-1]["speed_tg"]
    row.note(f"llama-batched-bench: prefill {prefill:.0f} tok/s, generation {generation:.0f} tok/s")
    return float(1 / (N_PROMPT / prefill + N_ANSWER / generation))


def _batched_bench(llama_server: Path) -> Path:
    return llama_server.with_name("llama-batched-bench")


async def pyserver(plan: Plan) -> Row:
    """8 streams against llama-cpp-python's own server, prompts of 128 tokens and answers of 64."""
    row = Row("pyserver")
    if plan.python is None:
        raise NotMeasured("it needs --pyserver-python")
    with plan.beast(plan.shape(), {"parallel": "8", "context": "4096"}) as ours:
        theirs = python_server(plan.python, plan.shape(), plan.n_threads)
        try:
            await _against_python(plan, row, (ours, theirs))
        finally:
            theirs.stop()
    return row


async def _against_python(plan: Plan, row: Row, servers: tuple[Server, Server]) -> None:
    for server in servers:
        await warm_up(server)
    for round_ in range(plan.n_rounds):
        random = seeded("pyserver", round_)
        asks = [Ask(words(random, plan.n(128)), plan.n(64)) for _ in range(8)]
        answers = [await together(server, asks) for server in servers]
        note_work(row, answers[0], answers[1], "llama_cpp.server")
        ours, theirs = map(of_answers, answers)
        row.add("tok/s", ours["tok/s"], theirs["tok/s"], "tok/s", against="llama_cpp.server", at_least=3)
        row.add("TTFT p50", ours["TTFT p50"], theirs["TTFT p50"], against="llama_cpp.server")
