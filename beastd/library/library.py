"""The library's verbs as a client may ask for them: quick ones answer, long ones give a job to watch."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from beastd.errors import BadRequest, Conflict, Forbidden, ModelNotFound
from beastd.jobs.job import Job
from beastd.jobs.jobs import Work
from beastd.library.adapters import add_adapter
from beastd.library.contract import (
    AdapterRequest,
    CopyRequest,
    CreateRequest,
    DeleteRequest,
    EditRequest,
    ExportRequest,
    ImportRequest,
    LongRequest,
    ModelfileRequest,
    MoveRequest,
    PerplexityRequest,
    PruneRequest,
    PullRequest,
    QuantizeRequest,
)
from beastd.library.create import create
from beastd.library.desk import Desk, Source
from beastd.library.elsewhere import export, move
from beastd.library.pull import Wanted, parse_wanted, pull
from beastd.library.quantize import perplexity, quantize
from beastd.library.register import import_
from beastd.library.remove import delete, edit, modelfile
from beastd.library.space import Removal, prunable, prune, usage
from beastd.library.upload import Upload
from beastd.registry.catalog import CatalogEntry
from beastd.registry.names import parse_name, parse_whole_name


class Library:
    """Everything a client may do to models on disk. ``is_local``: it is on the Unix socket, so its paths mean ours."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._jobs = desk.jobs

    # --- long work: a job, which goes on when its client leaves ---

    def pull(self, request: PullRequest, is_local: bool) -> Job:
        """Get a model, or join the pull of the same one. Raises BadRequest, ModelNotFound, Forbidden."""
        self._check_not_moving()
        if request.token:
            _check_local("token", is_local)
        wanted = self._wanted(request, is_local=is_local)
        subject = request.model or str(request.name)
        return self._jobs.start("pull", subject, repr(wanted), lambda job: pull(self._desk, wanted, job, request.token))

    def source_of(self, text: str, is_local: bool) -> Source:
        """Where a pull would get this model from. Raises BadRequest, ModelNotFound, Forbidden."""
        return parse_wanted(PullRequest(model=text), self._desk.catalog, is_local=is_local).source

    def _wanted(self, request: PullRequest, *, is_local: bool) -> Wanted:
        try:
            return parse_wanted(request, self._desk.catalog, is_local=is_local)
        except ModelNotFound:
            name = parse_name(request.model or str(request.name))
            registry = self._desk.registry
            if registry.has(name) and registry.place(name).is_builtin:
                raise BadRequest(f"{name.short} is built in; there is nothing to pull") from None
            raise

    def create(self, request: CreateRequest, is_local: bool) -> Job:
        """Make a model. Raises BadRequest for its name."""
        name = parse_whole_name(request.model or request.name or "")
        return self._start(
            "create", name.short, request, lambda job: create(self._desk, request, job, is_local=is_local)
        )

    def quantize(self, request: QuantizeRequest, is_local: bool) -> Job:
        """Make variants of a model. Raises Forbidden for an importance matrix named over TCP."""
        if request.imatrix:
            _check_local("imatrix", is_local)
        return self._start("quantize", request.model, request, lambda job: quantize(self._desk, request, job))

    def perplexity(self, request: PerplexityRequest, is_local: bool) -> Job:
        """Measure how well a model predicts a text. Raises Forbidden."""
        _check_local("file", is_local)
        return self._start("perplexity", request.model, request, lambda job: perplexity(self._desk, request, job))

    def add_adapter(self, request: AdapterRequest, is_local: bool) -> Job:
        """Give a model an adapter."""
        work = lambda job: add_adapter(self._desk, request, job, is_local=is_local)  # noqa: E731
        return self._start("adapter", f"{request.base}+{request.name}", request, work)

    def import_(self, request: ImportRequest, is_local: bool) -> Job:
        """Register models that are on this machine. Raises Forbidden."""
        _check_local("paths", is_local)
        return self._start("import", ", ".join(request.paths), request, lambda job: import_(self._desk, request, job))

    def export(self, request: ExportRequest, is_local: bool) -> Job:
        """Write a model into one file. Raises Forbidden."""
        _check_local("file", is_local)
        return self._start("export", request.model, request, lambda job: export(self._desk, request, job))

    def move(self, request: MoveRequest, is_local: bool) -> Job:
        """Move the models folder. Raises Forbidden."""
        _check_local("folder", is_local)
        return self._start("move", request.folder, request, lambda job: move(self._desk, request, job))

    def _check_not_moving(self) -> None:
        if any(job.kind == "move" and job.state in {"running", "done"} for job in self._jobs.all()):
            raise Conflict("the models folder is being moved, and this daemon ends then; try again in a moment")

    def _start(self, kind: str, subject: str, request: LongRequest, work: Work) -> Job:
        if kind != "move" or not self._jobs.running:
            self._check_not_moving()
        asked = msgspec.json.encode(msgspec.structs.replace(request, stream=None)).decode()
        return self._jobs.start(kind, subject, asked, work)

    def jobs(self) -> list[Job]:
        """Those that ended lately, then those under way."""
        return self._jobs.all()

    def job(self, id_: str) -> Job:
        """One of them. Raises ModelNotFound."""
        return self._jobs.get(id_)

    # --- quick work ---

    async def copy(self, request: CopyRequest) -> None:
        """Give a model a second name. Raises ModelNotFound, Conflict, ReadOnly."""
        self._check_not_moving()
        resolved = self._desk.resolve(request.source)
        if resolved.name.variant or resolved.name.adapters:
            raise BadRequest(f"'{request.source[:80]}' names a part of a model; a copy is of the whole: give its name")
        await asyncio.to_thread(self._desk.keeper.copy, resolved.model, parse_whole_name(request.destination))

    async def delete(self, request: DeleteRequest) -> dict[str, Any]:
        """Unload and remove a model, variant or adapter. Raises ModelNotFound, ReadOnly, Conflict."""
        self._check_not_moving()
        return await delete(self._desk, request)

    def modelfile(self, request: ModelfileRequest) -> dict[str, Any]:
        """What describes a model, sound or broken. Raises ModelNotFound, BadModel when it cannot be read."""
        return modelfile(self._desk, request.model)

    async def edit(self, request: EditRequest, *, is_local: bool) -> dict[str, Any]:
        """Replace a model's modelfile. Raises BadModel with file, line and field; Forbidden, since it names paths."""
        _check_local("modelfile", is_local)
        self._check_not_moving()
        return await edit(self._desk, request)

    def search(self, text: str) -> list[tuple[CatalogEntry, bool]]:
        """What the catalog has, best first, and whether it is here already."""
        return [(it, self._desk.registry.has(it.name)) for it in self._desk.catalog.search(text)]

    async def usage(self) -> Any:
        """What the models take on disk."""
        desk = self._desk
        listing = await asyncio.to_thread(desk.registry.list)
        return await asyncio.to_thread(usage, listing.models, desk.store, desk.keeper.references())

    async def prune(self, request: PruneRequest) -> dict[str, Any]:
        """Remove what nothing uses; or tell what would be."""
        found, n_bytes = await asyncio.to_thread(self._prune, request, self._jobs.oldest_s)
        removed = [{"path": str(it.path), "bytes": it.n_bytes, "kind": it.kind} for it in found]
        return {"removed": removed, "bytes": n_bytes, "dry_run": request.dry_run}

    def _prune(self, request: PruneRequest, older_than_s: float) -> tuple[list[Removal], int]:
        store, references = self._desk.store, self._desk.keeper.references
        age_s = request.partial_age_s
        found = prunable(store, references(), older_than_s=older_than_s, partial_age_s=age_s, now=time.time())
        if request.dry_run:
            return found, sum(it.n_bytes for it in found)
        return found, prune(found, store, references)

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is here. Work under way keeps it from now on; without any, prune may take it."""
        return self._desk.store.claim(digest)

    def upload(self, digest: str, n_bytes: int) -> Upload:
        """A place to write a blob to. Raises Conflict, DiskFull, ReadOnly."""
        self._check_not_moving()
        return Upload(self._desk.store, digest, n_bytes)


def _check_local(field: str, is_local: bool) -> None:
    if not is_local:
        raise Forbidden(f"{field}: files of this machine are only taken over the Unix socket, not over TCP")
