"""Create: a model from another one, from files, or as a modelfile says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import asdict

from beastd.contract import Options
from beastd.errors import BadModel, BadRequest, Conflict, ModelNotFound, Unsupported
from beastd.jobs.job import Job
from beastd.library.contract import CreateRequest, PullRequest
from beastd.library.desk import Desk, local_path, with_registered
from beastd.library.importing.find import find_models
from beastd.library.importing.found import Found, Skipped
from beastd.library.pull import parse_wanted, pull
from beastd.library.quantize import Recipe, make_variant
from beastd.quants import quant_type
from beastd.registry.adapters import check_adapter
from beastd.registry.description import Description, describe
from beastd.registry.gguf import shard_paths
from beastd.registry.gotemplate import to_jinja
from beastd.registry.modelfile import AdapterFields, Fields, dump, file_names, parse_modelfile, with_files
from beastd.registry.names import parse_whole_name
from beastd.registry.ollamafile import adapter_name, looks_like_ollamafile, parse_ollamafile
from beastd.registry.registry import Registry
from beastd.tool import Report, digest_of_file

_GO = re.compile(r"\{\{-?\s*(\.|\$|if\b|range\b|end\b|else\b|with\b)")
_SCALAR_FIELDS = (
    *("template", "system", "license", "description", "draft", "projector", "messages"),
    *("kv_type", "quality", "keep_alive", "pinned"),
)


async def create(desk: Desk, request: CreateRequest, job: Job, *, is_local: bool) -> dict[str, Any]:
    """Make the model. Returns the reply's fields."""
    name = parse_whole_name(request.model or request.name or "")
    job.say("parsing modelfile")
    type_ = quant_type(request.quantize).name if request.quantize else None
    asked = await asyncio.to_thread(_asked, desk, request, is_local)
    base, notes = await _base(desk, asked, request, job, is_local=is_local)
    fields = msgspec.structs.replace(_combined(base, asked), from_=None)
    if not fields.variants:
        raise BadRequest(f"{name.short} would have no file: say what it is made of, with `from` (FROM) or variants")
    new_names = [it for it in file_names(fields) if it not in fields.registered]
    fields = with_registered(fields, desk.registry.locator, new_names)
    job.say("checking files")
    description = describe(dump(fields), Path("/the modelfile"), desk.registry.locator)
    await asyncio.to_thread(check_files, desk.registry, description)
    stated = {desk.registry.locator.path(it, Path("/")): digest for it, digest in asked.sha256.items()}
    await asyncio.to_thread(_verify_digests, stated, job.report_from_thread)
    if type_:
        fields = await _quantized(desk, fields, description, type_, job)
    job.say("writing manifest")
    if desk.registry.has(name) and desk.registry.place(name).is_builtin:
        notes = [*notes, f"it hides the built-in {name.short} from now on; `beast rm {name.short}` brings that back"]
    model = await desk.describe(name, lambda _: fields)
    return {"model": str(model.name), "warnings": notes}


async def _quantized(desk: Desk, fields: Fields, it: Description, type_: str, job: Job) -> Fields:
    """The fields with one more variant, the default."""
    known = next((name for name in it.variants if name.lower() == type_), None)
    if known:
        return msgspec.structs.replace(fields, default=known)
    made = await make_variant(desk, Recipe(it.variants[it.default], it.default), type_, job)
    variants = fields.variants | {type_: f"sha256:{made.digest}"}
    return msgspec.structs.replace(fields, variants=variants, default=type_)


# --- what was asked for ---


def _asked(desk: Desk, request: CreateRequest, is_local: bool) -> Fields:
    """The request's fields, their files named as paths, in the store or in the package."""
    if request.modelfile is None:
        return _from_request(desk, request)
    others = ("from_", "files", "adapters", "template", "license", "system", "parameters", "messages")
    if any(getattr(request, name) for name in others):
        raise BadRequest("a modelfile says everything itself; leave from, files, template and the like out")
    text = request.modelfile
    if looks_like_ollamafile(text):
        fields = parse_ollamafile(text, "the modelfile")
    else:
        fields, _ = parse_modelfile(text, "the modelfile")
    return _located(fields, request.folder, is_local)


