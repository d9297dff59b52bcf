"""Pull: from what a person typed to files in the store and a model's description."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from beastd.contract import ModelShape
from beastd.errors import BadRequest, Conflict, ModelNotFound
from beastd.fetch.order import Fetched, FileSource, HubSource, UrlSource
from beastd.jobs.job import Job
from beastd.library.contract import PullRequest
from beastd.library.desk import Desk, local_path, names_of
from beastd.nearest import near
from beastd.registry.catalog import Catalog, CatalogEntry
from beastd.registry.modelfile import AdapterFields, Fields
from beastd.registry.models import Model
from beastd.registry.names import DEFAULT_TAG, ModelName, is_part, parse_name, parse_whole_name
from beastd.registry.registry import HUB_HOSTS

HUB = "hf.co"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a model comes from, and the name it gets here."""

    source: HubSource | UrlSource | FileSource
    name: ModelName
    entry: CatalogEntry | None = None
    """Its entry in the catalog, where it has one."""
    is_named: bool = False
    """Whether the client gave the name."""


def parse_wanted(request: PullRequest, catalog: Catalog, *, is_local: bool) -> Wanted:
    """What a request to pull asks for. Raises BadRequest, ModelNotFound, Forbidden."""
    text = (request.model or request.name or "").strip()
    if request.insecure:
        raise BadRequest("insecure is not taken: Beast trusts no broken certificates; leave it out")
    if not text:
        raise BadRequest("a model to pull is needed, such as qwen3:0.6b or hf.co/user/repo; `beast search` shows more")
    wanted = _wanted(text, request, catalog, is_local=is_local)
    if request.sha256 and isinstance(wanted.source, HubSource):
        raise BadRequest("the hub tells every file's sha256 itself; leave it out")
    if request.save_as is None:
        return wanted
    return replace(wanted, name=parse_whole_name(request.save_as), is_named=True)


def _wanted(text: str, request: PullRequest, catalog: Catalog, *, is_local: bool) -> Wanted:
    if text.startswith("file:"):
        file = local_path(text, None, is_local=is_local)
        return Wanted(FileSource(path=str(file), sha256=_hex(request.sha256)), _name_of_file(file.name))
    rest = text.partition("://")[2]
    if rest and rest.split("/")[0].lower() in HUB_HOSTS:
        return _hub(rest.partition("/")[2])
    if rest:
        if not is_local:
            raise BadRequest(f"'{text[:200]}': addresses are only taken over the Unix socket; name a hub's repository")
        address = urlsplit(text)
        name = _name_of_file(PurePosixPath(unquote(address.path)).name)
        return Wanted(UrlSource(url=text, sha256=_hex(request.sha256)), name)
    host, _, path = text.partition("/")
    return _hub(path) if host.lower() in HUB_HOSTS else _from_catalog(text, catalog)


def _hub(path: str) -> Wanted:
    """``user/repo``, then ``:QUANT``, ``@variant`` or a file: ``/file.gguf``, or a page's ``/blob/main/file.gguf``."""
    parts = path.partition("?")[0].strip("/").split("/")
    if len(parts) < 2:
        raise BadRequest(f"'{path[:200]}' is not a repository; write {HUB}/user/repo, with :Q4_K_M after it to choose")
    user, (repo, quant), inside = parts[0], _split_quant(parts[1]), parts[2:]
    revision = "main"
    if len(inside) > 2 and inside[0] in {"blob", "resolve", "tree"}:
        revision, inside = inside[1], inside[2:]
    if not is_part(user) or not is_part(repo):
        raise BadRequest(f"'{path[:200]}' is not a repository; write {HUB}/user/repo")
    name = ModelName(name=repo, namespace=user, host=HUB)
    file = unquote("/".join(inside)) or None
    return Wanted(HubSource(repo=f"{user}/{repo}", revision=revision, file=file, quant=quant), name)


def _split_quant(text: str) -> tuple[str, str | None]:
    repo, _, quant = text.replace("@", ":", 1).partition(":")
    return repo, quant if quant and quant.lower() != DEFAULT_TAG else None


def _from_catalog(text: str, catalog: Catalog) -> Wanted:
    asked = parse_name(text)
    if asked.adapters:
        raise BadRequest(f"'{text[:80]}' names an adapter; `beast adapter add` gets one")
    entry = catalog.find(replace(asked, variant=None))
    if entry is None:
        found = [it.name.short for it in catalog.search(asked.name)[:3]]
        found = found or near(asked.short, (it.name.short for it in catalog.search("")))
        hint = f"the catalog has {', '.join(found)}" if found else "`beast search` shows what there is"
        user_repo = f"; for a repository write {HUB}/{asked.namespace}/{asked.name}" if asked.namespace else ""
        raise ModelNotFound(f"the catalog has no '{asked.short}'; {hint}{user_repo}")
    known = entry.variants
    if asked.variant and known and asked.variant.lower() not in known:
        # The repository may have more than the catalog lists.
        known = {}
    source = HubSource(
        repo=entry.repo, quant=asked.variant, variants=known or None, preferred=None if asked.variant else entry.default
    )
    return Wanted(source, replace(asked, variant=None), entry)


