"""Beast's verbs, free of HTTP: generate, chat, list, show, ps, load, unload, pin."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from beastd import ipc
from beastd.clients import ClientRule
from beastd.config import Config, parse_duration
from beastd.contract import (
    Answer,
    AnswerRequest,
    ChatRequest,
    Final,
    GenerateRequest,
    Message,
    Options,
    Piece,
    Waiting,
)
from beastd.errors import BadModel, BadRequest, BeastError, Conflict, ModelNotFound, Unsupported
from beastd.fleet.pool import Pool
from beastd.fleet.status import FleetStatus, WorkerStatus
from beastd.registry.facts import Facts
from beastd.registry.header import Header
from beastd.registry.modelfile import Fields
from beastd.registry.models import Listing, Model, Resolved, Variant
from beastd.registry.names import AdapterName, ModelName, parse_name
from beastd.registry.registry import Registry
from beastd.wants import Wants

_log = logging.getLogger(__name__)

_SAMPLING_FIELDS = frozenset(ipc.Sampling.__struct_fields__)


VariantFacts = dict[str, Facts | BadModel]
"""Variant's name → what its header says, or why that cannot be read; without those that have a problem of their own."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """All models, with the facts of each one's variants."""

    listing: Listing
    facts: dict[ModelName, VariantFacts]


@dataclass(frozen=True, slots=True)
class Shown:
    """Everything `show` tells of a model: its description, and its default or chosen variant's header."""

    resolved: Resolved
    header: Header
    facts: VariantFacts


@dataclass(frozen=True, slots=True)
class Running:
    """A worker, with what it runs; None when the description has gone or changed since."""

    status: WorkerStatus
    shown: Shown | None


