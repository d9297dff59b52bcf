"""Import: models that are on this machine already get a description, their files stay where they are."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from beastd.errors import BadModel, BadRequest, BeastError, Conflict
from beastd.jobs.job import Job
from beastd.library.bundle import looks_like_bundle, read_bundle, unpack
from beastd.library.contract import ImportRequest
from beastd.library.desk import Desk, local_path, with_registered
from beastd.library.importing.find import find_models
from beastd.library.importing.found import Found, Skipped
from beastd.registry.modelfile import Fields, file_names, with_files
from beastd.registry.models import Model
from beastd.registry.names import parse_whole_name


async def import_(desk: Desk, request: ImportRequest, job: Job) -> dict[str, Any]:
    """Find models and describe them. One that cannot be taken is told as skipped and hinders no other."""
    found, skipped = await _find(desk, request, job)
    if request.save_as is not None:
        if len(found) != 1:
            raise BadRequest(f"{len(found)} models were found: a name of your own can be given to one alone")
        found = [replace(found[0], name=parse_whole_name(request.save_as))]
    imported = []
    for it in found:
        job.say(f"importing {it.name.short}")
        try:
            if not request.dry_run:
                await _take(desk, it, request, job)
        except BeastError as e:
            skipped.append(Skipped(it.source, e.message))
            continue
        imported.append(_told(it))
    if not imported and not skipped:
        raise BadModel(f"no model was found in {', '.join(request.paths)[:500]}")
    return {"imported": imported, "skipped": [{"source": str(it.source), "reason": it.reason} for it in skipped]}


async def _find(desk: Desk, request: ImportRequest, job: Job) -> tuple[list[Found], list[Skipped]]:
    found: list[Found] = []
    skipped: list[Skipped] = []
    for text in request.paths:
        path = local_path(text, None, is_local=True)
        if not path.exists():
            raise BadModel(f"{path} does not exist; correct the path")
        job.say(f"looking at {path}")
        if looks_like_bundle(path):
            found.append(await _unpacked(desk, path, request, job))
            continue
        for it in await asyncio.to_thread(_found_in, path, request.gguf_template):
            if isinstance(it, Found):
                found.append(it)
            else:
                skipped.append(it)
    return found, skipped


def _found_in(path: Path, gguf_template: bool) -> list[Found | Skipped]:
    return list(find_models(path, gguf_template=gguf_template))


async def _unpacked(desk: Desk, path: Path, request: ImportRequest, job: Job) -> Found:
    info = read_bundle(path)
    if request.dry_run:
        return Found(info.name, info.fields, path, [])
    fields = await desk.in_thread(job, unpack, path, desk.store)
    return Found(info.name, fields, path, [])


async def _take(desk: Desk, it: Found, request: ImportRequest, job: Job) -> None:
    """Describe one model. Raises Conflict where another one has its name."""

    def checked(known: Model | None) -> Fields | None:
        """The fields of a model that is made of the same files already."""
        if known is None or request.replace:
            return None
        if not _is_same(desk, known, it.fields):
            raise Conflict(
                f"there is a model '{known.name.short}' already; --replace takes this one instead, --as gives a name"
            )
        return msgspec.structs.replace(desk.keeper.portable(known), registered={})

    fields = checked(desk.registry.find(it.name)) or it.fields
    if request.mode != "in_place":
        fields = await _adopted(desk, fields, request.mode == "link", job)

    def described(known: Model | None) -> Fields:
        same = checked(known)
        return with_registered(same if same and request.mode == "in_place" else fields, desk.registry.locator)

    await desk.describe(it.name, described)


def _is_same(desk: Desk, known: Model, fields: Fields) -> bool:
    """Whether a model is made of these files already: then only what was remembered of them is renewed."""
    located = [
        {desk.registry.locator.path(name, Path("/")) for name in file_names(it)}
        for it in (desk.keeper.portable(known), fields)
    ]
    return located[0] == located[1]


async def _adopted(desk: Desk, fields: Fields, is_linked: bool, job: Job) -> Fields:
    """The fields with every file outside the store taken into it."""
    outside = [name for name in dict.fromkeys(file_names(fields)) if name.startswith("/")]
    inside = await desk.adopt([Path(name) for name in outside], job, is_linked=is_linked) if outside else []
    taken = dict(zip(outside, inside, strict=True))

    renamed = with_files(fields, lambda name: taken.get(name, name))
    return msgspec.structs.replace(renamed, sha256={}, registered={})


def _told(it: Found) -> dict[str, Any]:
    return {
        "name": it.name.short,
        "source": str(it.source),
        "variants": list(it.fields.variants),
        "adapters": list(it.fields.adapters),
        "notes": it.notes,
    }
