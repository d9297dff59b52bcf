"""The verdict in words: what fits, what does not, and what to do next. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from beastd.contract import RAM
from beastd.fetch.choose import size_text
from beastd.fit.contract import Device, Download
from beastd.fit.fit import Budget, Option, Verdict
from beastd.fit.stalls import Stall


def sentence(stall: Stall, verdict: Verdict, budget: Budget) -> str:
    """One or two sentences that answer the question."""
    asked, name = verdict.asked, stall.named(verdict.asked.variant)
    with_what = f"with {_shape(asked)} it takes"
    if verdict.answer == "fits":
        return f"{name} fits: {with_what} {_taken(asked, budget)}."
    lacking = f"{name} does not fit as asked: {with_what} {_taken(asked, budget)}."
    if verdict.answer == "smaller":
        ways = ", or ".join(_way(stall, asked, it) for it in verdict.instead)
        return f"{lacking} It fits with less: {ways}."
    least = verdict.least
    if least is asked:
        return lacking.replace(" as asked", "")
    even = f"Even {stall.named(least.variant)} with {_shape(least)} takes {_taken(least, budget)}."
    return f"{lacking.replace(' as asked', '')} {even}"


def next_steps(stall: Stall, verdict: Verdict) -> list[str]:
    """Commands and settings that help, the best first."""
    if verdict.answer == "no":
        return [*_savings(verdict), "raise memory_budget in config.yaml if other programs can do with less"]
    best = verdict.asked if verdict.answer == "fits" else verdict.instead[0]
    name = stall.named(best.variant)
    steps = [f"`beast run {name}`" if stall.download is None else f"`beast pull {name}`"]
    if best.n_ctx != verdict.asked.n_ctx:
        steps.append(f"ask for num_ctx {best.n_ctx}, or set context: {best.n_ctx} in config.yaml")
    if best.n_parallel != verdict.asked.n_parallel:
        steps.append(f"set parallel: {best.n_parallel} in config.yaml")
    return steps + (_savings(verdict) if verdict.answer == "smaller" else [])


def warnings(option: Option, machine: Sequence[Device], download: Download | None) -> list[str]:
    """What stands against an option although it is within the budget."""
    needs = {RAM: option.need.ram_bytes, **option.need.gpu_bytes}
    found = [
        f"only {size_text(it.free_bytes)} of {_place(it.device)} are free now; the rest is in use"
        for it in machine
        if it.free_bytes < needs.get(it.device, 0) <= it.budget_bytes
    ]
    if download is not None and not download.has_room:
        found.append(
            f"the disk has no room: {size_text(download.missing_bytes)} to load, {size_text(download.disk_free_bytes)} "
            "free; `beast du` and `beast prune` help"
        )
    return found


def _shape(option: Option) -> str:
    n = option.n_parallel
    return f"{option.n_ctx} tokens of context for " + (f"each of {n} requests at once" if n > 1 else "one request")


def _taken(option: Option, budget: Budget) -> str:
    """What it takes where it is over the budget, else everywhere."""
    taken, over = {RAM: option.need.ram_bytes, **option.need.gpu_bytes}, budget.over(option.need)
    parts = [
        f"{size_text(taken[it])} of the {size_text(budget.of(it))} of {_place(it)} that models may take"
        for it in over or taken
    ]
    return " and ".join(parts)


def _way(stall: Stall, asked: Option, option: Option) -> str:
    total = size_text(option.need.ram_bytes + sum(option.need.gpu_bytes.values()))
    name = "" if option.variant == asked.variant else f"as {stall.named(option.variant)}"
    less = option.n_ctx != asked.n_ctx or option.n_parallel != asked.n_parallel
    shape = f"with {_shape(option)}" if less or not name else "as asked otherwise"
    return f"{name} {shape} ({total})".strip()


def _savings(verdict: Verdict) -> list[str]:
    kv_bytes = sum(it.kv_bytes for it in verdict.asked.need.devices)
    is_worth_it = verdict.asked.kv_type == "f16" and 4 * kv_bytes > verdict.asked.need.ram_bytes
    step = "a KV cache of q8_0 takes half as much: `--kv-type q8_0` tells, kv_type: q8_0 in config.yaml sets it"
    return [step] if is_worth_it else []


def _place(device: str) -> str:
    return "memory" if device == RAM else f"{device}'s memory"
