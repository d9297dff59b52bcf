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
from beastd.registry.modelfile import AdapterFields, Fields
from beastd.registry.names import ModelName, is_part

_PATH_STARTS = ("/", "./", "../", "~", "file:")


async def add_adapter(desk: Desk, request: AdapterRequest, job: Job, *, is_local: bool) -> dict[str, Any]:
    """Get the file, check it, and describe it in the base model. Returns the reply's fields."""
    if not is_part(request.name):
        raise BadRequest(f"'{request.name[:80]}' is not an adapter's name: letters, digits and _.-, as in model+name")
    base = desk.resolve(request.base)
    _check_is_new(request.name, base.model.fields, base.model.name)
    file = await _file(desk, request, job, is_local=is_local)
    path = desk.registry.locator.path(file, Path("/"))
    assert path, "it is a name of the store or an absolute path"
    await asyncio.to_thread(_check, desk, path, base.variant.files)
    adapter = AdapterFields(file, request.scale, request.applied)

    def with_adapter(fields: Fields) -> Fields:
        _check_is_new(request.name, fields, base.model.name)
        fields = msgspec.structs.replace(fields, adapters=fields.adapters | {request.name: adapter})
        return with_registered(fields, desk.registry.locator, [file])

    job.say("writing manifest")
    await desk.change(base.model.name, with_adapter)
    return {"model": f"{base.model.name}+{request.name}", "name": request.name}


def _check_is_new(adapter: str, fields: Fields, base: ModelName) -> None:
    if adapter.lower() in {name.lower() for name in fields.adapters}:
        raise Conflict(
            f"{base.short} has an adapter {adapter} already; "
            f"`beast adapter rm {adapter} --base {base.short}` removes it"
        )


async def _file(desk: Desk, request: AdapterRequest, job: Job, *, is_local: bool) -> str:
    """What the description calls the adapter's file."""
    if request.source.startswith(_PATH_STARTS):
        path = local_path(request.source, None, is_local=is_local)
        if not path.is_file():
            raise BadModel(f"{path} is not a file; give the adapter's GGUF")
        return (await desk.adopt([path], job))[0] if request.copy else str(path)
    wanted = parse_wanted(PullRequest(model=request.source), desk.catalog, is_local=is_local)
    fetched = await desk.fetch(wanted.source, job, request.token if is_local else None)
    found = [file for file in fetched.files if file.role == "adapter"]
    if not found:
        raise BadModel(f"{request.source} is a whole model, not a LoRA adapter; `beast pull` gets it")
    return f"sha256:{found[0].parts[0].digest}"


def _check(desk: Desk, path: Path, base: tuple[Path, ...]) -> None:
    check_adapter(desk.registry.header((path,)), desk.registry.header(base))
