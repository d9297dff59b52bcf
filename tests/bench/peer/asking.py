"""One request in no API's words, and how each server is asked it and its answer read. Same tokens for all of them."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from beastctl.bench.prompts import WORDS
from beastctl.bench.stats import Timeline

MODEL = "peer"
"""The name of the measured model at Beast's."""


def words(random: Random, n: int) -> str:
    """``n`` random words, each a token of its own in every vocabulary measured here, as the replies' counts show."""
    return "".join(f" {word}" for word in random.choices(WORDS, k=n))


@dataclass(frozen=True, slots=True)
class Ask:
    """A raw prompt: ``history``, then ``text``. The answer has ``n_answer`` tokens, unless the model may end it."""

    text: str
    n_answer: int
    history: Sequence[int | str] = ()
    """Token ids and texts, as the server's last answer told them."""
    temperature: float = 0.8
    """Greedy answers of random weights repeat one word, which no real answer does."""
    seed: int = 1
    ignore_eos: bool = True
    priority: str | None = None
    """Beast's alone, as is ``speculative``."""
    speculative: str = "off"
    """off, ngram or draft. Off but where it is measured: others do without by default, and random weights repeat."""


@dataclass(slots=True)
class Answer(Timeline):
    """What came, and when."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    """Ids that the reply told."""
    n_cached: int = 0
    final: dict[str, Any] = field(default_factory=dict)
    """The last line."""

    def take_text(self, text: str, now_s: float) -> None:
        """A piece; an empty one is none."""
        if text:
            self.stamps_s.append(now_s)
            self.text += text


class Api(Protocol):
    """How a server is spoken to."""

    path: str

    def body(self, ask: Ask) -> dict[str, Any]:
        """The JSON to post."""

    def take(self, line: bytes, now_s: float, answer: Answer) -> None:
        """Note what a line of the reply says."""

    def history(self, asked: Ask, answer: Answer) -> list[int | str]:
        """Of the chat's next turn."""


class BeastApi:
    """POST /api/generate, raw."""

    path = "/api/generate"

    def __init__(self, *, knows_speculation: bool) -> None:
        self._knows_speculation = knows_speculation

    def body(self, ask: Ask) -> dict[str, Any]:
        options: dict[str, Any] = {"num_predict": ask.n_answer, "ignore_eos": ask.ignore_eos, "repeat_penalty": 1.0}
        options |= {"temperature": ask.temperature, "seed": ask.seed, "top_k": 40, "top_p": 0.9, "min_p": 0.0}
        if self._knows_speculation or ask.speculative != "off":
            options["speculative"] = ask.speculative
        body = {"model": MODEL, "prompt": ask.text, "raw": True, "options": options}
        body |= {"context": list(ask.history)} if ask.history else {}
        return body | ({"priority": ask.priority} if ask.priority else {})

    def take(self, line: bytes, now_s: float, answer: Answer) -> None:
        if not line:
            return
        said = json.loads(line)
        if "error" in said:
            answer.error = str(said["error"])
            return
        answer.take_text(said.get("response", ""), now_s)
        if said.get("done"):
            answer.final = said
            answer.n_prompt, answer.n_answer = said["prompt_eval_count"], said["eval_count"]
            answer.n_cached = said.get("prompt_eval_cached_count", 0)
            answer.tokens = said.get("context", [])

    def history(self, asked: Ask, answer: Answer) -> list[int | str]:
        return [*answer.tokens]


class LlamaApi:
    """POST /completion of llama-server. Its answer's ids come with the pieces."""

    path = "/completion"

    def body(self, ask: Ask) -> dict[str, Any]:
        prompt = [*ask.history, ask.text] if ask.history else ask.text
        body = {"prompt": prompt, "n_predict": ask.n_answer, "ignore_eos": ask.ignore_eos}
        sampling = {"temperature": ask.temperature, "seed": ask.seed, "top_k": 40, "top_p": 0.9, "min_p": 0.0}
        return body | sampling | {"stream": True, "return_tokens": True}

    def take(self, line: bytes, now_s: float, answer: Answer) -> None:
        if line.startswith((b"{", b"error")):
            answer.error = line.decode("utf-8", "replace")[:300]
        if not line.startswith(b"data: {"):
            return
        said = json.loads(line[6:])
        answer.take_text(said.get("content", ""), now_s)
        answer.tokens += said.get("tokens", ())
        if said.get("stop"):
            answer.final = said
            answer.n_prompt, answer.n_answer = said["tokens_evaluated"], said["tokens_predicted"]
            answer.n_cached = said.get("timings", {}).get("cache_n", 0)

    def history(self, asked: Ask, answer: Answer) -> list[int | str]:
        return [*asked.history, asked.text, *answer.tokens]


class PythonApi:
    """POST /v1/completions of llama-cpp-python's server, which knows no ignore_eos, but ``min_tokens``."""

    path = "/v1/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        length = {"max_tokens": ask.n_answer, "min_tokens": ask.n_answer}
        return {"prompt": ask.text, "stream": True, "temperature": ask.temperature, "seed": ask.seed, **length}

    def take(self, line: bytes, now_s: float, answer: Answer) -> None:
        if line.startswith((b"{", b"Internal", b'data: {"error')):
            answer.error = line.decode("utf-8", "replace")[:300]
        elif line.startswith(b"data: {"):
            answer.take_text(json.loads(line[6:])["choices"][0]["text"], now_s)

    def history(self, asked: Ask, answer: Answer) -> list[int | str]:
        return [*asked.history, asked.text, answer.text]


def begun() -> Answer:
    """An answer asked for now."""
    return Answer(sent_s=time.perf_counter())
