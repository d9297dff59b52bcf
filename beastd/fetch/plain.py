"""Sources without a listing: one address, or one path of this machine; of a split model, all its shards."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from beastd import __version__
from beastd.errors import AccessDenied, BadRequest, BeastError, DownloadFailed, ModelNotFound
from beastd.fetch.listing import Candidate, RemoteFile, quant_of, shard_names
from beastd.fetch.local import LocalArrival
from beastd.fetch.remote import RemoteArrival
from beastd.fetch.web import Address, checked_url
from beastd.registry.gguf import read_header, shard_paths

if TYPE_CHECKING:
    import httpx2

    from beastd.fetch.job import Job
    from beastd.fetch.order import FileSource, UrlSource

_SHA256 = re.compile(r"(sha256[:-])?(?P<hex>[0-9a-fA-F]{64})")


def candidate_of_url(source: UrlSource) -> Candidate:
    """The file an address names. Raises BadRequest for one that nobody should believe."""
    url = checked_url(source.url, is_vouched=source.sha256 is not None)
    name = unquote(PurePosixPath(urlsplit(url).path).name)
    name = name if name.isprintable() and name else "file"
    return _candidate(shard_names(name), source.sha256, public(url))


def candidate_of_path(source: FileSource) -> Candidate:
    """The file of this machine. Raises BadModel where it, or a shard of it, is missing or no GGUF."""
    path = Path(source.path)
    read_header(path)
    return _candidate([shard.name for shard in shard_paths(path)], source.sha256, source.path)


def url_arrivals(candidate: Candidate, source: UrlSource, job: Job) -> list[RemoteArrival]:
    """The candidate's parts, beside each other on the server."""
    parts = urlsplit(source.url)
    found = []
    for part in candidate.parts:
        url = parts._replace(path=str(PurePosixPath(parts.path).parent / quote(part.name))).geturl()
        url = url if len(candidate.parts) > 1 else source.url
        address = Address(url, {"User-Agent": f"beast/{__version__}"}, _refusal, is_vouched=part.digest is not None)
        found.append(RemoteArrival(part, address, None, job))
    return found


def local_arrivals(candidate: Candidate, source: FileSource, job: Job) -> list[LocalArrival]:
    """The candidate's parts, beside each other in their folder."""
    folder = Path(source.path).parent
    return [LocalArrival(folder / part.name, part.digest, job) for part in candidate.parts]


def public(url: str) -> str:
    """The address without what may be secret: user, password, query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _candidate(names: list[str], sha256: str | None, what: str) -> Candidate:
    match = _SHA256.fullmatch(sha256) if sha256 else None
    if sha256 and match is None:
        raise BadRequest(f"'{sha256[:80]}' is not a sha256: 64 hexadecimal digits are expected")
    if match and len(names) > 1:
        raise BadRequest(f"{what} is a model in {len(names)} files, for which one sha256 cannot speak; leave it out")
    digest = match["hex"].lower() if match else None
    return Candidate(quant_of(names[0]), tuple(RemoteFile(name, None, digest) for name in names))


def _refusal(response: httpx2.Response) -> BeastError:
    status, url = response.status_code, public(str(response.url))
    if status in {401, 403}:
        return AccessDenied(f"{url} is not for everybody ({status}); a file of the hub is better named hf.co/user/name")
    if status in {404, 410}:
        return ModelNotFound(f"there is no {url} ({status}); check the address")
    return DownloadFailed(f"{url} answers {status} {response.reason_phrase}")
