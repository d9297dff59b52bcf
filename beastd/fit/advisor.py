"""Answers whether a model fits this machine, before it is loaded, and before it is downloaded."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from beastd.config import Config
from beastd.contract import RAM, DeviceNeed
from beastd.errors import BadModel, BadRequest, Forbidden, ModelNotFound
from beastd.fetch.order import FetchOrder, FileSource, HubSource, UrlSource
from beastd.fit.contract import Device, DeviceShare, FitOption, FitReply, FitRequest
from beastd.fit.fit import Budget, Option
from beastd.fit.ledger import Ledger
from beastd.fit.search import Search, Trial
from beastd.fit.settings import load_settings, parallel_of
from beastd.fit.stalls import Far, Hatch, Here, Stall
from beastd.fit.words import next_steps, sentence, warnings
from beastd.fleet.memory import available_ram_bytes, total_ram_bytes
from beastd.jobs.process import NO_ENV
from beastd.registry.modelfile import Fields
from beastd.registry.models import Resolved
from beastd.registry.names import parse_name
from beastd.registry.registry import Registry

Source = HubSource | UrlSource | FileSource
SourceOf = Callable[[str, bool], Source]
"""Where a pull would get a model from, given its name and whether the client is on the Unix socket."""


class Advisor:
    """The one verb of this room."""

    def __init__(
        self,
        registry: Registry,
        ledger: Ledger,
        config: Config,
        *,
        budget_bytes: int,
        store: Path,
        logs_dir: Path,
        source_of: SourceOf,
    ) -> None:
        self._registry = registry
        self._ledger = ledger
        self._config = config
        self._budget_bytes = budget_bytes
        self._store = store
        self._logs_dir = logs_dir
        self._source_of = source_of

    async def fit(self, request: FitRequest, *, is_local: bool) -> FitReply:
        """Tell whether it fits, what does instead, and the numbers.

        Raises ModelNotFound, BadModel, BadRequest, Forbidden, and for a model that is not here what a pull raises.
        """
        if request.token and not is_local:
            raise Forbidden("token: taken over the Unix socket alone; set HF_TOKEN where the daemon runs")
        machine = await self._machine()
        async with self._stall(request, is_local) as (stall, own):
            num_ctx = own.parameters.num_ctx if own else None
            n_ctx = self._n_ctx(request.num_ctx or num_ctx or self._config.context, stall, request)
            kv_type = request.kv_type or (own and own.kv_type) or self._config.kv_type
            return await self._reply(request, stall, n_ctx, kv_type, machine)

    async def _reply(
        self, request: FitRequest, stall: Stall, n_ctx: int, kv_type: str, machine: list[Device]
    ) -> FitReply:
        config = self._config
        n_parallel = request.num_parallel or parallel_of(config, stall.asked.shape, n_ctx, kv_type, self._budget_bytes)
        ram, *gpus = machine
        budget = Budget(ram.budget_bytes, {it.device: it.budget_bytes for it in gpus})
        search = Search(self._ledger, config, budget, kv_type)
        verdict = await search.verdict(stall, n_ctx, n_parallel)
        failure = self._ledger.why_estimated(search.case(Trial(stall.asked, n_ctx, n_parallel)))
        if failure is not None and failure.code == BadModel.code:
            raise BadModel(failure.message)
        best = verdict.instead[0] if verdict.instead else verdict.asked
        found = warnings(best, machine, stall.download)
        if failure is not None:
            found.append(f"the numbers are estimates, since llama.cpp could not simulate the load: {failure.message}")
        return FitReply(
            model=stall.named(stall.asked.variant),
            answer=verdict.answer,
            sentence=sentence(stall, verdict, budget),
            asked=_told(verdict.asked, budget),
            instead=[_told(it, budget) for it in verdict.instead],
            machine=machine,
            is_exact=failure is None,
            warnings=found,
            next=next_steps(stall, verdict),
            download=stall.download,
        )

    def _n_ctx(self, wanted: int, stall: Stall, request: FitRequest) -> int:
        most = stall.asked.shape.n_ctx_train
        if request.num_ctx and request.num_ctx > most:
            raise BadRequest(
                f"num_ctx {request.num_ctx} is more than the {most} tokens {stall.name} was trained for; "
                f"ask for {most} or fewer"
            )
        return min(wanted, most)

    async def _machine(self) -> list[Device]:
        """RAM, then every GPU, as they are now."""
        ram = Device(
            device=RAM,
            description="main memory",
            total_bytes=total_ram_bytes(),
            budget_bytes=self._budget_bytes,
            free_bytes=available_ram_bytes(),
        )
        gpus = [
            Device(
                device=it.name,
                description=it.description,
                total_bytes=it.total_bytes,
                budget_bytes=self._config.gpu_budget_bytes(it.total_bytes),
                free_bytes=it.free_bytes,
            )
            for it in await self._ledger.learn_gpus()
        ]
        return [ram, *gpus]

    @asynccontextmanager
    async def _stall(self, request: FitRequest, is_local: bool) -> AsyncIterator[tuple[Stall, Fields | None]]:
        """The model, and what its modelfile says; stand-ins of files last as long as the block."""
        found = self._find(request.model, is_local)
        if isinstance(found, Resolved):
            yield await asyncio.to_thread(Here, self._registry, found), found.model.fields
            return
        hatch = self._hatch(found, request)
        try:
            yield Far(request.model, await hatch.peek(found), hatch), None
        finally:
            for folder in hatch.folders:
                shutil.rmtree(folder, ignore_errors=True)

    def _find(self, name: str, is_local: bool) -> Resolved | Source:
        """The model that is here, else where a pull would get it. Raises as both."""
        if "://" in name or name.startswith("file:"):
            return self._source_of(name, is_local)
        try:
            return self._registry.resolve(name, self._config.default_model)
        except (ModelNotFound, BadRequest) as missing:
            try:
                return self._source_of(name, is_local)
            except ModelNotFound:
                if isinstance(missing, ModelNotFound) and self._registry.has(parse_name(name)):
                    raise missing from None  # the model is here, but has no such variant
                raise

    def _hatch(self, source: Source, request: FitRequest) -> Hatch:
        config = self._config
        settings = load_settings(config, None, request.num_ctx or config.context, 1, request.kv_type or config.kv_type)
        order = FetchOrder(store=str(self._store), source=source, budget_bytes=self._budget_bytes, settings=settings)
        env = {"HF_TOKEN": request.token} if request.token else NO_ENV
        return Hatch(order, self._logs_dir / "fetch.peek.log", env)


def _told(option: Option, budget: Budget) -> FitOption:
    devices = [_share(it, option.need.process_bytes if it.device == RAM else 0) for it in option.need.devices]
    return FitOption(
        variant=option.variant,
        num_ctx=option.n_ctx,
        num_parallel=option.n_parallel,
        kv_type=option.kv_type,
        fits=budget.has_room_for(option.need),
        devices=devices,
    )


def _share(need: DeviceNeed, process_bytes: int) -> DeviceShare:
    return DeviceShare(
        device=need.device,
        weights_bytes=need.weights_bytes,
        kv_bytes=need.kv_bytes,
        compute_bytes=need.compute_bytes,
        process_bytes=process_bytes,
        total_bytes=need.total_bytes + process_bytes,
    )