def _from_request(desk: Desk, request: CreateRequest) -> Fields:
    licenses = [request.license] if isinstance(request.license, str) else request.license
    return Fields(
        from_=request.from_,
        variants=_posted(desk, request.files),
        adapters={
            name: AdapterFields(_blob(desk, file, request.adapters[file]), applied=True)
            for name, file in _adapter_names(request.adapters).items()
        },
        template=_as_jinja(request.template) if request.template else None,
        license="\n\n".join(licenses) if licenses else None,
        system=request.system,
        parameters=request.parameters or Options(),
        messages=request.messages or [],
    )


def _adapter_names(files: Iterable[str]) -> dict[str, str]:
    """Adapter's name → file."""
    found: dict[str, str] = {}
    for file in files:
        name = adapter_name(file)
        if name in found:
            raise BadRequest(f"adapters {found[name][:100]} and {file[:100]} would both be called {name}; rename one")
        found[name] = file
    return found


def _posted(desk: Desk, files: dict[str, str]) -> dict[str, str | list[str]]:
    """Variants made of posted blobs: one file, or the shards of one."""
    if not files:
        return {}
    first = min(files)
    order = [path.name for path in shard_paths(Path(first))] if len(files) > 1 else [first]
    if sorted(order) != sorted(files):
        raise Unsupported(
            f"files: {', '.join(sorted(files))[:200]} are not the shards of one model; create one at a time"
        )
    names = [_blob(desk, file, files[file]) for file in order]
    paths = tuple(path for path in (desk.registry.locator.path(name, Path("/")) for name in names) if path)
    variant = desk.registry.header(paths).quantization.lower()
    return {variant: names[0] if len(names) == 1 else names}


def _blob(desk: Desk, file: str, digest: str) -> str:
    digest = digest[-64:].lower()
    if not desk.store.claim(digest):
        raise ModelNotFound(f"the blob of {file[:200]}, sha256:{digest}, is not here; POST it to /api/blobs first")
    return f"sha256:{digest}"


def _as_jinja(template: str) -> str:
    return to_jinja(template) if "{%" not in template and _GO.search(template) else template


def _located(fields: Fields, folder: str | None, is_local: bool) -> Fields:
    """The fields with every path absolute."""

    def located(name: str) -> str:
        if name.startswith(("sha256:", "sha256-", "builtin:")):
            return name
        return str(local_path(name, folder, is_local=is_local))

    return msgspec.structs.replace(with_files(fields, located), registered={})


# --- what it starts from ---


async def _base(
    desk: Desk, asked: Fields, request: CreateRequest, job: Job, *, is_local: bool
) -> tuple[Fields, list[str]]:
    """The fields of what ``from`` names: a model, pulled if need be, or files. And what is to be said of it."""
    text, folder = asked.from_, request.folder
    if text is None:
        return Fields(), []
    if text.startswith("sha256:"):
        digest = _blob(desk, "from", text)
        path = desk.registry.locator.path(digest, Path("/"))
        assert path, "a digest names a path"
        variant = (await asyncio.to_thread(desk.registry.header, (path,))).quantization.lower()
        return Fields(variants={variant: digest}), []
    if _is_path(text) or (is_local and folder and (Path(folder) / text).exists()):
        found = await asyncio.to_thread(_one_model, local_path(text, folder, is_local=is_local))
        return found.fields, found.notes
    return await _base_model(desk, text, job, request.token if is_local else None), []


def _is_path(text: str) -> bool:
    return text.startswith(("/", "./", "../", "~", "file:")) or text.lower().endswith(".gguf")