class Service:
    """What a client may ask for. Owns nothing but the way from a request to a worker."""

    def __init__(self, registry: Registry, pool: Pool, config: Config, wants: Wants) -> None:
        self._registry = registry
        self._pool = pool
        self._config = config
        self._wants = wants

    # --- answers ---

    def generate(self, request: GenerateRequest, client: str = "") -> AsyncGenerator[Answer, None]:
        """Answer one prompt. Yields any Loading, then Pieces, then one Final; raises BeastError.

        ``client``: who asks (beastd/clients.py has the forms); empty is the daemon itself.
        Close it for certain (``contextlib.aclosing``): an answer that is left half read holds its sequence.
        """
        if request.images:
            raise Unsupported(_NO_IMAGES)
        is_empty = not request.prompt and request.suffix is None and not request.context
        return self._answer(request, None if is_empty else _generate_prompt(request), client)

    def chat(self, request: ChatRequest, client: str = "") -> AsyncGenerator[Answer, None]:
        """Answer the last message of a chat; as generate."""
        if request.tools:
            raise Unsupported("Beast does not hand tools to models yet; leave tools out")
        if any(message.images for message in request.messages or ()):
            raise Unsupported(_NO_IMAGES)
        return self._answer(request, _chat_prompt(request) if request.messages else None, client)

    async def _answer(
        self, request: AnswerRequest, prompt: ipc.Prompt | None, client: str
    ) -> AsyncGenerator[Answer, None]:
        start_ns = time.monotonic_ns()
        _check(request)
        resolved = self._resolve(request)
        keep_alive_s = self._keep_alive_s(request, resolved.model.fields)
        if prompt is None and keep_alive_s == 0:
            await self.unload(resolved.model.name, resolved.name.variant)
            yield Final(reason="unload")
            return
        own = Options(speculative=self._config.speculative)
        options = _merged(_merged(own, resolved.model.fields.parameters), request.options)
        want = await self._wants.of(resolved, options.num_ctx)
        rule = self._config.clients.get(client, ClientRule())
        priority = request.priority or rule.priority
        async with self._pool.lease(want, keep_alive_s, priority) as lease:
            async for news in lease.waiting():
                yield news
            load_ns, variant = int(lease.load_s * 1e9), lease.worker.spec.variant
            if prompt is None:
                yield Final(reason="load", variant=variant, load_ns=load_ns, total_ns=time.monotonic_ns() - start_ns)
                return
            if request.think and not lease.worker.ready.can_think:
                raise Unsupported(
                    f"{resolved.name} does not support thinking: its chat template has none; leave think out"
                )
            submit = _submit(request, resolved, options, prompt)
            submit = msgspec.structs.replace(submit, priority=priority, client=client, weight=rule.weight)
            async with aclosing(lease.worker.generate(submit)) as deltas:
                async for delta in deltas:
                    if delta.n_ahead is not None:
                        yield Waiting(delta.n_ahead + 1, f"one of {resolved.model.name}'s sequences to be free")
                    if delta.text or delta.thinking or delta.logprobs:
                        yield Piece(text=delta.text, thinking=delta.thinking, logprobs=delta.logprobs)
                    if delta.final:
                        yield msgspec.structs.replace(
                            delta.final,
                            load_ns=load_ns,
                            total_ns=time.monotonic_ns() - start_ns,
                        )

    def _resolve(self, request: AnswerRequest) -> Resolved:
        asked = request.adapters
        adapters = None if asked is None else [AdapterName(it.name, it.scale) for it in asked]
        return self._resolve_name(request.model, adapters)

    def _resolve_name(self, name: str, adapters: Sequence[AdapterName] | None = None) -> Resolved:
        """As the registry does; the pool hears whether the description, as it is now, pins the model."""
        resolved = self._registry.resolve(name, self._config.default_model, adapters)
        self._pool.on_described(str(resolved.model.name), is_pinned=resolved.model.fields.pinned)
        return resolved

    def _keep_alive_s(self, request: AnswerRequest, fields: Fields) -> float:
        given = (request.keep_alive, fields.keep_alive, self._config.keep_alive)
        return parse_duration(next(value for value in given if value is not None))

    async def preload(self, names: Sequence[str]) -> None:
        """Load these models one after another; one that fails is told in the log, and hinders no other."""
        for name in names:
            try:
                async for _ in self.generate(GenerateRequest(model=name)):
                    pass
            except BeastError as error:
                _log.warning("cannot preload %s: %s", name, error.message)

    async def pin(self, name: str, *, is_pinned: bool) -> str:
        """Have a model, or the variant that is named, never leave memory once it is loaded; or let it. Its full name.

        Raises ModelNotFound or BadModel for a model that cannot be used, unless it was pinned and is to be let go;
        Conflict where its modelfile or the configuration pins it.
        """
        try:
            resolved = self._resolve_name(name)
        except (ModelNotFound, BadModel):
            whole = self._registry.with_hub_tag(parse_name(name)).whole
            if is_pinned or whole.lower() not in self._pool.snapshot().pins:
                raise
            self._pool.pin(whole, is_pinned=False)  # it went, or broke, after it was pinned
            return whole
        if not is_pinned and resolved.model.fields.pinned:
            raise Conflict(f"{resolved.model.name} is pinned by its modelfile: `beast edit` takes `pinned` out there")
        self._pool.pin(resolved.name.whole, is_pinned=is_pinned)
        return resolved.name.whole

    async def unload(self, model: ModelName, variant: str | None, *, even_pinned: bool = False) -> None:
        """Unload the named variant, or every loaded variant of the model. Raises Conflict for a pinned one."""
        for status in self._pool.snapshot().workers:
            if status.name == str(model) and variant in {None, status.variant}:
                await self._pool.unload(status.id, even_pinned=even_pinned)

    async def unload_all(self) -> bool:
        """Unload every model; False, and nothing is unloaded, when one is in use, loading or changing."""
        workers = self._pool.snapshot().workers
        if any(status.n_leases or status.state in {"loading", "changing"} for status in workers):
            return False
        for status in workers:
            await self._pool.unload(status.id, even_pinned=True)
        return True

    # --- models ---

    async def list(self) -> Shelf:
        """Every model there is, what is known of their files, and the descriptions that cannot be read."""
        return await asyncio.to_thread(self._list)

    def _list(self) -> Shelf:
        listing = self._registry.list()
        facts = {model.name: self._facts(model) for model in listing.models}
        self._registry.save_facts()
        return Shelf(listing, facts)

    def _facts(self, model: Model) -> VariantFacts:
        found: VariantFacts = {}
        for variant in model.variants.values():
            if variant.problem is None:
                try:
                    found[variant.name] = self._registry.facts(variant.files)
                except BadModel as error:
                    found[variant.name] = error
        return found

    async def header(self, variant: Variant) -> Header:
        """A variant's GGUF header. Raises BadModel."""
        return await asyncio.to_thread(self._registry.header, variant.files)

    async def show(self, name: str) -> Shown:
        """One model's description and header. Raises ModelNotFound, BadModel."""
        resolved = self._registry.resolve(name, self._config.default_model)
        facts = await asyncio.to_thread(self._facts, resolved.model)
        return Shown(resolved, await self.header(resolved.variant), facts)

    async def ps(self) -> Sequence[Running]:
        """What is loaded, loading or stopping."""
        return [Running(status, await self._try_show(status)) for status in self._pool.snapshot().workers]

    def fleet(self) -> FleetStatus:
        """Everything about the fleet: workers, who waits and for what, and what was decided of late."""
        return self._pool.snapshot()

    async def _try_show(self, status: WorkerStatus) -> Shown | None:
        try:
            return await self.show(f"{status.name}@{status.variant}")
        except BeastError:
            return None

    @property
    def default_model(self) -> str:
        """The model of a request that names none."""
        return self._config.default_model


