"""Ollama's native API: /api/*, field for field (``api/types.go``, ``server/routes.go``)."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import msgspec
from aiohttp import web

from beastd import __version__
from beastd.api.client import client_of
from beastd.api.decode import body
from beastd.api.stream import json_response, ndjson
from beastd.contract import Answer, AnswerRequest, ChatRequest, Final, GenerateRequest, Loading, Logprob, Piece, Waiting
from beastd.errors import BadModel
from beastd.registry.facts import Facts, facts_of
from beastd.registry.header import Header, Omitted
from beastd.registry.models import Model, Variant
from beastd.service import Running, Service, VariantFacts

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)

_FOR_EVER = timedelta(days=365 * 100)
"""Ollama's clients want a date even for a model that never expires."""


class ShowRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/show."""

    model: str = ""
    name: str = ""
    """Ollama's older name of ``model``."""
    verbose: bool = False
    """Tell the tensors, too."""
    system: Literal[""] = ""
    """Ollama's clients send these three empty."""
    template: Literal[""] = ""
    options: None = None


class PinRequest(msgspec.Struct, forbid_unknown_fields=True):
    """POST /api/pin."""

    model: str
    pinned: bool = True


async def generate(request: web.Request) -> web.StreamResponse:
    """POST /api/generate."""
    asked = await body(request, GenerateRequest)
    return await _reply(request, asked, request.app[SERVICE].generate(asked, client_of(request)), "response")


async def chat(request: web.Request) -> web.StreamResponse:
    """POST /api/chat."""
    asked = await body(request, ChatRequest)
    return await _reply(request, asked, request.app[SERVICE].chat(asked, client_of(request)), "message")


async def tags(request: web.Request) -> web.Response:
    """GET /api/tags."""
    shelf = await request.app[SERVICE].list()
    models = [_tag(model, shelf.facts[model.name]) for model in shelf.listing.models]
    problems = [{"path": str(problem.path), "error": problem.message} for problem in shelf.listing.problems]
    return json_response({"models": models, "problems": problems})


async def show(request: web.Request) -> web.Response:
    """POST /api/show."""
    asked = await body(request, ShowRequest)
    shown = await request.app[SERVICE].show(asked.model or asked.name)
    model, header = shown.resolved.model, shown.header
    return json_response(
        {
            "license": model.fields.license or "",
            "modelfile": model.description.text,
            "parameters": _parameters(model),
            "template": model.fields.template or header.chat_template or "",
            "system": model.fields.system or "",
            "details": _details(facts_of(header)),
            "model_info": {key: _shown(value) for key, value in header.metadata.items()},
            "tensors": [{"name": it.name, "type": it.type.name, "shape": it.shape} for it in header.tensors]
            if asked.verbose
            else None,
            "capabilities": _capabilities(model, header),
            "modified_at": _time(model.modified_at),
            "description": model.fields.description or "",
            "variant": shown.resolved.variant.name,
            "origin": model.fields.origin or "",
            "messages": model.fields.messages,
            "draft": _name(model.description.draft),
            "projector": _name(model.description.projector),
            "path": str(model.place.path),
            "builtin": model.is_builtin,
            "digest": model.digest,
            **_files(model, shown.facts),
        }
    )


async def ps(request: web.Request) -> web.Response:
    """GET /api/ps."""
    service = request.app[SERVICE]
    models = [_process(running) for running in await service.ps()]
    return json_response({"models": models, "waiting": service.fleet().line})


async def fleet(request: web.Request) -> web.Response:
    """GET /api/fleet: what ps tells and why: the budget, who waits for what, what was decided of late."""
    return json_response(request.app[SERVICE].fleet())


async def pin(request: web.Request) -> web.Response:
    """POST /api/pin: a model, or the variant that is named, never leaves memory once it is loaded, or may again."""
    asked = await body(request, PinRequest)
    name = await request.app[SERVICE].pin(asked.model, is_pinned=asked.pinned)
    return json_response({"model": name, "pinned": asked.pinned})


async def version(_request: web.Request) -> web.Response:
    """GET /api/version."""
    return json_response({"version": __version__})


# --- answers ---


async def _reply(
    request: web.Request, asked: AnswerRequest, answer: AsyncGenerator[Answer, None], field: str
) -> web.StreamResponse:
    asked.model = request["model"] = asked.model or request.app[SERVICE].default_model
    # A client can leave while a line is being written, when no generator is there to hear of it.
    async with aclosing(answer):
        noted = _noted(request, answer)
        if asked.stream is False:
            return json_response(await _whole(asked, noted, field))
        return await ndjson(request, _lines(asked, noted, field))


async def _noted(request: web.Request, answer: AsyncIterator[Answer]) -> AsyncIterator[Answer]:
    """The answer, with what the log line needs noted on the request."""
    async for part in answer:
        if isinstance(part, Final):
            request["final"] = part
        elif isinstance(part, Piece) and "first_s" not in request:
            request["first_s"] = time.monotonic()
        yield part


async def _lines(asked: AnswerRequest, answer: AsyncIterator[Answer], field: str) -> AsyncIterator[dict[str, Any]]:
    async for part in answer:
        if isinstance(part, Loading):
            yield _line(asked, field, "", "", None) | {"status": "loading", "load_progress": round(part.fraction, 3)}
        elif isinstance(part, Waiting):
            waiting = {"status": "waiting", "queue_position": part.position, "waiting_for": part.reason}
            yield _line(asked, field, "", "", None) | waiting
        elif isinstance(part, Piece):
            yield _line(asked, field, part.text, part.thinking, part.logprobs)
        else:
            yield _line(asked, field, "", "", None) | _ending(part, field)


