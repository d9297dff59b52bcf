"""The five policies compared: who waits how long, by kind of request, and how even clients fare.

    python tests/bench/policies_sim.py [--hours 2] [--seed 1] [--load 1.0]

The machine is a model of a 0.6B on 2 cores with 8 slots (tests/stepsim.py). Six people chat (Poisson); one client of
the same priority sends jobs in bursts; a batch of low priority does, too; now and then comes a high request.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import fmean, quantiles

sys.path.insert(0, str(Path(__file__).parents[1]))

from stepsim import Job, Machine, World

from beastd.contract import Priority
from beastd.engine.policies import ORDERS


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of request. Times between bursts are exponential; lengths lie around their means (log-normal)."""

    kind: str
    n_clients: int
    every_s: float
    """Mean, for each client."""
    n_burst: int
    n_prompt: int
    n_answer: int
    priority: Priority = "normal"

    def jobs(self, random: Random, until_s: float, load: float) -> Iterator[Job]:
        """All that come until then."""
        for client in range(self.n_clients):
            at_s = random.expovariate(load / self.every_s)
            while at_s < until_s:
                yield from (self._job(random, f"{self.kind} {client}", at_s) for _ in range(self.n_burst))
                at_s += random.expovariate(load / self.every_s)

    def _job(self, random: Random, client: str, at_s: float) -> Job:
        n_prompt, n_answer = (_around(random, mean) for mean in (self.n_prompt, self.n_answer))
        return Job(client, at_s, n_prompt, n_answer, self.priority, kind=self.kind)


def _around(random: Random, mean: int) -> int:
    return max(1, min(2000, round(mean * random.lognormvariate(-0.18, 0.6))))


DAY = (
    Traffic("chat", 6, every_s=45.0, n_burst=1, n_prompt=60, n_answer=60),
    Traffic("heavy", 1, every_s=300.0, n_burst=16, n_prompt=400, n_answer=150),
    Traffic("batch", 1, every_s=360.0, n_burst=24, n_prompt=400, n_answer=150, priority="low"),
    Traffic("urgent", 1, every_s=120.0, n_burst=1, n_prompt=200, n_answer=60, priority="high"),
)


def jain(values: Iterable[float]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything."""
    own = list(values)
    return sum(own) ** 2 / (len(own) * sum(value**2 for value in own))


def speed(job: Job, machine: Machine) -> float:
    """How fast it was answered, as a part of what it would have been alone."""
    n_steps = math.ceil(job.n_prompt / machine.budget)
    alone_s = n_steps * machine.base_s + job.n_prompt / machine.rate + job.n_answer * machine.step_s(0, 1)
    return alone_s / (job.end_s - job.arrives_s)


def mixed_day(policy: str, seed: int, hours: float, load: float) -> str:
    """A row: TTFT by kind as p50/p99/most, and Jain's index of the speeds of clients of normal priority."""
    random = Random(seed)
    jobs = [job for traffic in DAY for job in traffic.jobs(random, hours * 3600, load)]
    machine = Machine()
    World(jobs, policy, machine).run()
    cells = [policy]
    for traffic in DAY:
        waits = [job.first_s - job.arrives_s for job in jobs if job.kind == traffic.kind]
        cuts = quantiles(waits, n=100)
        cells.append(f"{cuts[49]:.1f} / {cuts[98]:.0f} / {max(waits):.0f}")
    speeds = defaultdict(list)
    for job in jobs:
        if job.priority == "normal":
            speeds[job.client].append(speed(job, machine))
    return " | ".join([*cells, f"{jain(fmean(values) for values in speeds.values()):.2f}"])


def two_floods(policy: str) -> str:
    """A row: two clients send all they have, one ten times as many and at once before; shares while both wait."""
    jobs = [Job("many", 0.0, 300, 100) for _ in range(200)] + [Job("few", 1.0, 300, 100) for _ in range(20)]
    world = World(jobs, policy).run(2.0)
    while len(world.backlogged()) == 2:
        world.step()
    many, few = (world.service_s[name] for name in ("many", "few"))
    world.run()
    end_s = max(job.end_s for job in jobs if job.client == "few")
    return f"{policy} | {few / (many + few):.0%} | {jain((many, few)):.2f} | {end_s:.0f}"


def steps_of_high(policy: str) -> str:
    """A row: 16 slots are full of low jobs, more wait; steps until a high request's first token, less its prefill."""
    machine = Machine(n_slots=16)
    jobs = [Job("batch", 0.0, 400, 300, "low") for _ in range(64)]
    high = [Job("me", 61.7 + 40 * n, 120, 20, "high") for n in range(4)]
    World([*jobs, *high], policy, machine).run()
    own = math.ceil(120 / (machine.budget - machine.n_slots))
    return f"{policy} | {max(job.steps_to_first - own for job in high)} | {max(job.n_pauses for job in jobs)}"


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--hours", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--load", type=float, default=1.0, help="how often things come; 1 is about nine tenths of the machine"
    )
    given = parser.parse_args()
    print("TTFT in s, p50 / p99 / most\npolicy | " + " | ".join(it.kind for it in DAY) + " | Jain")
    for policy in ORDERS:
        print(mixed_day(policy, given.seed, given.hours, given.load))
    print("\npolicy | share of the smaller flood | Jain | its end, s")
    for policy in ORDERS:
        print(two_floods(policy))
    print("\npolicy | steps beside its own prefill until a high request's first token | most pauses of a low one")
    for policy in ORDERS:
        print(steps_of_high(policy))


if __name__ == "__main__":
    main()
