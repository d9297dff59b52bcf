"""What the verbs of the library work with, and the small things several of them do."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import msgspec

from beastd.config import Config
from beastd.durable import translated
from beastd.errors import BadRequest, BeastError, Forbidden
from beastd.fetch.order import Fetched, FetchOrder, FileSource, HubSource, Part, UrlSource
from beastd.ipc import LoadSettings
from beastd.jobs.job import Job
from beastd.jobs.jobs import Jobs
from beastd.jobs.process import run_tool
from beastd.registry.catalog import Catalog
from beastd.registry.keeper import Keeper, registered
from beastd.registry.locate import Locator, digest_of
from beastd.registry.modelfile import AdapterFields, Fields
from beastd.registry.models import Model, Resolved
from beastd.registry.names import ModelName
from beastd.registry.registry import Registry
from beastd.registry.store import Store
from beastd.tool import Report, digest_of_file

T = TypeVar("T")


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
    is_busy: Callable[[], bool]
    """Whether some model is loaded or being loaded."""
    stop: Callable[[], None]
    """Ends the daemon, in order: work under way first."""
    unload: Callable[[ModelName, str | None], Awaitable[None]]
    """Unloads every worker of a model, or of the variant that is named."""

    def resolve(self, name: str) -> Resolved:
        """As the registry's, but a name is needed: nothing is changed by default."""
        if not name:
            raise BadRequest("a model's name is needed; `beast list` shows those there are")
        return self.registry.resolve(name, "")

    async def describe(self, name: ModelName, fields: Fields) -> Model:
        """Make these fields the model of that name. Raises as ``Keeper.put``."""
        model = self.keeper.put(name, fields)
        await asyncio.to_thread(self.registry.learn, model)
        return model

    async def tool(self, module: str, order: msgspec.Struct, job: Job, kind: type[T]) -> T:
        """Run a tool process for a job."""
        log = self.logs_dir / f"{module.removeprefix('beastd.')}.log"
        return msgspec.convert(await run_tool(module, order, job.report, log), kind)

    async def fetch(self, source: HubSource | UrlSource | FileSource, job: Job) -> Fetched:
        """Bring files into the store."""
        config = self.config
        settings = LoadSettings(n_ctx=config.context, kv_type=config.kv_type, n_batch=config.batch)
        order = FetchOrder(store=str(self.store.root), source=source, budget_bytes=self.budget_bytes, settings=settings)
        return await self.tool("beastd.fetch", order, job, Fetched)

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

    async def adopt(self, path: Path, mode: str, job: Job) -> str:
        """Take one file into the store, by copy or by hard link; returns what descriptions call it."""
        if mode == "link":
            digest = await asyncio.to_thread(_link, self.store, path, job.report_from_thread)
            return f"sha256:{digest}"
        (file,) = (await self.fetch(FileSource(path=str(path)), job)).files
        return f"sha256:{file.parts[0].digest}"


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


def file_names(fields: Fields) -> list[str]:
    """Every file the fields name, as they name it."""
    shards = [[value] if isinstance(value, str) else value for value in fields.variants.values()]
    adapters = [it.path if isinstance(it, AdapterFields) else it for it in fields.adapters.values()]
    others = [name for name in (fields.draft, fields.projector) if name]
    return [*(name for names in shards for name in names), *adapters, *others]


def _link(store: Store, path: Path, report: Report) -> str:
    """Give a file a second name in the store. Its content is read once, for the digest."""
    partial = store.partial(f"link-{os.getpid()}-{abs(hash(path))}")
    try:
        with suppress(FileNotFoundError):
            partial.unlink()
        os.link(path, partial)
        digest = digest_of_file(partial, report, label=path.name)
        # The blob is the same file: it cannot be made read-only behind its owner's back, but its change is noticed.
        store.keep(partial, digest)
    except OSError as e:
        raise translated(e, f"cannot link {path} into {store.root}; `--copy` copies it instead") from e
    return digest
