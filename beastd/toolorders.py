"""What the engine's tool processes are told, and what they answer: quantizing, measuring perplexity, simulating loads.

    python -P -m beastd.engine.quantize       QuantizeOrder   → Quantized
    python -P -m beastd.engine.perplexity     PerplexityOrder → Perplexity
    python -P -m beastd.engine.simulate       SimulateOrder   → Simulated

``beastd.tool`` says how both cross.
"""

from __future__ import annotations

from msgspec import Struct, field

from beastd.contract import Gpu, MemoryNeed
from beastd.ipc import Adapter, Failure, LoadSettings


class QuantizeOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Make a quantization of a model."""

    sources: list[str]
    """The model's file, or all its shards in order; their names do not matter."""
    label: str
    """What messages call the model."""
    out: str
    """The file to make, replaced if it is there. While at work, links named ``OUT-00001-of-N.gguf`` may stand beside
    it; a process killed leaves them and a broken ``out``."""
    type: str
    """A name of ``quants.QUANT_TYPES``, or an alias of one."""
    imatrix: str | None = None
    """File of an importance matrix, in llama-imatrix's GGUF format or its older one."""
    n_threads: int = 0
    """0: physical cores."""
    allow_requantize: bool = False
    """Quantize what is quantized already; each time costs quality."""
    output_type: str | None = None
    """Type of the output matrix, of ``quants.OVERRIDE_TYPES``; None: as the quantization has it."""
    embedding_type: str | None = None
    """Type of the token embeddings; as ``output_type``."""


class Quantized(Struct, frozen=True, kw_only=True):
    """What came of it; the file is synced to the disk."""

    digest: str
    """sha256 of the file: 64 hex digits."""
    size_bytes: int
    bits_per_weight: float
    """Of all tensors, to two decimals."""
    n_tensors: int
    n_fallback: int
    """Tensors of another type than the quantization has for them, since that one's blocks do not divide their rows."""
    took_s: float


class PerplexityOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Measure how well a model predicts a text."""

    paths: list[str]
    """The model's file, or all its shards in order."""
    label: str
    """What messages call the model."""
    text: str
    """File of the text, UTF-8."""
    adapters: list[Adapter] = field(default_factory=list)
    n_ctx: int = 512
    """Tokens of a chunk; the second half of each is scored. Perplexities compare at equal ``n_ctx`` only."""
    n_batch: int = 2048
    """Tokens computed at once: several chunks, where they fit."""
    n_chunks: int | None = None
    """At most so many chunks; None: the whole text."""
    n_threads: int = 0
    """0: physical cores."""
    n_gpu_layers: int = -1
    """-1: all, where the build has a GPU."""


class Perplexity(Struct, frozen=True, kw_only=True):
    """How well it does: e to the mean negative log-likelihood of a token."""

    perplexity: float
    stderr: float
    """Standard error of ``perplexity``."""
    n_tokens: int
    """Tokens scored."""
    n_chunks: int
    n_ctx: int
    took_s: float


class SimulateCase(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A model to load for show, with the settings to load it with."""

    paths: list[str]
    """The model's file, or all its shards in order."""
    label: str
    """What messages call it."""
    settings: LoadSettings


class SimulateOrder(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tell what loading these would take, without taking it."""

    cases: list[SimulateCase]


class Outcome(Struct, frozen=True, kw_only=True):
    """What one case would take, or why it cannot be loaded."""

    need: MemoryNeed | None = None
    failure: Failure | None = None


class Simulated(Struct, frozen=True, kw_only=True):
    """The outcome of each case, in order, and the GPUs there are."""

    outcomes: list[Outcome]
    gpus: list[Gpu]
