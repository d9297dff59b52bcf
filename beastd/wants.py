"""What workers a request can be answered by: its model's variants, with their settings and exact needs of memory."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec

from beastd import ipc
from beastd.config import Config
from beastd.contract import RAM, MemoryNeed, ModelShape, Speculative
from beastd.errors import BadRequest
from beastd.fit.ledger import Case, Ledger
from beastd.fit.settings import load_settings, parallel_of
from beastd.fleet.footprint import Footprint
from beastd.fleet.spec import Want, WorkerSpec
from beastd.registry.models import Model, Resolved, Variant
from beastd.registry.registry import Registry

MOST_DRAFT = 0.2
"""Of the model's bytes: a step of a draft model takes such a part of one of the model's, and there are several."""
DRAFT_BYTES = 16 * 2**20
"""What a second model takes besides its buffers: its vocabulary, graphs."""
N_ROLLBACK = 4
"""Tokens that recurrent states can take back, which bounds drafts: each is a copy of a sequence's state."""


@dataclass(frozen=True, slots=True)
class Wants:
    """Makes them."""

    registry: Registry
    ledger: Ledger
    config: Config
    budget_bytes: int
    """Main memory that all models may take, for the number of parallel sequences."""
    loaded: Callable[[Sequence[str], int], Want | None]
    """What asks for a worker that is there: by its variants' keys, and with so much context (``Pool.loaded``)."""

    async def of(self, resolved: Resolved, num_ctx: int | None) -> Want:
        """What can answer a request for this name with so much context.

        One variant where the name insists on it or the quality is fixed; else the model's smaller ones as well.
        Raises BadRequest for more context than the model was trained for.
        """
        model = resolved.model
        top = await self._shape(resolved.variant)
        draft = self._draft(model)
        settings = self._settings(model, top, self._n_ctx(resolved, top, num_ctx))
        settings = settings if draft else self._with_head(settings, model, top)
        rungs = [resolved.variant]
        if resolved.name.variant is None and self.is_adaptive(model):
            rungs += await asyncio.to_thread(self._smaller, model, resolved.variant, top)
        keys = [_key(model, it, settings, draft) for it in rungs]
        return self.loaded(keys, settings.n_ctx) or await self._measured(model, rungs, draft, settings)

    async def _measured(
        self, model: Model, rungs: list[Variant], draft: Variant | None, settings: ipc.LoadSettings
    ) -> Want:
        """The want with what each variant takes, simulated if it is not known: a good part of a second."""
        cases = [
            Case(it.digest, tuple(map(str, it.files)), f"{model.name} ({it.name})", await self._shape(it), settings)
            for it in (*rungs, *filter(None, (draft,)))
        ]
        needs = await self.ledger.needs(cases)
        specs = [self._spec(model, it, draft, settings, need) for it, need in zip(rungs, needs, strict=False)]
        return Want(tuple(_with_draft(spec, draft, needs[-1]) if draft else spec for spec in specs))

    def _draft(self, model: Model) -> Variant | None:
        """The draft model that is loaded beside: where it is asked for, or so small that it may pay by itself."""
        mode, draft = self._mode(model), model.draft
        if draft is None or draft.problem or mode in {"off", "ngram"}:
            return None
        return draft if mode == "draft" or draft.size_bytes <= MOST_DRAFT * model.default.size_bytes else None

    def _with_head(self, settings: ipc.LoadSettings, model: Model, shape: ModelShape) -> ipc.LoadSettings:
        """The same with the model's own head, if it has one and may draft.

        States that take tokens back are several times as large: only who asks for drafts gets them.
        """
        mode = self._mode(model)
        if not shape.has_head or mode in {"off", "ngram"} or (shape.is_recurrent and mode != "draft"):
            return settings
        return msgspec.structs.replace(settings, mtp=True, n_rollback=N_ROLLBACK if shape.is_recurrent else 0)

    def _mode(self, model: Model) -> Speculative:
        return model.fields.parameters.speculative or self.config.speculative

    def is_adaptive(self, model: Model) -> bool:
        """Whether it may run in a smaller variant when memory is short."""
        return (model.fields.quality or self.config.quality) == "adaptive"

    async def _shape(self, variant: Variant) -> ModelShape:
        return await asyncio.to_thread(self.registry.shape, variant.files)

    def _smaller(self, model: Model, best: Variant, shape: ModelShape) -> list[Variant]:
        """The usable variants smaller than the best, largest first. Blocks."""
        found = [it for it in model.variants.values() if not it.problem and it.size_bytes < best.size_bytes]
        same = [it for it in found if self.registry.shape(it.files).is_same_model(shape)]
        return sorted(same, key=lambda it: -it.size_bytes)

    def _n_ctx(self, resolved: Resolved, shape: ModelShape, num_ctx: int | None) -> int:
        if num_ctx and num_ctx > shape.n_ctx_train:
            raise BadRequest(
                f"num_ctx {num_ctx} is more than the {shape.n_ctx_train} tokens {resolved.name} was trained for; "
                f"ask for {shape.n_ctx_train} or fewer"
            )
        return min(num_ctx or self.config.context, shape.n_ctx_train)

    def _settings(self, model: Model, shape: ModelShape, n_ctx: int) -> ipc.LoadSettings:
        kv_type = model.fields.kv_type or self.config.kv_type
        n_parallel = parallel_of(self.config, shape, n_ctx, kv_type, self.budget_bytes)
        return load_settings(self.config, shape, n_ctx, n_parallel, kv_type)

    def _spec(
        self, model: Model, variant: Variant, draft: Variant | None, settings: ipc.LoadSettings, need: MemoryNeed
    ) -> WorkerSpec:
        return WorkerSpec(
            key=_key(model, variant, settings, draft),
            name=str(model.name),
            variant=variant.name,
            paths=tuple(map(str, variant.files)),
            template=model.fields.template,
            settings=settings,
            weights=Footprint({it.device: it.weights_bytes for it in need.devices}),
            working=Footprint({it.device: it.kv_bytes + it.compute_bytes for it in need.devices}),
            process=Footprint({RAM: need.process_bytes}),
            digest=variant.digest,
            is_exact=need.is_exact,
            has_auto_parallel=self.config.parallel == "auto",
        )


def _with_draft(spec: WorkerSpec, draft: Variant, need: MemoryNeed) -> WorkerSpec:
    """The same with a draft model in its process."""
    return replace(
        spec,
        draft=str(draft.files[0]),
        weights=spec.weights + Footprint({it.device: it.weights_bytes for it in need.devices}),
        working=spec.working + Footprint({it.device: it.kv_bytes + it.compute_bytes for it in need.devices}),
        process=spec.process + Footprint({RAM: DRAFT_BYTES}),
    )


def _key(model: Model, variant: Variant, settings: ipc.LoadSettings, draft: Variant | None) -> str:
    """Identity of a variant's worker: its name and content, and what else makes it another worker."""
    beside = f"\0{draft.digest}" if draft else "\0mtp" if settings.mtp else ""
    loaded_as = zlib.crc32(f"{model.fields.template or ''}\0{settings.kv_type}{beside}".encode())
    return f"{model.name}@{variant.name}#{variant.digest}#{loaded_as:08x}"