_NO_IMAGES = "Beast does not read images yet; leave images out"


def _check(request: AnswerRequest) -> None:
    """Refuse what is understood but cannot be honoured."""
    if request.shift:
        raise Unsupported("Beast never shifts the context: an answer that reaches the limit ends; leave shift out")
    if request.top_logprobs is not None and not request.logprobs:
        raise BadRequest("top_logprobs needs logprobs to be true")


def _generate_prompt(request: GenerateRequest) -> ipc.Prompt:
    text = request.prompt or ""
    if request.suffix is not None:
        _refuse_beside("suffix", request, ("system", "template", "context", "raw", "think"))
        return ipc.Prompt(raw=text, suffix=request.suffix)
    if request.raw:
        _refuse_beside("raw", request, ("system", "template", "think"))
        return ipc.Prompt(raw=text, context=request.context or [])
    messages = [Message(role="system", content=request.system)] if request.system else []
    messages.append(Message(role="user", content=text))
    return ipc.Prompt(messages=messages, template=request.template, context=request.context or [], think=request.think)


def _refuse_beside(field: str, request: GenerateRequest, others: Sequence[str]) -> None:
    """Refuse fields that would have no effect."""
    given = [name for name in others if getattr(request, name)]
    if given:
        raise BadRequest(f"{field} takes the prompt as it is, with no chat template; leave {', '.join(given)} out")


def _chat_prompt(request: ChatRequest) -> ipc.Prompt:
    return ipc.Prompt(messages=list(request.messages or ()), think=request.think)


def _submit(request: AnswerRequest, resolved: Resolved, options: Options, prompt: ipc.Prompt) -> ipc.Submit:
    if prompt.messages:
        messages = _with_defaults(prompt.messages, resolved.model.fields)
        prompt = msgspec.structs.replace(prompt, messages=messages)
    return ipc.Submit(
        id=0,
        prompt=prompt,
        sampling=_sampling(options),
        adapters=resolved.adapters,
        format=request.format,
        truncate=bool(request.truncate),
        n_ctx=options.num_ctx,
        top_logprobs=(request.top_logprobs or 0) if request.logprobs else None,
        insists_on_drafter=request.options is not None and request.options.speculative == "draft",
    )


def _with_defaults(messages: list[Message], fields: Fields) -> list[Message]:
    """The model's own first messages before the request's; its system message only where the request has none."""
    asked, rest = ([messages[0]], messages[1:]) if messages[0].role == "system" else ([], messages)
    own = [Message(role="system", content=fields.system)] if fields.system else []
    return [*(asked or own), *fields.messages, *rest]


def _merged(defaults: Options, asked: Options | None) -> Options:
    """The request's options over the model's parameters."""
    if asked is None:
        return defaults
    given = {name: value for name, value in msgspec.structs.asdict(asked).items() if value is not None}
    return msgspec.structs.replace(defaults, **given)


def _sampling(options: Options) -> ipc.Sampling:
    """Options with Beast's defaults filled in."""
    given = {
        name: value
        for name, value in msgspec.structs.asdict(options).items()
        if value is not None and name in _SAMPLING_FIELDS
    }
    if isinstance(given.get("stop"), str):
        given["stop"] = [given["stop"]]
    return ipc.Sampling(**given)
