"""What the verbs of the library work with, and the small things several of them do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import msgspec

from beastd.config import Config
from beastd.durable import translated
from beastd.errors import BadRequest, BeastError, Forbidden, ModelNotFound
from beastd.fetch.order import Fetched, FetchOrder, FileSource, HubSource, Part, UrlSource
from beastd.ipc import LoadSettings
from beastd.jobs.job import Job
from beastd.jobs.jobs import Jobs
from beastd.jobs.process import NO_ENV, run_tool
from beastd.library.adopt import adopt
from beastd.registry.catalog import Catalog
from beastd.registry.keeper import Keeper, registered
from beastd.registry.locate import Locator, digest_of
from beastd.registry.modelfile import Fields, file_names
from beastd.registry.models import Model, Resolved
from beastd.registry.names import ModelName
from beastd.registry.registry import Registry
from beastd.registry.store import Store

T = TypeVar("T")
Source = HubSource | UrlSource | FileSource


@dataclass(frozen=True, slots=True)
class Desk:
    """The rooms a verb may use."""

    registry: Registry
    keeper: Keeper
    store: Store
    jobs: Jobs
    catalog: Catalog
    config: Config
    config_file: Path
    logs_dir: Path
    budget_bytes: int
    unload_all: Callable[[], Awaitable[bool]]
    """Unloads every model; False when one is in use."""
    stop: Callable[[], None]
    """Ends the daemon, in order: work under way first."""
    unload: Callable[[ModelName, str | None], Awaitable[None]]
    """Unloads every worker of a model, or of the variant that is named."""
    detach: Callable[[str], None]
    """Has workers free a LoRA adapter's file, given its path."""

    def resolve(self, name: str) -> Resolved:
        """As the registry's, but a name is needed: nothing is changed by default."""
        if not name:
            raise BadRequest("a model's name is needed; `beast list` shows those there are")
        return self.registry.resolve(name, "")

    async def describe(self, name: ModelName, make: Callable[[Model | None], Fields]) -> Model:
        """Put a model in a thread of its own, and learn what lists tell of it. Raises as ``Keeper.put``."""
        model = await asyncio.to_thread(self.keeper.put, name, make)
        await asyncio.to_thread(self.registry.learn, model)
        return model

    async def change(self, name: ModelName, change: Callable[[Fields], Fields]) -> Model:
        """Change what a model is made of; ``change`` is given its fields as they are then. Raises as ``Keeper.put``."""

        def changed(model: Model | None) -> Fields:
            if model is None:
                raise ModelNotFound(f"model '{name.short}' has gone meanwhile")
            return change(self.keeper.portable(model))

        return await self.describe(name, changed)

    async def tool(
        self, module: str, order: msgspec.Struct, job: Job, kind: type[T], env: Mapping[str, str] = NO_ENV
    ) -> T:
        """Run a tool process for a job."""
        log = self.logs_dir / f"{module.removeprefix('beastd.')}.log"
        return msgspec.convert(await run_tool(module, order, job.report, log, env), kind)

    async def fetch(self, source: Source, job: Job, token: str | None = None) -> Fetched:
        """Bring files into the store. ``token``: the client's own for the hub."""
        config = self.config
        settings = LoadSettings(n_ctx=config.context, kv_type=config.kv_type, n_batch=config.batch)
        order = FetchOrder(store=str(self.store.root), source=source, budget_bytes=self.budget_bytes, settings=settings)
        env = {"HF_TOKEN": token} if token else NO_ENV
        return await self.tool("beastd.fetch", order, job, Fetched, env)

    async def in_thread(self, job: Job, work: Callable[..., T], *args: Any) -> T:
        """Run blocking work, which takes ``report`` and ``is_cancelled`` last. A cancelled job waits for its end."""
        cancelled = Event()
        thread = asyncio.ensure_future(asyncio.to_thread(work, *args, job.report_from_thread, cancelled.is_set))
        try:
            return await asyncio.shield(thread)
        except asyncio.CancelledError:
            cancelled.set()
            with suppress(BeastError):
                await thread
            raise

    async def adopt(self, paths: list[Path], job: Job, *, is_linked: bool = False) -> list[str]:
        """Take files into the store, by copy or by hard link; returns what descriptions call them."""
        return await self.in_thread(job, adopt, self.store, paths, is_linked)


def names_of(parts: list[Part]) -> str | list[str]:
    """What a description calls a file of the store, or its shards."""
    names = [f"sha256:{part.digest}" for part in parts]
    return names[0] if len(names) == 1 else names


def local_path(text: str, folder: str | None, *, is_local: bool) -> Path:
    """A path that a client named. Raises Forbidden unless the client is on the Unix socket."""
    if not is_local:
        raise Forbidden(f"'{text[:200]}': files of this machine are only taken over the Unix socket, not over TCP")
    path = Path(text.removeprefix("file:")).expanduser()
    if not path.is_absolute() and not folder:
        raise BadRequest(f"'{text[:200]}' is not a full path; name it from / on")
    return Path(os.path.normpath(Path(folder or "/") / path))


def with_registered(fields: Fields, locator: Locator, names: Iterable[str] | None = None) -> Fields:
    """The fields, remembering what each file (or each of ``names``) is now, so that a later change is noticed.

    Only files that others can change: those outside the store, and links to such in it. Raises BeastError for one
    that is not there.
    """
    found = dict(fields.registered)
    for name in file_names(fields) if names is None else names:
        path = locator.path(name, Path("/"))
        try:
            if path and (name.startswith("/") or (digest_of(path) and path.stat().st_nlink > 1)):
                found[name] = registered(path)
        except OSError as e:
            raise translated(e, f"cannot use {name}") from e
    return msgspec.structs.replace(fields, registered=found)
