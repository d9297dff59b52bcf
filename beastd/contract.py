"""What the service takes and gives: requests, options, pieces of an answer. Validated, strict, free of HTTP.

Requests mirror Ollama's native API field for field (``api/types.go``); a field that is not here is refused by name.
Durations in replies are nanoseconds, as in Ollama.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
Strength = Annotated[float, Meta(ge=0.0, le=1000.0)]
"""Far above all sense, and so far below the largest float that no sum or product of settings and logits overflows."""
SignedStrength = Annotated[float, Meta(ge=-1000.0, le=1000.0)]
Bias = Annotated[float, Meta(ge=-1e6, le=1e6)]
ShortText = Annotated[str, Meta(max_length=1024)]

MOST_TOKENS = 2**31 - 1
"""llama.cpp counts tokens in 32 bits."""


Speculative = Literal["auto", "off", "ngram", "draft"]
"""Where proposed tokens come from, that are computed several at a time: the text so far (ngram), a draft model or the
model's own heads (draft), both (auto), nowhere. Answers are the same with all of them."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Per-request options; None leaves the model's parameter, then Beast's default, in force.

    Meanings and units are llama.cpp's (``common/common.h: common_params_sampling``). Token counts are tokens.
    """

    num_ctx: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    """Tokens of context this request needs (prompt and answer)."""
    num_predict: Annotated[int, Meta(ge=-2, le=MOST_TOKENS)] | None = None
    """Most tokens to generate; -1 (or -2, Ollama's "fill") means up to the context's end."""
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    """-1 draws one at random."""
    stop: Annotated[list[ShortText], Meta(max_length=64)] | ShortText | None = None
    """Text that ends the answer, and is not part of it; one or several."""
    ignore_eos: bool | None = None
    """Go on where the model would end its answer."""
    speculative: Speculative | None = None
    """Draft tokens where that makes the answer sooner: from the text so far (ngram), with the model's draft model or
    its own heads (draft), from both (auto, the default), or not at all (off). The answer is the same."""

    temperature: Strength | None = None
    """0 is greedy."""
    top_k: Annotated[int, Meta(ge=0, le=MOST_TOKENS)] | None = None
    """0 keeps the whole vocabulary."""
    top_p: Probability | None = None
    """Only the likeliest tokens that together hold this probability; 1 is off."""
    min_p: Probability | None = None
    """Only tokens at least this likely relative to the likeliest; 0 is off."""
    typical_p: Probability | None = None
    """Locally typical sampling (arXiv 2202.00666); 1 is off."""

    repeat_last_n: Annotated[int, Meta(ge=-1, le=MOST_TOKENS)] | None = None
    """Window of the penalties; 0 switches them off, -1 is the whole context."""
    repeat_penalty: Annotated[float, Meta(ge=0.001, le=1000.0)] | None = None
    """Divides (or multiplies, where negative) the logits of tokens in the window; 1 is off."""
    presence_penalty: SignedStrength | None = None
    """Taken once from the logit of each token in the window."""
    frequency_penalty: SignedStrength | None = None
    """Taken from the logit once for each time the token is in the window."""

    dry_multiplier: Strength | None = None
    """0 switches DRY off."""
    dry_base: Annotated[float, Meta(ge=1.0, le=1000.0)] | None = None
    """DRY's penalty is multiplier × base^(length − allowed length) for a token that prolongs a repetition."""
    dry_allowed_length: Annotated[int, Meta(ge=1, le=MOST_TOKENS)] | None = None
    """The longest repetition DRY leaves alone, in tokens."""
    dry_penalty_last_n: Annotated[int, Meta(ge=-1, le=MOST_TOKENS)] | None = None
    """Tokens DRY looks back over; -1 is all."""
    dry_sequence_breakers: Annotated[list[ShortText], Meta(max_length=64)] | None = None
    """Texts a repetition cannot reach across."""
    xtc_probability: Probability | None = None
    """Chance at each token to drop all but the last of the tokens above the threshold; 0 is off."""
    xtc_threshold: Probability | None = None
    """Probability from which XTC drops; above 0.5 it never does."""
    mirostat: Literal[0, 2] | None = None
    """2: Mirostat 2.0 (arXiv 2007.14966) in place of top-k, top-p and their kin; 0 is off."""
    mirostat_tau: Strength | None = None
    """Surprise Mirostat aims at, in bits a token."""
    mirostat_eta: Strength | None = None
    """Mirostat's learning rate."""
    logit_bias: Annotated[dict[ShortText, Bias], Meta(max_length=4096)] | None = None
    """Token id (or a text that is exactly one token) → value added to its logit."""


MOST_MESSAGES = 10_000
"""A chat template is run over all of them, several times when the oldest must go."""


class Message(Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One turn of a chat."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    """The thoughts before the content, where the model's template takes them."""
    images: list[str] | None = None
    """Refused so far."""
    tool_calls: Annotated[list[dict[str, Any]], Meta(max_length=256)] | None = None
    """Calls an assistant's message made, as its template expects them."""
    tool_name: str | None = None
    """For role tool: the tool that answers."""
    tool_call_id: str | None = None
    """For role tool: the call it answers."""


class AdapterAsk(Struct, frozen=True, forbid_unknown_fields=True):
    """A LoRA adapter of the model that a request wants applied."""

    name: str
    scale: Annotated[float, Meta(ge=-1000.0, le=1000.0)] | None = None
    """None: the model's own for it."""


Priority = Literal["high", "normal", "low"]


class AnswerRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What generate and chat have in common."""

    model: str = ""
    """Empty means the built-in model."""
    stream: bool | None = None
    """Default true."""
    format: str | dict[str, Any] | None = None
    """"json", or a JSON Schema."""
    options: Options | None = None
    adapters: Annotated[list[AdapterAsk], Meta(max_length=8)] | None = None
    """LoRA adapters to apply, in place of those that the model's name asks for or that are on by themselves."""
    keep_alive: float | str | None = None
    """Seconds, or a duration as in Go ("5m", "1h30m"); negative is for ever, 0 unloads after the answer."""
    think: bool | str | None = None
    """Let a thinking model think first, or not; a word is the effort, where the template knows it."""
    truncate: bool | None = None
    """True drops the oldest messages of a prompt that does not fit (and says so); default is to refuse."""
    shift: bool | None = None
    """Only false is taken: Beast never shifts the context."""
    logprobs: bool | None = None
    """Give each token's log-probability."""
    priority: Priority | None = None
    """high goes before others, low after them; default is the client's, or else normal."""
    top_logprobs: Annotated[int, Meta(ge=0, le=20)] | None = None
    """How many of the likeliest tokens to give beside each (needs logprobs)."""


class GenerateRequest(AnswerRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/generate. An empty prompt loads the model; with keep_alive 0 it unloads it."""

    prompt: str | None = None
    """Text to answer."""
    suffix: str | None = None
    """Text after the hole, for models that fill in the middle."""
    system: str | None = None
    """System message, instead of the model's."""
    template: str | None = None
    """A Jinja chat template used instead of the model's own."""
    context: list[int] | None = None
    """Token ids of an earlier reply, put before this prompt (deprecated by Ollama)."""
    raw: bool | None = None
    """The prompt is given to the model as it is, with no template."""
    images: list[str] | None = None
    """Refused so far."""


class ChatRequest(AnswerRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/chat. No messages: load or unload, as with generate."""

    messages: Annotated[list[Message], Meta(max_length=MOST_MESSAGES)] | None = None
    """The chat so far, oldest first; a last message of the assistant is continued."""
    tools: list[dict[str, Any]] | None = None
    """Refused so far."""


class TokenLogprob(Struct, frozen=True):
    """A token's text, natural log of its probability before any sampler, and its UTF-8 bytes."""

    token: str
    logprob: float
    bytes: list[int]


class Logprob(TokenLogprob, frozen=True):
    """The chosen token, with the most probable ones at its place (most probable first)."""

    top_logprobs: list[TokenLogprob] | None = None


class Final(Struct, frozen=True, kw_only=True):
    """How an answer ended, and what it cost."""

    reason: Literal["stop", "length", "load", "unload"]
    variant: str = ""
    """The quantization that answered; where it changed meanwhile, the last."""
    variants: list[str] = msgspec.field(default_factory=list)
    """Every quantization that computed tokens of the answer, in order, when they are several."""
    n_prompt: int = 0
    n_cached: int = 0
    """Prompt tokens whose KV was already there."""
    n_answer: int = 0
    n_drafted: int = 0
    """Tokens proposed for the answer and computed."""
    n_accepted: int = 0
    """Of these, those that are in it."""
    load_ns: int = 0
    prompt_ns: int = 0
    answer_ns: int = 0
    total_ns: int = 0
    context: list[int] = msgspec.field(default_factory=list)
    """Token ids of prompt and answer."""
    n_ctx: int = 0
    """Tokens this request could hold."""
    n_dropped_messages: int = 0
    n_dropped_tokens: int = 0


class Piece(Struct, frozen=True, kw_only=True):
    """Some text of the answer; whole UTF-8 characters, no part of a stop string."""

    text: str = ""
    thinking: str = ""
    logprobs: list[Logprob] | None = None


class Loading(Struct, frozen=True):
    """The model the request waits for is being loaded: fraction from 0 to 1."""

    fraction: float


class Waiting(Struct, frozen=True):
    """The request waits for something other than a load."""

    position: int
    """1: next."""
    reason: str
    """What has to happen first, to follow "waiting for"."""


Answer = Loading | Waiting | Piece | Final
"""What a generate or chat yields: any Loading, Waiting and Pieces, then exactly one Final (or an error raised)."""


class ModelShape(Struct, frozen=True, kw_only=True):
    """What a GGUF header says that decides memory and limits. Sizes in bytes, lengths in tokens or elements."""

    architecture: str
    weights_bytes: int
    """Size of the file, or of all its shards."""
    n_params: int
    n_layers: int
    n_embd: int
    n_vocab: int
    n_ctx_train: int
    kv_elements_per_token: int
    """Sum over layers of (K + V) elements one token's cell takes."""
    has_head: bool = False
    """It has a head that predicts the token after the next (MTP), of a kind that drafts."""
    is_recurrent: bool = False
    """Layers keep a state of all tokens so far, which takes some back only where more states are kept."""
    has_window: bool = False
    """Layers see only the last so many tokens, as far as the header tells."""

    @property
    def is_plain(self) -> bool:
        """Whether its KV is one cache of all tokens, which sequences can share cell by cell."""
        return not self.is_recurrent and not self.has_window

    def is_same_model(self, other: ModelShape) -> bool:
        """Whether both can be variants of one model: the same but for their quantization."""
        mine, others = ((it.architecture, it.n_layers, it.n_embd, it.n_vocab, it.has_head) for it in (self, other))
        return mine == others


class DeviceNeed(Struct, frozen=True, kw_only=True):
    """What a loaded model takes on one device, in bytes."""

    device: str
    """"RAM", or a GPU as llama.cpp names it ("CUDA0")."""
    weights_bytes: int = 0
    kv_bytes: int = 0
    """KV cache, and the state of recurrent layers."""
    compute_bytes: int = 0
    """Buffers a step computes in, logits included."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.weights_bytes + self.kv_bytes + self.compute_bytes


class MemoryNeed(Struct, frozen=True, kw_only=True):
    """What a worker takes with one model and one set of load settings."""

    devices: list[DeviceNeed]
    """"RAM" first, then every GPU that takes a part."""
    process_bytes: int
    """Main memory besides: interpreter, libraries, vocabulary, graphs."""
    is_exact: bool = True
    """llama.cpp's own simulation said so; False: it is an estimate."""

    @property
    def ram_bytes(self) -> int:
        """Main memory in all."""
        return self.process_bytes + sum(it.total_bytes for it in self.devices if it.device == RAM)

    @property
    def gpu_bytes(self) -> dict[str, int]:
        """GPU → bytes in all."""
        return {it.device: it.total_bytes for it in self.devices if it.device != RAM}


class CacheClearRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DELETE /api/cache."""

    model: str | None = None
    """Only what is kept of this model, or variant; without it, everything."""


class CachedModel(Struct, frozen=True, kw_only=True):
    """KV that is kept of one model's prompts, outside of its worker's own cache."""

    name: str
    """Empty for files that cannot be read."""
    variant: str
    n_disk: int
    """Prefixes on disk."""
    disk_tokens: int
    disk_bytes: int
    n_memory: int
    """Prefixes in the memory of its worker."""
    memory_bytes: int
    used_at: str | None
    """When one on disk was last written or read, in UTC."""


class CacheStatus(Struct, frozen=True, kw_only=True):
    """What KV is kept."""

    models: list[CachedModel]
    folder: str
    disk_bytes: int
    disk_limit_bytes: int
    """0: nothing is kept on disk."""


RAM = "RAM"
"""The device that is main memory."""


class Gpu(Struct, frozen=True, kw_only=True):
    """A GPU as llama.cpp sees it."""

    name: str
    """"CUDA0"."""
    description: str
    total_bytes: int
    free_bytes: int
