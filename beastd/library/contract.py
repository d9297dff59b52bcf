"""What the library is asked for: requests of the verbs that get, make, change and remove models.

Those that Ollama has mirror its API (``api/types.go``). A field that is not here is refused by name. Paths are taken
from clients on the Unix socket alone: they are this machine's users, whom the daemon runs as.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from beastd.contract import Message, Options

Path = Annotated[str, Meta(min_length=1, max_length=4096)]
Sha256 = Annotated[str, Meta(pattern=r"^(sha256[:-])?[0-9a-fA-F]{64}$")]


class LongRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """What requests for long work have in common: it is a job, which goes on when its client leaves."""

    stream: bool | None = None
    """Default true: one line each time something changed. False: one reply at the end."""


Token = Annotated[str, Meta(pattern=r"^[!-~]{1,1000}$")]


class PullRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/pull: get a model. Asking for the same again joins it."""

    model: str = ""
    """A name of the catalog (``qwen3:0.6b``), a repository (``hf.co/user/repo``, ``:Q4_K_M`` or ``/file.gguf`` after
    it), an ``https://`` URL of a GGUF, or ``file:`` and a path. ``@variant`` chooses a quantization."""
    name: str | None = None
    """Ollama's older name of ``model``."""
    save_as: str | None = None
    """The model's name here, when not the one that follows from where it comes."""
    sha256: Sha256 | None = None
    """What a URL's or file's content must be."""
    username: Literal[""] = ""
    """Ollama's clients send it empty; Beast asks the hub with HF_TOKEN."""
    password: Literal[""] = ""
    """As username."""
    token: Token | None = None
    """For the hub, instead of the daemon's HF_TOKEN; over the Unix socket alone."""
    insecure: bool = False
    """Only false is taken: Beast trusts no broken certificates."""


class CreateRequest(LongRequest, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}):
    """POST /api/create: make a model, of another one, of files, or as a modelfile says."""

    model: str = ""
    name: str | None = None
    """Ollama's older name of ``model``."""
    modelfile: str | None = None
    """A modelfile's text, Beast's YAML or Ollama's syntax; beside it only ``folder``, ``quantize`` and ``stream``."""
    folder: Path | None = None
    """Where the modelfile is: its relative paths begin here."""
    from_: str | None = None
    """A model to start from, or (over the Unix socket) a GGUF file's path."""
    files: dict[str, Sha256] = msgspec.field(default_factory=dict)
    """File name → digest of a blob that was posted to /api/blobs."""
    adapters: dict[str, Sha256] = msgspec.field(default_factory=dict)
    """LoRA file name → digest of a blob; they are applied whenever the model runs."""
    template: str | None = None
    """A chat template, Jinja or (as far as it has an equivalent) Ollama's Go."""
    license: str | list[str] | None = None
    system: str | None = None
    parameters: Options | None = None
    messages: list[Message] | None = None
    token: Token | None = None
    """For the hub, where ``from`` has to be pulled; as with pull."""
    quantize: str | None = None
    """A quantization to make of the files, which becomes the default."""


class CopyRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /api/copy: give a model a second name. No file is copied."""

    source: str
    destination: str


class DeleteRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """DELETE /api/delete: remove a model, or with ``@variant`` or ``+adapter`` only that.

    Files in the store that nothing else uses go with it; a file outside the store is never removed.
    """

    model: str = ""
    name: str | None = None
    """Ollama's older name of ``model``."""


class ModelfileRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /api/modelfile: a model's modelfile, also a broken one's."""

    model: str


class EditRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /api/edit: replace a model's modelfile (YAML)."""

    model: str
    modelfile: str
    was: str | None = None
    """The modelfile that was edited: if the model has another one by now, nothing is changed."""


class QuantizeRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/quantize: make variants of a model."""

    model: str
    """With ``@variant``: what to make them of; else the variant with most bits a weight."""
    types: Annotated[list[str], Meta(min_length=1, max_length=40)]
    imatrix: Path | None = None
    """File of an importance matrix (GGUF, or llama.cpp's older format)."""
    allow_requantize: bool = False
    """Take a source that is quantized itself."""
    replace: bool = False
    """Make variants anew that are there already."""


class PerplexityRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/perplexity: how well a model predicts a text. Lower is better."""

    model: str
    """With ``@variant`` and ``+adapter`` as in any name."""
    file: Path
    """The text, UTF-8."""
    n_ctx: Annotated[int, Meta(ge=8, le=1_000_000)] = 512
    """Tokens of a chunk; the second half of each is scored."""
    n_chunks: Annotated[int, Meta(ge=1)] | None = None
    """At most so many chunks."""


class AdapterRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/adapters: give a model a LoRA adapter under a name of its own."""

    name: str
    source: str
    """A GGUF's path (over the Unix socket), or what /api/pull takes."""
    base: str
    """The model."""
    scale: float = 1.0
    """Its strength, unless a request says otherwise."""
    applied: bool = False
    """Whether it is on when a name asks for no adapter."""
    token: Token | None = None
    """For the hub; as with pull."""
    copy: bool = False
    """Copy the file into the store instead of registering it where it is."""


class ImportRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/import: register models that are on this machine already."""

    paths: Annotated[list[Path], Meta(min_length=1, max_length=1000)]
    """GGUF files, folders of them, Ollama's or LM Studio's models folder, the Hugging Face cache, or bundles that
    /api/export wrote."""
    mode: Literal["in_place", "copy", "link"] = "in_place"
    """``link``: hard links in the store, so that the originals may go."""
    save_as: str | None = None
    """The model's name, where one model is found."""
    gguf_template: bool = False
    """Use the GGUF's own chat template where Ollama's has no Jinja equivalent, instead of leaving the model out."""
    replace: bool = False
    """Replace models that are there under the same name."""
    dry_run: bool = False
    """Only tell what would be imported."""


class ExportRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/export: write a model with all its files into one file, for machines without network."""

    model: str
    """With ``@variant``: that one alone."""
    file: Path


class PruneRequest(Struct, kw_only=True, forbid_unknown_fields=True):
    """POST /api/prune: remove blobs that no model uses, and what is left of downloads."""

    dry_run: bool = False
    partial_age_s: Annotated[float, Meta(ge=0)] = 7 * 86400.0
    """Unfinished downloads are removed when nothing was added to them for so long."""


class MoveRequest(LongRequest, kw_only=True, forbid_unknown_fields=True):
    """POST /api/move: move the whole models folder to another place, and remember it in the configuration."""

    folder: Path


class JobInfo(Struct, frozen=True, kw_only=True):
    """A long piece of work: under way, or ended lately."""

    id: str
    kind: str
    """pull, create, quantize, perplexity, import, export, move or adapter."""
    subject: str
    """What it works on, for people."""
    state: Literal["running", "done", "failed", "cancelled"]
    started_at: str
    n_watchers: int
    error: str | None = None
    progress: list[dict[str, Any]] = []
    """The latest line of each item."""
