"""Quantize: new variants of a model, made by llama.cpp's own quantizer in a process of its own; and what each costs."""

from __future__ import annotations

import asyncio
import functools
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from beastd.errors import BadRequest, Conflict
from beastd.fetch.order import KEEP_FREE_BYTES
from beastd.jobs.job import Job
from beastd.library.contract import PerplexityRequest, QuantizeRequest
from beastd.library.copying import check_room
from beastd.library.desk import Desk, local_path
from beastd.quants import quant_type
from beastd.registry.description import Files
from beastd.registry.modelfile import Fields
from beastd.registry.models import Model, Variant
from beastd.toolorders import Perplexity, PerplexityOrder, Quantized, QuantizeOrder


async def quantize(desk: Desk, request: QuantizeRequest, job: Job) -> dict[str, Any]:
    """Make each variant asked for; each is part of the model as soon as it is done. Returns the reply's fields."""
    resolved = desk.resolve(request.model)
    if resolved.name.adapters:
        raise BadRequest(f"'{request.model[:80]}' names an adapter; adapters are not part of a variant: leave it out")
    model = resolved.model
    types = [quant_type(text).name for text in request.types]
    source = resolved.variant if resolved.name.variant else await asyncio.to_thread(_finest, desk, model, types)
    taken = [name for name in types if name in {it.lower() for it in model.variants}]
    if taken and not request.replace:
        raise Conflict(f"{model.name.short} has {', '.join(taken)} already; --replace makes it anew")
    for type_ in types:
        if type_ == source.name.lower():
            raise BadRequest(f"{model.name.short}@{source.name} is what it would be made of; leave {type_} out")
    recipe = Recipe(
        source.files,
        f"{model.name.short}@{source.name}",
        imatrix=_file(request.imatrix) if request.imatrix else None,
        allow_requantize=request.allow_requantize,
    )
    made = []
    for type_ in dict.fromkeys(types):
        quantized = await make_variant(desk, recipe, type_, job)
        await desk.change(model.name, functools.partial(_with_variant, type_, quantized))
        told = {it: getattr(quantized, it) for it in ("bits_per_weight", "n_tensors", "n_fallback", "took_s")}
        made.append({"name": type_, "size": quantized.size_bytes, **told})
    return {"model": str(model.name), "variants": made}


def _file(text: str) -> str:
    """A file that is read whole: opening a pipe would wait for ever. Raises BadRequest."""
    path = local_path(text, None, is_local=True)
    if not path.is_file():
        raise BadRequest(f"{path} does not exist or is not a file; correct the path")
    return str(path)


def _with_variant(type_: str, made: Quantized, fields: Fields) -> Fields:
    spelled = next((it for it in fields.variants if it.lower() == type_), type_)
    return msgspec.structs.replace(fields, variants=fields.variants | {spelled: f"sha256:{made.digest}"})


@dataclass(frozen=True, slots=True)
class Recipe:
    """What variants are made of."""

    files: Files
    label: str
    """What messages call it."""
    imatrix: str | None = None
    allow_requantize: bool = False


async def make_variant(desk: Desk, recipe: Recipe, type_: str, job: Job) -> Quantized:
    """Quantize into the store. Raises DiskFull before, what the quantizer refuses, or ToolFailed."""
    await asyncio.to_thread(_check_room, desk, recipe, type_)
    out = desk.store.partial(f"quantize-{uuid.uuid4().hex}")
    order = QuantizeOrder(
        sources=[str(path) for path in recipe.files],
        label=recipe.label,
        out=str(out),
        type=type_,
        imatrix=recipe.imatrix,
        n_threads=desk.config.threads,
        allow_requantize=recipe.allow_requantize,
    )
    try:
        made = await desk.tool("beastd.engine.quantize", order, job, Quantized)
        await asyncio.to_thread(desk.store.keep, out, made.digest)
    finally:
        for left in out.parent.glob(f"{out.name}*"):
            with suppress(FileNotFoundError):
                left.unlink()
    return made


def _finest(desk: Desk, model: Model, types: list[str]) -> Variant:
    """The variant with most bits a weight, those that are to be made anew left aside."""
    usable = [it for it in model.variants.values() if not it.problem and it.name.lower() not in types]
    if not usable:
        raise BadRequest(f"{model.name.short} has no other variant to make {', '.join(types)} of")
    return max(usable, key=lambda it: desk.registry.facts(it.files).bits_per_weight)


def _check_room(desk: Desk, recipe: Recipe, type_: str) -> None:
    bits, size_bytes = desk.registry.facts(recipe.files).bits_per_weight, desk.registry.header(recipe.files).size_bytes
    need = int(size_bytes * (quant_type(type_).bits or bits) / bits * 1.1) if bits else size_bytes
    check_room(desk.store.root, need + KEEP_FREE_BYTES, f"{type_} of {recipe.label}")


async def perplexity(desk: Desk, request: PerplexityRequest, job: Job) -> dict[str, Any]:
    """Measure how well a model predicts a text. Returns the reply's fields."""
    resolved = desk.resolve(request.model)
    order = PerplexityOrder(
        paths=[str(path) for path in resolved.variant.files],
        label=str(resolved.name),
        text=_file(request.file),
        adapters=resolved.adapters,
        n_ctx=request.n_ctx,
        n_chunks=request.n_chunks,
        n_threads=desk.config.threads,
        n_gpu_layers=desk.config.gpu_layers,
    )
    found = await desk.tool("beastd.engine.perplexity", order, job, Perplexity)
    return msgspec.structs.asdict(found) | {"model": str(resolved.name), "variant": resolved.variant.name}
