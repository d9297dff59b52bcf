"""Messages between the daemon and a worker process, and how they are framed.

One JSON object a line, over a socketpair the worker inherits. The daemon speaks first (``Load``). The end of
the stream, from either side, ends the other's work: a worker whose daemon is gone exits.
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from beastd.contract import Final, Logprob, Message, Priority, Speculative

MAX_FRAME_BYTES = 64 * 2**20
"""A longer line is a protocol error; the HTTP body limit keeps requests far below it."""


class LoadSettings(Struct, frozen=True, kw_only=True):
    """How a worker loads its base model. Workers with different settings are different workers."""

    n_ctx: int = 4096
    """Tokens one sequence may hold."""
    n_parallel: int = 1
    """Sequences of n_ctx tokens that the KV cache has room for."""
    n_sequences: int = 0
    """Most sequences that run at once in a unified cache: more, since most are shorter or share a prefix, or fewer;
    0: n_parallel."""
    n_batch: int = 2048
    n_ubatch: int = 512
    n_threads: int = 0
    """0: physical cores."""
    n_gpu_layers: int = -1
    """-1: all, where the build has a GPU."""
    flash_attn: str = "auto"
    """auto, on, off."""
    kv_type: str = "f16"
    kv_layout: str = "partitioned"
    """partitioned or unified (docs/performance.md has the measurements)."""
    mmap: bool = True
    n_rollback: int = 0
    """Tokens that recurrent states can take back, where llama.cpp knows how: as many states more for each sequence."""
    mtp: bool = False
    """Load the heads that predict further tokens, where the model has them."""
    step_ms: int = 300
    """Target for the longest step while others stream, in milliseconds: bounds prefill chunks."""
    policy: str = "mix"
    """Which sequences go first: a name of engine.policies.ORDERS."""

    @property
    def n_at_once(self) -> int:
        """Most sequences that run at once."""
        return self.n_sequences or self.n_parallel


class KvTiers(Struct, frozen=True, kw_only=True):
    """Where KV of prefixes that left the cache goes."""

    folder: str
    """Of the disk tier, shared by all workers."""
    memory_bytes: int
    """Most that the tier in the worker's memory may hold; 0: there is none."""
    disk_bytes: int
    """Most that all files in the folder may take together; 0: there is no such tier."""


class Adapter(Struct, frozen=True):
    """A LoRA adapter file and its scale."""

    path: str
    scale: float = 1.0


class Sampling(Struct, frozen=True, kw_only=True):
    """Sampling with every default filled in; see contract.Options for meanings."""

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: list[str] = msgspec.field(default_factory=lambda: ["\n", ":", '"', "*"])
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: dict[str, float] = msgspec.field(default_factory=dict)
    seed: int = -1
    num_predict: int = -1
    stop: list[str] = msgspec.field(default_factory=list)
    ignore_eos: bool = False
    speculative: Speculative = "auto"


class Prompt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Either messages for the chat template, or text as it is (``raw``)."""

    messages: list[Message] = msgspec.field(default_factory=list)
    raw: str | None = None
    template: str | None = None
    """Instead of the model's own."""
    context: list[int] = msgspec.field(default_factory=list)
    """Token ids put before the rest."""
    suffix: str | None = None
    """Fill in the middle: raw is what comes before the hole, suffix what comes after."""
    think: bool | str | None = None


# --- daemon → worker ---


class Load(Struct, frozen=True, tag="load", kw_only=True):
    """First frame: what to load."""

    paths: list[str]
    """The model's file, or all its shards in order."""
    label: str
    """What messages call it."""
    variant: str = ""
    """The quantization, as answers name it."""
    template: str | None = None
    """Chat template instead of the file's own."""
    digest: str = ""
    """Of the model file: KV computed with one file is worthless to another."""
    tiers: KvTiers | None = None
    draft: str | None = None
    """A small model of the same vocabulary that proposes tokens."""
    settings: LoadSettings


class Reshape(Struct, frozen=True, tag="reshape", kw_only=True):
    """Become this in place: another variant of the same model, another context size, asleep or awake.

    Running sequences are carried over with their KV state and go on; the worker answers with Reshaped.
    """

    load: Load
    is_asleep: bool = False
    """Give back the KV cache and the compute buffers and keep the weights. Only a worker without requests is told so,
    and it is sent none until it has been told to wake."""


class Ping(Struct, frozen=True, tag="ping"):
    """Say Pong between two steps: a loop that does not is taken for hung."""


class Leave(Struct, frozen=True, tag="leave"):
    """Save what KV is worth keeping to the disk tier, then exit. Only a worker without requests is told so."""


class ClearCache(Struct, frozen=True, tag="clear_cache"):
    """Forget the KV that is kept for later prompts, files included; sequences go on."""


class Detach(Struct, frozen=True, tag="detach"):
    """Free a LoRA adapter as soon as no sequence uses it; read anew when a request names it again."""

    path: str


