"""Beast's verbs, free of HTTP: generate, chat, list, show, ps, unload."""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec

from beastd import ipc
from beastd.config import Config, parse_duration
from beastd.contract import Answer, AnswerRequest, ChatRequest, Final, GenerateRequest, Loading, Message, Options, Piece
from beastd.errors import BadModel, BadRequest, BeastError, Unsupported
from beastd.fleet.memory import auto_parallel
from beastd.fleet.pool import Pool, WorkerStatus
from beastd.fleet.spec import WorkerSpec
from beastd.registry.facts import Facts
from beastd.registry.header import Header
from beastd.registry.modelfile import Fields
from beastd.registry.models import Listing, Model, Resolved, Variant
from beastd.registry.names import ModelName
from beastd.registry.registry import Registry

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

    def __init__(self, registry: Registry, pool: Pool, config: Config, budget_bytes: int) -> None:
        self._registry = registry
        self._pool = pool
        self._config = config
        self._budget_bytes = budget_bytes

    # --- answers ---

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Answer, None]:
        """Answer one prompt. Yields any Loading, then Pieces, then one Final; raises BeastError.

        Close it for certain (``contextlib.aclosing``): an answer that is left half read holds its sequence.
        """
        if request.images:
            raise Unsupported(_NO_IMAGES)
        is_empty = not request.prompt and request.suffix is None and not request.context
        return self._answer(request, None if is_empty else _generate_prompt(request))

    def chat(self, request: ChatRequest) -> AsyncGenerator[Answer, None]:
        """Answer the last message of a chat; as generate."""
        if request.tools:
            raise Unsupported("Beast does not hand tools to models yet; leave tools out")
        if any(message.images for message in request.messages or ()):
            raise Unsupported(_NO_IMAGES)
        return self._answer(request, _chat_prompt(request) if request.messages else None)

    async def _answer(self, request: AnswerRequest, prompt: ipc.Prompt | None) -> AsyncGenerator[Answer, None]:
        start_ns = time.monotonic_ns()
        _check(request)
        resolved = self._registry.resolve(request.model, self._config.default_model)
        keep_alive_s = self._keep_alive_s(request.keep_alive)
        if prompt is None and keep_alive_s == 0:
            await self.unload(resolved.model.name, resolved.name.variant)
            yield Final(reason="unload")
            return
        options = _merged(resolved.model.fields.parameters, request.options)
        spec = await self._spec(resolved, options.num_ctx)
        async with self._pool.lease(spec, keep_alive_s) as lease:
            async for fraction in lease.loading():
                yield Loading(fraction)
            load_ns = int(lease.load_s * 1e9)
            if prompt is None:
                yield Final(
                    reason="load", variant=spec.variant, load_ns=load_ns, total_ns=time.monotonic_ns() - start_ns
                )
                return
            if request.think and not lease.worker.ready.can_think:
                raise Unsupported(
                    f"{resolved.name} does not support thinking: its chat template has none; leave think out"
                )
            async with aclosing(lease.worker.generate(_submit(request, resolved, options, prompt))) as deltas:
                async for delta in deltas:
                    if delta.text or delta.thinking or delta.logprobs:
                        yield Piece(text=delta.text, thinking=delta.thinking, logprobs=delta.logprobs)
                    if delta.final:
                        yield msgspec.structs.replace(
                            delta.final,
                            variant=spec.variant,
                            load_ns=load_ns,
                            total_ns=time.monotonic_ns() - start_ns,
                        )

    async def _spec(self, resolved: Resolved, num_ctx: int | None) -> WorkerSpec:
        """The worker this request needs."""
        config, variant = self._config, resolved.variant
        shape = await asyncio.to_thread(self._registry.shape, variant.files)
        if num_ctx and num_ctx > shape.n_ctx_train:
            raise BadRequest(
                f"num_ctx {num_ctx} is more than the {shape.n_ctx_train} tokens {resolved.name} was trained for; "
                f"ask for {shape.n_ctx_train} or fewer"
            )
        n_ctx = min(num_ctx or config.context, shape.n_ctx_train)
        parallel = config.parallel
        if parallel == "auto":
            parallel = auto_parallel(shape, n_ctx, config.kv_type, self._budget_bytes // 2, most=MOST_PARALLEL)
        return WorkerSpec(
            key=f"{resolved.model.name}@{variant.name}#{variant.digest}#{_crc(resolved.model.fields.template)}",
            name=str(resolved.model.name),
            variant=variant.name,
            paths=tuple(map(str, variant.files)),
            template=resolved.model.fields.template,
            shape=shape,
            settings=ipc.LoadSettings(
                n_ctx=n_ctx,
                n_parallel=parallel,
                n_batch=config.batch,
                n_threads=config.threads,
                n_gpu_layers=config.gpu_layers,
                flash_attn=config.flash_attn,
                kv_type=config.kv_type,
                kv_layout=config.kv_layout,
                mmap=config.mmap,
                step_ms=config.step_ms,
            ),
        )

    def _keep_alive_s(self, value: float | str | None) -> float:
        return self._config.keep_alive_s if value is None else parse_duration(value)

    async def unload(self, model: ModelName, variant: str | None) -> None:
        """Unload the named variant, or every loaded variant of the model."""
        for status in self._pool.snapshot():
            if status.name == str(model) and variant in {None, status.variant}:
                await self._pool.unload(status.key)

    async def unload_all(self) -> bool:
        """Unload every model; False, and nothing is unloaded, when one is in use or loading."""
        workers = self._pool.snapshot()
        if any(status.n_leases or status.state == "loading" for status in workers):
            return False
        for status in workers:
            await self._pool.unload(status.key)
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
        return [Running(status, await self._try_show(status)) for status in self._pool.snapshot()]

    async def _try_show(self, status: WorkerStatus) -> Shown | None:
        try:
            return await self.show(f"{status.name}@{status.variant}")
        except BeastError:
            return None

    @property
    def default_model(self) -> str:
        """The model of a request that names none."""
        return self._config.default_model


MOST_PARALLEL = 8
"""Sequences at once where the configuration says auto: each reserves its whole context."""

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
    )


def _with_defaults(messages: list[Message], fields: Fields) -> list[Message]:
    """The model's own first messages before the request's; its system message only where the request has none."""
    asked, rest = ([messages[0]], messages[1:]) if messages[0].role == "system" else ([], messages)
    own = [Message(role="system", content=fields.system)] if fields.system else []
    return [*(asked or own), *fields.messages, *rest]


def _crc(text: str | None) -> str:
    return f"{zlib.crc32((text or '').encode()):08x}"


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
