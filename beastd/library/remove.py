"""Remove a model, or one variant or adapter of it; and replace its modelfile by an edited one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from beastd.errors import BadModel, BadRequest, Conflict
from beastd.library.contract import DeleteRequest, EditRequest
from beastd.library.create import check_files
from beastd.library.desk import Desk
from beastd.registry.description import describe
from beastd.registry.modelfile import Fields
from beastd.registry.names import ModelName, parse_name, parse_whole_name
from beastd.registry.registry import spelled_part
from beastd.yamlfile import YamlError, read_text


async def delete(desk: Desk, request: DeleteRequest) -> dict[str, Any]:
    """Unload and remove what the name says. Returns the reply's fields."""
    text = request.model or request.name or ""
    if not text:
        raise BadRequest("a model's name is needed; `beast list` shows those there are")
    asked = desk.registry.with_hub_tag(parse_name(text))
    place = desk.registry.place(asked)
    desk.keeper.check_own(place)
    if asked.variant is None and not asked.adapters:
        await desk.unload(place.name, None)
        return {"removed": place.name.short, "bytes": await asyncio.to_thread(desk.keeper.remove, place.name)}
    before, model = desk.store.blobs(), desk.registry.get(place.name)
    changed = await desk.change(place.name, lambda fields: _without(fields, asked))
    freed = before.keys() - desk.store.blobs().keys()
    for path in {it.path for it in model.adapters.values()} - {it.path for it in changed.adapters.values()}:
        desk.detach(str(path))
    if asked.variant:
        await desk.unload(place.name, asked.variant)
    return {"removed": asked.short + str(asked).removeprefix(asked.base), "bytes": sum(before[it] for it in freed)}


def _without(fields: Fields, asked: ModelName) -> Fields:
    """The fields without the variant and adapters that the name names."""
    adapters = dict(fields.adapters)
    for adapter in asked.adapters:
        del adapters[spelled_part(asked, "adapter", adapter.name, adapters)]
    variants, default = dict(fields.variants), fields.default
    if asked.variant:
        variant = spelled_part(asked, "variant", asked.variant, variants)
        del variants[variant]
        default = None if default == variant else default
        if not variants:
            raise Conflict(
                f"@{variant} is the only variant of {asked.short}; `beast rm {asked.short}` removes the model"
            )
    return msgspec.structs.replace(fields, variants=variants, default=default, adapters=adapters)


def modelfile(desk: Desk, name: str) -> dict[str, Any]:
    """A model's description as it is. Returns the reply's fields."""
    place = desk.registry.place(parse_name(name))
    try:
        text = read_text(place.path)
    except (OSError, YamlError) as e:
        raise BadModel(f"cannot read {place.path}: {e}") from e
    return {"modelfile": text, "path": str(place.path), "builtin": place.is_builtin}


async def edit(desk: Desk, request: EditRequest) -> dict[str, Any]:
    """Replace a model's modelfile, after a look at the files it names. Returns the reply's fields."""
    place = desk.registry.place(parse_whole_name(request.model))
    desk.keeper.check_own(place)
    it = describe(request.modelfile, Path(place.path), desk.registry.locator)
    await asyncio.to_thread(check_files, desk.registry, it)
    await asyncio.to_thread(desk.keeper.write_text, place, request.modelfile, request.was)
    return {"model": str(place.name)}
