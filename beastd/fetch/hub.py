"""The Hugging Face hub: what a repository holds, where its files are, and what its refusals mean.

huggingface_hub gives the endpoint (HF_ENDPOINT), the token (HF_TOKEN, or the one in HF_HOME) and the HTTP
session; the files come by our own ranged requests, since its downloads do not go on after a crash.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import msgspec
from huggingface_hub import constants, get_token, hf_hub_url
from huggingface_hub.file_download import repo_folder_name
from msgspec import Struct

from beastd import __version__
from beastd.errors import AccessDenied, BadRequest, BeastError, DownloadFailed, ModelNotFound
from beastd.fetch.listing import RemoteFile
from beastd.fetch.web import Address, read_all

if TYPE_CHECKING:
    import httpx2

    from beastd.fetch.web import Manners

MAX_LISTING_BYTES = 32 * 2**20

_REPO = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class _Lfs(Struct):
    sha256: str
    size: int


class _Sibling(Struct):
    rfilename: str
    size: int | None = None
    lfs: _Lfs | None = None


class _Info(Struct, rename="camel"):
    """``GET /api/models/REPO/revision/REVISION?blobs=true``, as far as it is wanted."""

    sha: str
    siblings: list[_Sibling] = []
    card_data: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository at one commit."""

    name: str
    commit: str
    files: tuple[RemoteFile, ...]
    license: str | None
    base_model: str | None

    @property
    def origin(self) -> str:
        """How descriptions name it."""
        return f"hf.co/{self.name}@{self.commit}"

    def address(self, file: str) -> Address:
        """Where a file of it is."""
        url = hf_hub_url(self.name, file, revision=self.commit)
        return Address(url, _headers(), lambda response: _refusal(response, self.name, file), is_vouched=True)


def read_repository(name: str, revision: str, manners: Manners) -> Repository:
    """Ask the hub what is in a repository.

    Raises BadRequest for a name that cannot be one, AccessDenied, ModelNotFound, DownloadFailed.
    """
    if not _REPO.fullmatch(name):
        raise BadRequest(f"'{name[:200]}' is not a repository of the hub; write user/name")
    url = f"{constants.ENDPOINT}/api/models/{name}/revision/{quote(revision, safe='')}?blobs=true"
    address = Address(url, _headers(), lambda response: _refusal(response, name, f"@{revision}"), is_vouched=True)
    try:
        info = msgspec.json.decode(read_all(address, manners, MAX_LISTING_BYTES), type=_Info)
    except msgspec.DecodeError as e:
        raise DownloadFailed(f"{constants.ENDPOINT} does not answer as the hub does ({e}); check HF_ENDPOINT") from e
    card = info.card_data or {}
    files = tuple(_file(sibling) for sibling in info.siblings if sibling.rfilename.isprintable())
    return Repository(name, info.sha, files, _license(card), _first(card.get("base_model")))


def cached(repo: str, file: RemoteFile) -> Path | None:
    """The file in huggingface_hub's own cache (HF_HOME), if one of its name and size is there; not verified."""
    if file.digest is None:
        return None
    path = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type="model") / "blobs" / file.digest
    try:
        return path if path.stat().st_size == file.size_bytes else None
    except OSError:
        return None


def _headers() -> dict[str, str]:
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    if token and not (token.isascii() and token.isprintable()):
        raise AccessDenied("HF_TOKEN (or the stored token) has characters no token has; copy it again")
    return {"User-Agent": f"beast/{__version__}"} | ({"Authorization": f"Bearer {token}"} if token else {})


def _file(sibling: _Sibling) -> RemoteFile:
    lfs = sibling.lfs
    digest = lfs.sha256 if lfs and _DIGEST.fullmatch(lfs.sha256) else None
    return RemoteFile(sibling.rfilename, sibling.size if lfs is None else lfs.size, digest)


def _license(card: dict[str, Any]) -> str | None:
    name = _first(card.get("license"))
    return _first(card.get("license_name")) or name if name == "other" else name


def _first(value: object) -> str | None:
    """A card's value that is one text, or a list of them."""
    found = value[0] if isinstance(value, list) and value else value
    return found[:200] if isinstance(found, str) and found.isprintable() else None


def _refusal(response: httpx2.Response, repo: str, what: str) -> BeastError:
    """The hub's codes are those of ``huggingface_hub.utils.hf_raise_for_status``."""
    code, status = response.headers.get("X-Error-Code", ""), response.status_code
    page = f"{constants.ENDPOINT}/{repo}"
    has_token = "Authorization" in _headers()
    if code == "GatedRepo":
        return AccessDenied(
            f"{repo} is gated: accept its licence at {page}, then set HF_TOKEN to a token of that account "
            "(or log in with `hf auth login`) and pull again"
        )
    if code == "RepoNotFound" or (status == 401 and not has_token):
        return ModelNotFound(
            f"the hub has no repository {repo}, or it is private: check the name, or set HF_TOKEN to a token that may "
            "read it"
        )
    if status in {401, 403}:
        return AccessDenied(
            f"the hub refuses {repo} ({status}): make a token that may read it at {constants.ENDPOINT}/settings/tokens "
            "and set HF_TOKEN to it"
        )
    if code == "RevisionNotFound":
        return ModelNotFound(f"{repo} has no revision '{what.removeprefix('@')[:80]}'; leave it out to take main")
    if status in {404, 410}:
        return ModelNotFound(f"{repo} has no {what} any more, though it is listed; look at {page}")
    return DownloadFailed(f"the hub answers {status} {response.reason_phrase} for {repo}; try again later")