class Submit(Struct, frozen=True, tag="submit", kw_only=True):
    """A request; answered by Deltas with its id, of which the last carries ``final`` or ``error``."""

    id: int
    prompt: Prompt
    sampling: Sampling
    adapters: list[Adapter] = msgspec.field(default_factory=list)
    format: str | dict[str, Any] | None = None
    truncate: bool = False
    n_ctx: int | None = None
    """The request's own limit, when below the worker's."""
    top_logprobs: int | None = None
    """None: no logprobs; 0: the chosen token's alone."""
    priority: Priority = "normal"
    client: str = ""
    """Who asks, as fair shares know clients: "uid:1000"."""
    weight: float = 1.0
    """The client's share next to others'."""
    insists_on_drafter: bool = False
    """The request itself asks for ``speculative: draft``: without a drafter it is refused, not answered otherwise."""


class Cancel(Struct, frozen=True, tag="cancel"):
    """Forget a request; unknown ids are ignored (its answer may have just ended)."""

    id: int


ToWorker = Load | Reshape | Ping | Leave | ClearCache | Detach | Submit | Cancel


# --- worker → daemon ---


class Failure(Struct, frozen=True):
    """An error as it crosses the border; errors.from_code rebuilds it."""

    code: str
    message: str


class Progress(Struct, frozen=True, tag="progress"):
    """Fraction of the load done, 0 to 1; also while it changes its shape."""

    fraction: float


class Ready(Struct, frozen=True, tag="ready", kw_only=True):
    """The model is loaded and warm."""

    n_ctx: int
    n_parallel: int
    n_threads: int
    resident_bytes: int
    """Memory the process really holds, the mapped file included."""
    anon_bytes: int = 0
    """Of these, what no file backs: the system cannot drop it when it is short."""
    gpu_bytes: dict[str, int] = msgspec.field(default_factory=dict)
    """GPU ("CUDA0") → bytes of llama.cpp's buffers there."""
    can_insert: bool = False
    """The vocabulary has fill-in-the-middle tokens."""
    can_think: bool = False
    """The chat template knows thinking."""


class LoadError(Struct, frozen=True, tag="load_error"):
    """The load failed; the worker exits after it."""

    failure: Failure


class Reshaped(Struct, frozen=True, tag="reshaped", kw_only=True):
    """What the worker is now."""

    ready: Ready
    stall_s: float
    """Seconds for which no sequence could go on."""
    failure: Failure | None = None
    """Why it is still, or again, what it was before."""


class EngineStats(Struct, frozen=True, kw_only=True):
    """A look at the engine, taken between two steps. Counts are since the load."""

    resident_bytes: int = 0
    anon_bytes: int = 0
    n_running: int = 0
    n_waiting: int = 0
    """Requests that have no slot yet."""
    n_kv_tokens: int = 0
    """Tokens whose KV is in the cache, of running and of ended sequences."""
    n_shared_tokens: int = 0
    """Tokens of sequences that take no cells of their own, since others hold them too."""
    n_paused: int = 0
    """How often a sequence had to give up its place, for lack of cells or to a higher priority."""
    n_prompt: int = 0
    """Prompt tokens computed."""
    n_cached: int = 0
    """Prompt tokens that needed no computing."""
    n_answer: int = 0
    """Tokens generated."""
    n_drafted: int = 0
    """Tokens proposed and computed."""
    n_accepted: int = 0
    """Of these, those that samplers chose."""
    n_steps: int = 0
    step_s: float = 0.0
    """Seconds spent in steps."""
    n_adapters: int = 0
    """LoRA adapters attached now."""
    n_tier_memory: int = 0
    """Prefixes whose KV left the cache and is kept in memory."""
    tier_memory_bytes: int = 0
    n_tier_disk: int = 0
    """Prefixes of this model whose KV is kept on disk, as far as this worker knows."""
    tier_disk_bytes: int = 0
    n_tier_hits: int = 0
    """KV states that came back from memory or disk."""
    n_tier_tokens: int = 0
    """Tokens that so needed no computing."""
    n_tier_dropped: int = 0
    """Files that were damaged or another's, and were removed."""
    n_chunk: int = 0
    """Prompt tokens that the last step with a prompt had room for."""
    itl_s: float = 0.0
    """Between two tokens of an answer, of late."""
    predicted_s: float = 0.0
    """What the last step was thought to take."""
    measured_s: float = 0.0
    """What it took."""


class Pong(Struct, frozen=True, tag="pong"):
    """The engine's loop lives."""

    stats: EngineStats


class Delta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of one request's answer; ``final`` or ``error`` on its last."""

    id: int
    text: str = ""
    thinking: str = ""
    logprobs: list[Logprob] | None = None
    n_ahead: int | None = None
    """The request waits for a slot, behind so many others; told when it changes, at most once a second."""
    final: Final | None = None
    error: Failure | None = None


class Step(Struct, frozen=True, tag="step"):
    """Everything one engine step has to tell, for all sequences."""

    deltas: list[Delta]


FromWorker = Progress | Ready | LoadError | Reshaped | Pong | Step

_encoder = msgspec.json.Encoder()
to_worker = msgspec.json.Decoder(ToWorker)
"""Decodes what a worker receives."""
from_worker = msgspec.json.Decoder(FromWorker)
"""Decodes what the daemon receives."""


def frame(message: ToWorker | FromWorker) -> bytes:
    """One message as a line. JSON escapes newlines, so the line feed ends it."""
    return _encoder.encode(message) + b"\n"