def _one_model(path: Path) -> Found:
    if not path.exists():
        raise BadModel(f"{path} does not exist; correct the path in `from`")
    results = list(find_models(path, gguf_template=False))
    found = [it for it in results if isinstance(it, Found)]
    if not found and len(results) == 1 and isinstance(results[0], Skipped):
        raise BadModel(f"{path}: {results[0].reason}")
    if len(found) != 1:
        reasons = "; ".join(f"{it.source}: {it.reason}" for it in results if isinstance(it, Skipped))
        names = ", ".join(it.name.short for it in found)
        raise BadModel(f"{path} holds {len(found)} models ({names or reasons or 'no GGUF file'}); name one file")
    return found[0]


async def _base_model(desk: Desk, text: str, job: Job, token: str | None) -> Fields:
    try:
        resolved = desk.resolve(text)
    except ModelNotFound as missing:
        try:
            wanted = parse_wanted(PullRequest(model=text), desk.catalog, is_local=False)
        except (ModelNotFound, BadRequest):
            raise missing from None
        resolved = desk.resolve((await pull(desk, wanted, job, token))["model"])
    fields = desk.keeper.portable(resolved.model)
    on = {str(adapter.path): adapter.scale for adapter in resolved.adapters}
    adapters = {
        name: AdapterFields(_path(fields.adapters[name]), on.get(str(file.path), file.scale), str(file.path) in on)
        for name, file in resolved.model.adapters.items()
    }
    return msgspec.structs.replace(fields, default=resolved.variant.name, adapters=adapters)


def _path(adapter: str | AdapterFields) -> str:
    return adapter if isinstance(adapter, str) else adapter.path


def _combined(base: Fields, asked: Fields) -> Fields:
    """What was asked for, over the base."""
    parameters = {key: value for key, value in asdict(asked.parameters).items() if value is not None}
    own = {name: getattr(asked, name) for name in _SCALAR_FIELDS if getattr(asked, name)}
    variants = base.variants | asked.variants
    default = asked.default or next(iter(asked.variants), base.default)
    return msgspec.structs.replace(
        base,
        variants=variants,
        default=None if default == next(iter(variants), None) else default,
        adapters=base.adapters | asked.adapters,
        parameters=msgspec.structs.replace(base.parameters, **parameters),
        sha256=base.sha256 | asked.sha256,
        **own,
    )


# --- whether its files are what they should be ---


def _verify_digests(stated: dict[Path | None, str], report: Report) -> None:
    """Read whole files whose digest the modelfile states. Raises BadModel."""
    for path, digest in stated.items():
        if path and digest_of_file(path, report) != digest[-64:].lower():
            raise BadModel(f"{path} is not the file the modelfile means: its sha256 is another; get it again")


def check_files(registry: Registry, it: Description) -> None:
    """Read the header of every file. Raises BadModel: a file is broken, is no model, or no adapter of this one."""
    shapes = {name: registry.shape(files) for name, files in it.variants.items()}
    default = shapes[it.default]
    for name, shape in shapes.items():
        if not shape.is_same_model(default):
            raise Conflict(f"variant {name} is another model than {it.default}: variants differ in quantization alone")
    n_ctx = it.fields.parameters.num_ctx
    if n_ctx and n_ctx > default.n_ctx_train:
        raise BadModel(f"num_ctx {n_ctx} is more than the {default.n_ctx_train} tokens the model was trained for")
    _check_parts(registry, it)


def _check_parts(registry: Registry, it: Description) -> None:
    base = registry.header(it.variants[it.default])
    for adapter in it.adapters.values():
        check_adapter(registry.header((adapter.path,)), base)
    if it.draft:
        draft = registry.shape((it.draft,))
        n_vocab = base.shape().n_vocab
        if draft.n_vocab != n_vocab:
            raise BadModel(f"{it.draft} cannot draft: its vocabulary has {draft.n_vocab} tokens, the model's {n_vocab}")
