"""The two ways to ask a server for a streamed completion, and to read what it answers. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Ask:
    """One request of the load, in no API's words."""

    model: str
    prompt: str
    n_answer: int
    """Tokens the answer shall have."""
    seed: int
    temperature: float
    n_ctx: int | None = None
    """Context the server shall provide, where the API can say so."""
    is_eos_ignored: bool = True
    priority: str | None = None
    """high, normal or low; None leaves it to the server. Only Beast knows it."""


@dataclass(frozen=True, slots=True)
class Event:
    """What one line of a stream says; counts are set on the line that carries them."""

    has_text: bool = False
    n_prompt: int | None = None
    n_answer: int | None = None
    error: str = ""


class Dialect(Protocol):
    """An API for completions."""

    path: str

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON to post to ``path``."""

    def read(self, line: bytes) -> Event | None:
        """What a line of the reply means; None for lines that mean nothing."""


class OllamaDialect:
    """POST /api/generate with a raw prompt: NDJSON."""

    path = "/api/generate"

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request; only Beast knows ``ignore_eos``, others pass over it."""
        options = {"num_predict": ask.n_answer, "temperature": ask.temperature, "seed": ask.seed}
        options |= {"num_ctx": ask.n_ctx} if ask.n_ctx else {}
        options |= {"ignore_eos": True} if ask.is_eos_ignored else {}
        extra = {"priority": ask.priority} if ask.priority else {}
        return {"model": ask.model, "prompt": ask.prompt, "raw": True, "stream": True, "options": options, **extra}

    def read(self, line: bytes) -> Event | None:
        """A piece, the metrics at the end, or an error."""
        value = json.loads(line)
        if "error" in value:
            return Event(error=str(value["error"]))
        if value.get("done"):
            return Event(bool(value.get("response")), value.get("prompt_eval_count"), value.get("eval_count"))
        return Event(has_text=bool(value.get("response") or value.get("thinking")))


class OpenAIDialect:
    """POST /v1/completions: server-sent events."""

    path = "/v1/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        """The request; ``ignore_eos`` is an extension of llama-server and vLLM."""
        extra = {"ignore_eos": True} if ask.is_eos_ignored else {}
        return {
            "model": ask.model,
            "max_tokens": ask.n_answer,
            "temperature": ask.temperature,
            "seed": ask.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self._prompt(ask.prompt),
            **extra,
        }

    def read(self, line: bytes) -> Event | None:
        """A piece, the usage (in a chunk of its own or with the last piece), or an error."""
        if line.startswith((b"{", b"error:")):
            return Event(error=line.decode("utf-8", "replace")[:300])
        if not line.startswith(b"data:"):
            return None
        data = line[5:].strip()
        if data == b"[DONE]":
            return None
        value = json.loads(data)
        if "error" in value:
            return Event(error=str(value["error"]))
        usage = value.get("usage") or {}
        has_text = any(self._text(choice) for choice in value.get("choices") or ())
        return Event(has_text, usage.get("prompt_tokens"), usage.get("completion_tokens"))

    def _prompt(self, text: str) -> dict[str, Any]:
        return {"prompt": text}

    def _text(self, choice: dict[str, Any]) -> str | None:
        return choice.get("text")


class OpenAIChatDialect(OpenAIDialect):
    """POST /v1/chat/completions, for servers without plain completions."""

    path = "/v1/chat/completions"

    def _prompt(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": text}]}

    def _text(self, choice: dict[str, Any]) -> str | None:
        delta = choice.get("delta") or {}
        return delta.get("content") or delta.get("reasoning_content")


DIALECTS: dict[str, type[Dialect]] = {
    "ollama": OllamaDialect,
    "openai": OpenAIDialect,
    "openai-chat": OpenAIChatDialect,
}
