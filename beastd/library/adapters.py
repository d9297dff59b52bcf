"""Adapters: give a model a LoRA under a name, checked against it; take one away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from beastd.errors import BadModel, BadRequest, Conflict
from beastd.jobs.job import Job
from beastd.library.contract import AdapterRequest, PullRequest
from beastd.library.desk import Desk, local_path, with_registered
from beastd.library.pull import parse_wanted
from beastd.registry.adapters import check_adapter
from beastd.registry.modelfile import AdapterFields
from beastd.registry.names import is_part

_PATH_STARTS = ("/", "./", "../", "~", "file:")


async def add_adapter(desk: Desk, request: AdapterRequest, job: Job, *, is_local: bool) -> dict[str, Any]:
    """Get the file, check it, and describe it in the base model. Returns the reply's fields."""
    if not is_part(request.name):
        raise BadRequest(f"'{request.name[:80]}' is not an adapter's name: letters, digits and _.-, as in model+name")
    base = desk.resolve(request.base)
    file = await _file(desk, request, job, is_local=is_local)
    path = desk.registry.locator.path(file, Path("/"))
    assert path, "it is a name of the store or an absolute path"
    await asyncio.to_thread(_check, desk, path, base.variant.files)
    model = desk.registry.get(base.model.name)  # it may have changed meanwhile
    if request.name.lower() in {name.lower() for name in model.adapters}:
        raise Conflict(
            f"{model.name.short} has an adapter {request.name} already; "
            f"`beast adapter rm {request.name} --base {model.name.short}` removes it"
        )
    fields = desk.keeper.portable(model)
    adapter = AdapterFields(file, request.scale, request.applied)
    fields = msgspec.structs.replace(fields, adapters=fields.adapters | {request.name: adapter})
    job.say("writing manifest")
    await desk.describe(model.name, with_registered(fields, desk.registry.locator, [file]))
    return {"model": f"{model.name}+{request.name}", "name": request.name}


async def _file(desk: Desk, request: AdapterRequest, job: Job, *, is_local: bool) -> str:
    """What the description calls the adapter's file."""
    if request.source.startswith(_PATH_STARTS):
        path = local_path(request.source, None, is_local=is_local)
        if not path.is_file():
            raise BadModel(f"{path} is not a file; give the adapter's GGUF")
        return await desk.adopt(path, "copy", job) if request.copy else str(path)
    wanted = parse_wanted(PullRequest(model=request.source), desk.catalog, is_local=is_local)
    fetched = await desk.fetch(wanted.source, job)
    found = [file for file in fetched.files if file.role == "adapter"]
    if not found:
        raise BadModel(f"{request.source} is a whole model, not a LoRA adapter; `beast pull` gets it")
    return f"sha256:{found[0].parts[0].digest}"


def _check(desk: Desk, path: Path, base: tuple[Path, ...]) -> None:
    check_adapter(desk.registry.header((path,)), desk.registry.header(base))
