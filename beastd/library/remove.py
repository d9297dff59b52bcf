"""Remove a model, or one variant or adapter of it; and replace its modelfile by an edited one."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec

from beastd.errors import BadRequest, Conflict, ModelNotFound
from beastd.library.contract import DeleteRequest, EditRequest
from beastd.library.create import check_files
from beastd.library.desk import Desk, file_names
from beastd.registry.description import describe
from beastd.registry.modelfile import Fields
from beastd.registry.names import ModelName, parse_name


async def delete(desk: Desk, request: DeleteRequest) -> dict[str, Any]:
    """Unload and remove what the name says. Returns the reply's fields."""
    text = request.model or request.name or ""
    if not text:
        raise BadRequest("a model's name is needed; `beast list` shows those there are")
    asked = desk.registry.with_hub_tag(parse_name(text))
    place = desk.registry.place(asked)
    if asked.variant is None and not asked.adapters:
        await desk.unload(place.name, None)
        return {"removed": place.name.short, "bytes": desk.keeper.remove(place.name)}
    await desk.unload(place.name, asked.variant)
    model = desk.registry.get(place.name)
    desk.keeper.check_own(model.place)
    await desk.describe(model.name, _without(desk.keeper.portable(model), asked))
    return {"removed": asked.short + str(asked).removeprefix(asked.base), "bytes": 0}


def _without(fields: Fields, asked: ModelName) -> Fields:
    """The fields without the variant and adapters that the name names."""
    adapters = dict(fields.adapters)
    for adapter in asked.adapters:
        del adapters[_spelled(asked, "adapter", adapter.name, adapters)]
    variants, default = dict(fields.variants), fields.default
    if asked.variant:
        variant = _spelled(asked, "variant", asked.variant, variants)
        del variants[variant]
        default = None if default == variant else default
        if not variants:
            raise Conflict(
                f"@{variant} is the only variant of {asked.short}; `beast rm {asked.short}` removes the model"
            )
    left = msgspec.structs.replace(fields, variants=variants, default=default, adapters=adapters)
    names = set(file_names(left))
    return msgspec.structs.replace(
        left,
        sha256={name: it for name, it in left.sha256.items() if name in names},
        registered={name: it for name, it in left.registered.items() if name in names},
    )


def _spelled(asked: ModelName, what: str, name: str, known: dict[str, Any]) -> str:
    found = next((it for it in known if it.lower() == name.lower()), None)
    if found is None:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise ModelNotFound(f"model '{asked.short}' has no {what} '{name}'; {has}")
    return found


async def edit(desk: Desk, request: EditRequest) -> dict[str, Any]:
    """Replace a model's modelfile, after a look at the files it names. Returns the reply's fields."""
    place = desk.registry.place(parse_name(request.model))
    desk.keeper.check_own(place)
    it = describe(request.modelfile, Path(place.path), desk.registry.locator)
    await asyncio.to_thread(check_files, desk.registry, it)
    desk.keeper.write_text(place, request.modelfile)
    return {"model": str(place.name)}