async def _whole(asked: AnswerRequest, answer: AsyncIterator[Answer], field: str) -> dict[str, Any]:
    """The answer as one object."""
    text, thinking, logprobs = [], [], []
    ending: dict[str, Any] = {}
    async for part in answer:
        if isinstance(part, Piece):
            text.append(part.text)
            thinking.append(part.thinking)
            logprobs += part.logprobs or []
        elif isinstance(part, Final):
            ending = _ending(part, field)
    return _line(asked, field, "".join(text), "".join(thinking), logprobs or None) | ending


def _line(asked: AnswerRequest, field: str, text: str, thinking: str, logprobs: list[Logprob] | None) -> dict[str, Any]:
    line: dict[str, Any] = {"model": asked.model, "created_at": _time(datetime.now(UTC))}
    thoughts = {"thinking": thinking} if thinking else {}
    if field == "message":
        line["message"] = {"role": "assistant", "content": text, **thoughts}
    else:
        line |= {"response": text, **thoughts}
    if logprobs:
        line["logprobs"] = logprobs
    line["done"] = False
    return line


def _ending(final: Final, field: str) -> dict[str, Any]:
    """Ollama's last line; Beast adds the variant, the context's size and what was dropped from the prompt."""
    ending: dict[str, Any] = {"done": True, "done_reason": final.reason}
    if final.reason == "unload":
        return ending
    ending |= {"total_duration": final.total_ns, "load_duration": final.load_ns, "variant": final.variant}
    if final.variants:
        ending["variants"] = final.variants
    if final.reason == "load":
        return ending
    ending |= {
        "prompt_eval_count": final.n_prompt,
        "prompt_eval_cached_count": final.n_cached,
        "prompt_eval_duration": final.prompt_ns,
        "eval_count": final.n_answer,
        "draft_count": final.n_drafted,
        "draft_accepted_count": final.n_accepted,
        "eval_duration": final.answer_ns,
        "n_ctx": final.n_ctx,
        "truncated": final.n_dropped_tokens > 0,
    }
    if final.n_dropped_tokens:
        ending |= {"dropped_messages": final.n_dropped_messages, "dropped_tokens": final.n_dropped_tokens}
    if field == "response":
        ending["context"] = final.context
    return ending


# --- models ---


def _tag(model: Model, facts: VariantFacts) -> dict[str, Any]:
    known = facts.get(model.default.name)
    return {
        "name": str(model.name),
        "model": str(model.name),
        "modified_at": _time(model.modified_at),
        "size": model.default.size_bytes,
        "digest": model.digest,
        "details": _details(known) if isinstance(known, Facts) else {"format": "gguf"},
        "builtin": model.is_builtin,
        "description": model.fields.description or "",
        **_files(model, facts),
    }


def _files(model: Model, facts: VariantFacts) -> dict[str, Any]:
    return {
        "variants": [_variant(model, variant, facts.get(variant.name)) for variant in model.variants.values()],
        "adapters": [
            {"name": name, "scale": it.scale, "applied": it.is_applied} for name, it in model.adapters.items()
        ],
        "problems": list(model.problems),
    }


def _variant(model: Model, variant: Variant, facts: Facts | BadModel | None) -> dict[str, Any]:
    told: dict[str, Any] = {"name": variant.name, "size": variant.size_bytes, "is_default": variant is model.default}
    if isinstance(facts, Facts):
        return told | {"quantization": facts.quantization, "bits_per_weight": facts.bits_per_weight}
    return told | {"problem": facts.message if facts else variant.problem}


def _details(facts: Facts) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": "gguf",
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": _count(facts.n_params),
        "quantization_level": facts.quantization,
        "context_length": facts.n_ctx_train,
    }


def _count(n: int) -> str:
    return f"{n / 1e9:.1f}B" if n >= 1e9 else f"{n / 1e6:.2f}M"


def _parameters(model: Model) -> str:
    """One ``name value`` a line, as Ollama prints a Modelfile's parameters; texts are quoted."""
    parameters = msgspec.structs.asdict(model.fields.parameters)
    given = {name: value for name, value in parameters.items() if value is not None}
    items = [(name, item) for name, value in given.items() for item in (value if isinstance(value, list) else [value])]
    return "\n".join(f"{name:<30} {json.dumps(item)}" for name, item in items)


def _capabilities(model: Model, header: Header) -> list[str]:
    template = model.fields.template or header.chat_template or ""
    found = ["completion"]
    if any(f"tokenizer.ggml.{name}_token_id" in header.metadata for name in ("fim_pre", "prefix")):
        found.append("insert")
    if "<think>" in template or "enable_thinking" in template:
        found.append("thinking")
    return found


def _process(running: Running) -> dict[str, Any]:
    status, shown = running.status, running.shown
    return {
        "name": status.name,
        "model": status.name,
        "size": status.n_bytes,
        "digest": shown.resolved.model.digest if shown else "",
        "details": _details(facts_of(shown.header)) if shown else {"format": "gguf"},
        "expires_at": _time(status.expires_at or datetime.now(UTC) + _FOR_EVER),
        "size_vram": status.gpu_bytes,
        "context_length": status.n_ctx,
        "variant": status.variant,
        "state": status.state,
        "n_leases": status.n_leases,
        "n_parallel": status.n_parallel,
        "pid": status.pid,
        "load_s": round(status.load_s, 3),
        "kv_type": status.kv_type,
        "n_waiting": status.n_waiting,
        "is_pinned": status.is_pinned,
        "best_variant": status.best_variant,
        "becomes": status.becomes,
    }


def _name(path: Path | None) -> str | None:
    return str(path) if path else None


def _shown(value: object) -> object:
    """A metadata value, null for arrays and texts too large to keep (as Ollama shows them)."""
    return None if isinstance(value, Omitted) else value


def _time(when: datetime) -> str:
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
