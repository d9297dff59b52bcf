"""Models that leave: one into a file for another machine, or the whole folder to another place."""

from __future__ import annotations

import asyncio
import os
from threading import Event
from typing import Any

from beastd.errors import BadRequest, Conflict
from beastd.jobs.job import Job
from beastd.library.bundling import write_bundle
from beastd.library.contract import ExportRequest, MoveRequest
from beastd.library.desk import Desk, local_path
from beastd.library.moving import move_store
from beastd.library.remember import remember_folder

STOP_DELAY_S = 0.5
"""Time for the reply to reach its client."""


async def export(desk: Desk, request: ExportRequest, job: Job) -> dict[str, Any]:
    """Write a model, or one variant of it, with all its files into one. Returns the reply's fields."""
    resolved = desk.resolve(request.model)
    if resolved.name.adapters:
        raise BadRequest(f"'{request.model[:80]}' names an adapter; all of a model's are exported: leave it out")
    target = local_path(request.file, None, is_local=True)
    variant = resolved.variant.name if resolved.name.variant else None
    size = await desk.in_thread(job, write_bundle, resolved.model, variant, target)
    return {"file": str(target), "size": size}


async def move(desk: Desk, request: MoveRequest, job: Job) -> dict[str, Any]:
    """Move the models folder, and remember where. Returns the reply's fields."""
    target = local_path(request.folder, None, is_local=True)
    if os.environ.get("BEAST_MODELS"):
        raise Conflict("BEAST_MODELS says where the models folder is; change it there, after moving the folder by hand")
    if len(desk.jobs.running) > 1 or not await desk.unload_all():
        raise Conflict("models are in use or being worked on (`beast ps`, `beast jobs`); let that end first")
    committed = Event()

    def commit() -> None:
        remember_folder(desk.config_file, target, desk.store.root)
        committed.set()

    try:
        size = await desk.in_thread(job, move_store, desk.store.root, target, commit)
    finally:
        if committed.is_set():
            # Every room knows the folder from its start: the next daemon will find it at its new place.
            asyncio.get_running_loop().call_later(STOP_DELAY_S, desk.stop)
    return {"folder": str(target), "size": size, "restarts": True}
