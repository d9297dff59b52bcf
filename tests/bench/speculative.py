"""Drafts against none, interleaved, on one model and at equal output: tokens a second of one stream and of eight.

    python tests/bench/speculative.py                                        # Cub q8_0 with its draft
    python tests/bench/speculative.py model.gguf [draft.gguf]                # any other
    BENCH_CPU=1 BENCH_THREADS=1 python tests/bench/speculative.py            # by CPU time, on a machine not idle
    BENCH_ROUNDS=5 BENCH_THREADS=1 python tests/bench/speculative.py --costs # steps of 1 to 32 tokens as well

A ratio is the median over rounds of (with / without), each pair one after the other. The first round warms up what is
learnt on line, and is left out. ``same``: answers that are those without drafts, word for word.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import beastd
from beastd import ipc
from beastd.contract import Final, Message
from beastd.engine import draftmodel as draft_module
from beastd.engine import engine as engine_module
from beastd.engine.assembly import new_cache, new_scheduler
from beastd.engine.draftmodel import DraftModel
from beastd.engine.engine import Engine
from beastd.engine.intake import Intake
from beastd.engine.llama import Llama
from beastd.engine.outbox import Outbox
from beastd.engine.pace import Pace
from beastd.engine.speculative import Speculation

CUB = f"{beastd.__path__[0]}/builtin/cub"
N_PARALLEL = 8
N_ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
N_TOKENS = int(os.environ.get("BENCH_TOKENS", "160"))
N_THREADS = int(os.environ.get("BENCH_THREADS", "0"))
WORK = os.environ.get("BENCH_WORK", "")
"""Only works with this in their names."""
LAYOUT = os.environ.get("BENCH_LAYOUT", "partitioned")
POEM = (
    "Row, row, row your boat,\nGently down the stream.\nMerrily, merrily, merrily, merrily,\nLife is but a dream.\n\n"
)
RECORD = {
    "type": "object",
    "properties": {
        key: {"enum": words}
        for key, words in {
            "name_of_the_animal": ["fox", "bear"],
            "place_where_it_lives": ["in the deep dark forest", "by the great old river"],
            "what_it_likes_to_eat": ["red berries and sweet honey", "small fish and green apples"],
        }.items()
    },
    "required": ["name_of_the_animal", "place_where_it_lives", "what_it_likes_to_eat"],
}
TABLE = {"type": "array", "items": RECORD, "minItems": 8, "maxItems": 12}
STORIES = [
    f"Tell me a short story about a {animal}." for animal in ("fox", "bear", "cat", "dog", "bird", "frog", "owl", "hen")
]


def chat(text: str, **fields: Any) -> dict[str, Any]:
    """A request to answer."""
    return {"prompt": ipc.Prompt(messages=[Message(role="user", content=text)]), **fields}


def raw(text: str, **fields: Any) -> dict[str, Any]:
    """A request to go on."""
    return {"prompt": ipc.Prompt(raw=text), **fields}


WORKS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "repeat, greedy": ([raw(POEM * 5)], {"temperature": 0, "ignore_eos": True}),
    "table of JSON, greedy": ([chat("Tell me about animals.", format=TABLE)], {"temperature": 0}),
    "story, greedy": ([chat(STORIES[0])], {"temperature": 0}),
    "story, t = 0.8": ([chat(STORIES[0])], {"temperature": 0.8, "seed": 1}),
    "8 stories, t = 0.8": ([chat(text) for text in STORIES], {"temperature": 0.8, "seed": 1}),
    "8 tables of JSON, greedy": ([chat(text, format=TABLE) for text in STORIES], {"temperature": 0}),
    "1 table among 7 stories": ([chat(STORIES[0], format=TABLE), *map(chat, STORIES[1:])], {"temperature": 0}),
}


class CpuTime:
    """A clock that stands still while other processes compute."""

    monotonic_ns = staticmethod(time.process_time_ns)
    perf_counter = staticmethod(time.process_time)


class Forge:
    """An engine that answers a set of requests at once."""

    def __init__(self, llama: Llama, mode: str, drafter: DraftModel | None = None) -> None:
        pace = Pace(0.3, llama.n_batch, 1000)
        self.scheduler = new_scheduler(llama, pace)
        speculation = None if mode == "off" else Speculation(pace.costs, drafter)
        self.inbox: SimpleQueue[ipc.ToWorker] = SimpleQueue()
        self.mode = mode
        self._llama = llama
        self.text: dict[int, str] = {}
        self.finals: dict[int, Final] = {}
        outbox = Outbox(self._hear)
        self.engine = Engine(
            llama,
            Intake(llama, None, has_drafter=drafter is not None),
            self.scheduler,
            self.inbox,
            outbox,
            speculation=speculation,
        )

    def _hear(self, step: ipc.FromWorker) -> None:
        assert isinstance(step, ipc.Step)
        for delta in step.deltas:
            assert not delta.error, delta.error
            self.text[delta.id] = self.text.get(delta.id, "") + delta.text
            if delta.final:
                self.finals[delta.id] = delta.final

    def answer(self, requests: list[dict[str, Any]], settings: dict[str, Any]) -> tuple[float, list[str], list[Final]]:
        """Tokens a second of all together, and what came."""
        self.text, self.finals = {}, {}
        self._llama.forget_all()  # which all of them share
        self.scheduler.renew(new_cache(self._llama, self.scheduler.cache.cells), self._llama.n_sequences)
        sampling = ipc.Sampling(**{"num_predict": N_TOKENS, "speculative": self.mode, **settings})
        for i, request in enumerate(requests, 1):
            self.inbox.put(ipc.Submit(id=i, sampling=sampling, **request))
        while not self.inbox.empty() or not self.scheduler.is_idle:
            self.engine.step()
        self.inbox.put(ipc.Cancel(0))
        self.engine.step()
        finals = [self.finals[i] for i in sorted(self.finals)]
        start_ns, ns = min(it.prompt_ns for it in finals), max(it.answer_ns for it in finals)
        assert start_ns >= 0
        return sum(it.n_answer for it in finals) / (ns / 1e9), [self.text[i] for i in sorted(self.text)], finals


@dataclass(slots=True)
class Row:
    """What one way of drafting did."""

    ratios: list[float] = field(default_factory=list)
    n_same: int = 0
    n_answers: int = 0
    n_drafted: int = 0
    n_accepted: int = 0
    n_tokens: int = 0


def compare(plain: Forge, others: dict[str, Forge], work: str) -> tuple[float, dict[str, Row]]:
    """Every way against none, round for round; also tokens a second without."""
    requests, settings = WORKS[work]
    rows = {name: Row() for name in others}
    rates = []
    for i in range(N_ROUNDS + 1):
        for name, forge in others.items():
            rate, texts, _ = plain.answer(requests, settings)
            with_rate, with_texts, finals = forge.answer(requests, settings)
            if not i:
                continue
            rates.append(rate)
            row = rows[name]
            row.ratios.append(with_rate / rate)
            row.n_same += sum(a == b for a, b in zip(texts, with_texts, strict=True))
            row.n_answers += len(texts)
            row.n_drafted += sum(it.n_drafted for it in finals)
            row.n_accepted += sum(it.n_accepted for it in finals)
            row.n_tokens += sum(it.n_answer for it in finals)
    return statistics.median(rates), rows


def costs(llama: Llama) -> None:
    """Print what steps of one sequence take by their tokens, all with logits, as a median of interleaved rounds."""
    sizes = [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32]
    times: dict[int, list[float]] = {n: [] for n in sizes}
    tokens = list(range(10, 210))
    llama.decode_all([tokens], 0, 200)
    for _ in range(6 * N_ROUNDS):
        for n in sizes:
            start_s = draft_module.time.perf_counter()
            llama.decode_all([tokens[:n]], 200, 200)
            times[n].append(draft_module.time.perf_counter() - start_s)
            llama.forget(0, 200)
    medians = {n: statistics.median(taken) for n, taken in times.items()}
    print("| tokens of a step | ms | of one's |\n|---|---|---|")
    for n, seconds in medians.items():
        print(f"| {n} | {seconds * 1e3:.2f} | {seconds / medians[1]:.2f} |")
    llama.forget_all()


def main(paths: list[str], *, with_costs: bool) -> None:
    """Load, compare, print."""
    if os.environ.get("BENCH_CPU"):
        engine_module.time = draft_module.time = CpuTime  # type: ignore[assignment]
    model, draft = ([*paths, None] if paths else [f"{CUB}/cub-q8_0.gguf", f"{CUB}/cub-draft-f16.gguf"])[:2]
    settings = ipc.LoadSettings(n_ctx=2048, n_parallel=N_PARALLEL, n_threads=N_THREADS, kv_layout=LAYOUT)
    load = ipc.Load(paths=[str(model)], label="model", draft=draft, settings=settings)
    llama = Llama(load, lambda _: None)
    if with_costs:
        costs(llama)
    drafter = DraftModel(load, llama) if draft else None
    others = {"ngram": Forge(llama, "ngram")}
    if drafter:
        others["draft"] = Forge(llama, "draft", drafter)
        others["auto"] = Forge(llama, "auto", drafter)
    plain = Forge(llama, "off")
    print("| work | tok/s without | drafts from | with / without | accepted of drafted of all | same |")
    print("|---|---|---|---|---|---|")
    for work in (work for work in WORKS if WORK in work):
        rate, rows = compare(plain, others, work)
        for name, row in rows.items():
            counts = f"{row.n_accepted} of {row.n_drafted} of {row.n_tokens}"
            ratio, same = statistics.median(row.ratios), f"{row.n_same} of {row.n_answers}"
            print(f"| {work} | {rate:.0f} | {name} | {ratio:.2f}x | {counts} | {same} |", flush=True)


if __name__ == "__main__":
    given = [word for word in sys.argv[1:] if word != "--costs"]
    main(given, with_costs="--costs" in sys.argv)