async def pull(desk: Desk, wanted: Wanted, job: Job, token: str | None = None) -> dict[str, Any]:
    """Bring the files and describe the model. Returns the reply's fields."""
    desk.registry.find(wanted.name)  # a broken description is told before the download
    fetched = await desk.fetch(wanted.source, job, token)
    if fetched.model and not wanted.is_named:
        wanted = replace(wanted, name=replace(wanted.name, tag=_part(fetched.model)))
    variant = next((file.name for file in fetched.files if file.role == "variant"), None)
    shape = await asyncio.to_thread(_shape, desk, fetched)

    def described(known: Model | None) -> Fields:
        if known is None or known.place.folder.path != desk.store.root:
            if variant is None:
                raise BadRequest(_not_alone(wanted, fetched))
            return _merged(_described(wanted, fetched), fetched)
        _check_same(desk, known, shape)
        return _merged(desk.keeper.portable(known), fetched)

    job.say("writing manifest")
    model = await desk.describe(wanted.name, described)
    name = replace(model.name, variant=variant)
    return {"model": str(name), "why": fetched.why, "fits": fetched.fits, "warnings": _warnings(fetched)}


def _shape(desk: Desk, fetched: Fetched) -> ModelShape | None:
    """What the model that came is like; None if it was something else."""
    file = next((file for file in fetched.files if file.role == "variant"), None)
    return desk.registry.shape(tuple(desk.store.blob(part.digest) for part in file.parts)) if file else None


def _check_same(desk: Desk, known: Model, shape: ModelShape | None) -> None:
    """Raises Conflict when the model of that name is another one: variants differ in quantization alone."""
    usable = next((it for it in known.variants.values() if not it.problem), None)
    if usable is None or shape is None:
        return
    old = desk.registry.shape(usable.files)
    if not old.is_same_model(shape):
        raise Conflict(
            f"'{known.name.short}' is another model ({old.architecture}, {old.n_layers} layers) than what came "
            f"({shape.architecture}, {shape.n_layers} layers); --as NAME gives this one a name of its own"
        )


def _described(wanted: Wanted, fetched: Fetched) -> Fields:
    """What is known of a model that is new here, besides its files."""
    entry = wanted.entry
    if entry is None:
        return Fields(license=fetched.license, origin=fetched.origin)
    return Fields(
        parameters=entry.parameters,
        template=entry.template,
        license=entry.license,
        description=entry.description,
        origin=fetched.origin,
    )


def _merged(fields: Fields, fetched: Fetched) -> Fields:
    variants, adapters, projector = dict(fields.variants), dict(fields.adapters), fields.projector
    for file in fetched.files:
        if file.role == "variant":
            spelled = next((name for name in variants if name.lower() == file.name.lower()), file.name)
            variants[spelled] = names_of(file.parts)
        elif file.role == "adapter":
            adapters[file.name] = AdapterFields(f"sha256:{file.parts[0].digest}")
        else:
            projector = f"sha256:{file.parts[0].digest}"
    return msgspec.structs.replace(
        fields, variants=variants, adapters=adapters, projector=projector, origin=fetched.origin
    )


def _warnings(fetched: Fetched) -> list[str]:
    found = []
    if not fetched.fits:
        found.append(f"it needs about {fetched.need_bytes / 1e9:.1f} GB, more than this machine's memory budget")
    if fetched.projectors:
        found.append(f"it reads images with {', '.join(fetched.projectors)}, which Beast does not use yet")
    return found


def _not_alone(wanted: Wanted, fetched: Fetched) -> str:
    file = fetched.files[0]
    what = "a LoRA adapter" if file.role == "adapter" else "a projector for images"
    base = f" (made for {fetched.base_model})" if fetched.base_model else ""
    return (
        f"{file.file} is {what}{base}, which runs only on its base model; "
        f"`beast adapter add {file.name} {wanted.name.short} --base MODEL` puts it there"
    )


def _name_of_file(file: str) -> ModelName:
    return ModelName(name=_part(re.sub(r"(-00001-of-[0-9]{5})?\.gguf$", "", file, flags=re.IGNORECASE)))


def _part(text: str) -> str:
    """A part of a name made of a file's. Raises BadRequest when nothing is left of it."""
    part = _NOT_IN_NAMES.sub("-", text).strip("-.").lower()
    if not is_part(part):
        raise BadRequest(f"no model's name follows from '{text[:80]}'; give one with --as NAME")
    return part


def _hex(sha256: str | None) -> str | None:
    return sha256[-64:].lower() if sha256 else None
