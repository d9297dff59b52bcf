"""What the fetch process is told to bring, and what it says that came. Light: the daemon imports it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from beastd.ipc import LoadSettings

CHUNK_BYTES = 16 * 2**20
"""A download is made durable after each so many bytes: the most that a kill or a power cut costs."""
KEEP_FREE_BYTES = 256 * 2**20
"""Left free on the store's disk, for everybody else."""


class HubSource(Struct, frozen=True, kw_only=True, tag="hub"):
    """A repository of the Hugging Face hub, and what of it is wanted."""

    repo: str
    """``user/name``."""
    revision: str = "main"
    file: str | None = None
    """A file's name in the repository; of a split model, any of its shards."""
    quant: str | None = None
    """A quantization as file names spell it, in any case: ``q4_k_m``, ``UD-Q4_K_XL``."""
    variants: dict[str, str] | None = None
    """Variant's name → file in the repository: the only choices, as a catalog lists them."""
    preferred: str | None = None
    """The variant taken where nothing is named and it fits."""


class UrlSource(Struct, frozen=True, kw_only=True, tag="url"):
    """One file of any server. Without its sha256 only https is taken, or a loopback address."""

    url: str
    sha256: str | None = None
    """64 hex digits."""


class FileSource(Struct, frozen=True, kw_only=True, tag="file"):
    """A file of this machine, to be copied; of a split model, its first shard."""

    path: str
    sha256: str | None = None


class FetchOrder(Struct, frozen=True, kw_only=True):
    """What to bring, where to, and what this machine can hold."""

    store: str
    """Root of the models folder."""
    source: HubSource | UrlSource | FileSource
    budget_bytes: int
    """Memory that models may take."""
    settings: LoadSettings = LoadSettings()
    """How the model would be loaded: the context it is wanted with, among others."""
    chunk_bytes: int = CHUNK_BYTES
    keep_free_bytes: int = KEEP_FREE_BYTES
    stall_s: float = 30.0
    """A connection that brings no byte for so long is made anew."""
    retry_s: float = 1.0
    """Wait before the first try again; it doubles with each one in vain."""


class PeekOrder(Struct, frozen=True, kw_only=True):
    """Look at what a fetch would bring, and bring no more of it than its header."""

    fetch: FetchOrder
    folder: str
    """An empty folder for stand-ins of the files: of their size, and with nothing inside but their headers."""


class Peeked(Struct, frozen=True, kw_only=True):
    """``Done.result``: what would be brought."""

    name: str
    """The variant's, lower case."""
    file: str
    """As the source calls it; of a split model, the first shard."""
    paths: list[str]
    """The stand-ins, in the order of shards; a file of this machine stands for itself."""
    digest: str
    """64 hex digits; as ``Variant.digest`` will be where the source tells the file's sha256."""
    size_bytes: int
    missing_bytes: int
    """How much of that a pull would have to load."""
    free_bytes: int
    """What the store's disk has to give."""
    why: str
    offered: dict[str, tuple[str, int]]
    """Every variant of this model there is: name → file and size in bytes, the one taken among them."""


class Part(Struct, frozen=True):
    """One file in the store."""

    digest: str
    """Its sha256, 64 lower-case hex digits: ``Store.blob`` knows where it is."""
    size_bytes: int


class FetchedFile(Struct, frozen=True, kw_only=True):
    """A model's file that came, whole or as shards."""

    role: Literal["variant", "adapter", "projector"]
    name: str
    """The variant's, lower case ("q4_k_m"); the adapter's, from its file."""
    file: str
    """As the source calls it; of a split model, the first shard."""
    parts: list[Part]
    """In the order of shards."""


class Fetched(Struct, frozen=True, kw_only=True):
    """``Done.result``: all is in the store."""

    files: list[FetchedFile]
    origin: str
    """``hf.co/user/name@commit``, the URL, or the path."""
    model: str | None = None
    """What the source calls this model, where it holds several."""
    license: str | None = None
    """Its identifier on the hub, such as "apache-2.0"."""
    base_model: str | None = None
    """The repository it was made from, as its card says."""
    projectors: list[str] = []
    """mmproj files that the repository has besides; they were not brought."""
    why: str
    """Why this file: a sentence for people."""
    fits: bool
    """Whether it fits the memory budget with the settings asked for."""
    need_bytes: int
    """Memory it will take; 0 for an adapter or a projector."""
