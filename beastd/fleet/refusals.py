"""What a request is told when the fleet has no worker for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

from beastd.contract import RAM
from beastd.errors import CoolingDown, DoesNotFit, Overloaded
from beastd.fleet.cooling import Failure
from beastd.fleet.footprint import Footprint
from beastd.fleet.spec import WorkerSpec


def overloaded(spec: WorkerSpec, max_queue: int) -> Overloaded:
    """As many requests wait as may."""
    return Overloaded(f"{spec.label} cannot take the request: {max_queue} requests wait already. Try again later.")


def does_not_fit(spec: WorkerSpec, budget: Footprint, room: Footprint, pinned: Sequence[str]) -> DoesNotFit:
    """The model would not fit even if it were alone with those that never leave, who leave it ``room``."""
    settings = spec.settings
    names = f"{', '.join(pinned)}; `beast unpin` lets them go"
    beside = f", but only {room.or_more({RAM: 0})} beside what is pinned ({names})" if pinned else ""
    return DoesNotFit(
        f"{spec.label} with {settings.n_parallel} × {settings.n_ctx} tokens of context needs about {spec.need}, and "
        f"Beast may use {budget}{beside}: ask for a smaller num_ctx or a smaller variant, or raise the memory budget. "
        f"`beast fit {spec.name}` tells what would fit."
    )


def cooling_down(spec: WorkerSpec, failure: Failure, now: float) -> CoolingDown:
    """Its load failed a moment ago."""
    wait_s = math.ceil(failure.until - now)
    times = "" if failure.n == 1 else f", {failure.n} times in a row"
    return CoolingDown(
        f"{spec.label} failed to load a moment ago{times}; it is tried again in {wait_s} s. "
        f"The failure was: {failure.error.message}",
        retry_after_s=wait_s,
    )
