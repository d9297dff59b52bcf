"""What a request is told when the fleet has no worker for it."""

from __future__ import annotations

from beastd.errors import DoesNotFit, Overloaded
from beastd.fleet.spec import WorkerSpec


def overloaded(spec: WorkerSpec, max_queue: int) -> Overloaded:
    """As many requests wait as may."""
    return Overloaded(f"{spec.label} cannot take the request: {max_queue} requests wait already. Try again later.")


def does_not_fit(spec: WorkerSpec, need_bytes: int, budget_bytes: int) -> DoesNotFit:
    """The model would not fit even if it were alone."""
    settings = spec.settings
    return DoesNotFit(
        f"{spec.label} with {settings.n_parallel} × {settings.n_ctx} tokens of context needs about "
        f"{need_bytes / 1e9:.2f} GB, and Beast may use {budget_bytes / 1e9:.2f} GB: ask for a smaller num_ctx or a "
        "smaller variant, or raise the memory budget."
    )
