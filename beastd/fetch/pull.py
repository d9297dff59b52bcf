"""Carries out a fetch: what the source has, which file of it to take, and all of that into the store."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

import msgspec

from beastd.errors import BadModel, ModelNotFound
from beastd.fetch.choose import Choice, Memory, choose, judge, size_text
from beastd.fetch.delivery import Delivery
from beastd.fetch.hub import cached, read_repository
from beastd.fetch.job import job_of
from beastd.fetch.listing import Candidate, models, named, projectors, several, stem, with_quant
from beastd.fetch.order import Fetched, FetchedFile, FileSource, HubSource, UrlSource
from beastd.fetch.plain import candidate_of_path, candidate_of_url, local_arrivals, public, url_arrivals
from beastd.fetch.remote import RemoteArrival
from beastd.fleet.memory import need_bytes
from beastd.registry.names import MAX_PART_CHARS, is_part
from beastd.tool import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Literal

    from beastd.fetch.delivery import Arrival
    from beastd.fetch.hub import Repository
    from beastd.fetch.job import Job
    from beastd.fetch.order import FetchOrder
    from beastd.registry.header import Header
    from beastd.tool import Report

    Role = Literal["variant", "adapter", "projector"]
    Arrivals = Callable[[Candidate], Sequence[Arrival]]


def fetch(order: FetchOrder, report: Report) -> Fetched:
    """Bring what is ordered. Raises AccessDenied, ModelNotFound, BadRequest, BadModel, DiskFull, DownloadFailed."""
    job = job_of(order, report)
    try:
        match order.source:
            case HubSource() as source:
                return _from_hub(order, source, job)
            case UrlSource() as source:
                candidate = candidate_of_url(source)
                arrivals = url_arrivals(candidate, source, job)
                return _bring(order, job, [candidate], lambda _: arrivals, public(source.url))
            case FileSource() as source:
                candidate = candidate_of_path(source)
                arrivals_here = local_arrivals(candidate, source, job)
                return _bring(order, job, [candidate], lambda _: arrivals_here, source.path)
    finally:
        job.manners.stop.set()


def _from_hub(order: FetchOrder, source: HubSource, job: Job) -> Fetched:
    job.manners.report(Progress(status="pulling manifest"))
    repo = read_repository(source.repo, source.revision, job.manners)

    def arrivals(candidate: Candidate) -> Sequence[Arrival]:
        parts = candidate.parts
        return [RemoteArrival(part, repo.address(part.name), cached(repo.name, part), job) for part in parts]

    fetched = _bring(order, job, offers(source, repo), arrivals, repo.origin)
    return msgspec.structs.replace(
        fetched,
        model=_one_of_several(fetched.files[0].file, source, repo),
        license=repo.license,
        base_model=repo.base_model,
        projectors=projectors(repo.files),
    )


def _one_of_several(file: str, source: HubSource, repo: Repository) -> str | None:
    """The model's own name, where a repository that no catalog has sorted out holds several."""
    stems = {candidate.file: stem(candidate) for candidate in models(repo.files)}
    return stems.get(file) if source.variants is None and len(set(stems.values())) > 1 else None


def offers(source: HubSource, repo: Repository) -> list[Candidate]:
    """What there is to choose from: one, where something is named. Raises ModelNotFound, BadRequest."""
    if source.file:
        return [named(repo.files, source.file, repo.name)]
    offered = models(repo.files)
    if source.variants is not None:
        files = {file: name for name, file in source.variants.items()}
        offered = [replace(it, name=files[it.file].lower()) for it in offered if it.file in files]
    if source.quant:
        return [with_quant(offered, source.quant, repo.name)]
    if not offered:
        what = "none of the files its catalog entry names" if source.variants else "no GGUF files"
        raise ModelNotFound(f"{repo.name} has {what}; look for a repository that has (their names often end in -GGUF)")
    if source.variants is None and len({stem(it) for it in offered}) > 1:
        raise several(offered, repo.name)
    return offered


def _bring(order: FetchOrder, job: Job, offered: Sequence[Candidate], arrivals: Arrivals, origin: str) -> Fetched:
    """Choose among what is offered, and bring it.

    One of the headers is enough to know what each would need: they are the same model. The one likely to be taken is
    read, since what was loaded of it is part of its download.
    """
    likely = likely_of(offered, order)
    with _delivery(likely, arrivals) as delivery:
        header = delivery.header()
        choice = chosen([delivery.candidate if it is likely else it for it in offered], header, order)
        if choice.candidate is delivery.candidate:
            return _brought(delivery, header, choice, job, origin)
        delivery.leave(is_unwanted=True)
    with _delivery(choice.candidate, arrivals) as delivery:
        return _brought(delivery, delivery.header(), choice, job, origin)


@contextmanager
def _delivery(candidate: Candidate, arrivals: Arrivals) -> Iterator[Delivery]:
    """Its parts on their way; what came stays for the next pull, unless it is no model."""
    parts = arrivals(candidate)
    is_unwanted = False
    try:
        yield Delivery(candidate, parts)
    except BadModel:
        is_unwanted = True
        raise
    finally:
        for part in parts:
            part.release(is_unwanted=is_unwanted)


def _brought(delivery: Delivery, header: Header, choice: Choice, job: Job, origin: str) -> Fetched:
    taken = delivery.candidate
    parts = delivery.bring(job, choice.why)
    file = FetchedFile(role=role_of(header), name=name_of(taken, header), file=taken.file, parts=parts)
    return Fetched(files=[file], origin=origin, why=choice.why, fits=choice.fits, need_bytes=choice.need_bytes)


def likely_of(offered: Sequence[Candidate], order: FetchOrder) -> Candidate:
    """The choice before the model's shape is known."""
    memory = Memory(order.budget_bytes, order.settings.n_ctx, lambda it: it.n_bytes * 11 // 10)
    return offered[0] if len(offered) == 1 else choose(offered, memory, _preferred(order)).candidate


def chosen(offered: Sequence[Candidate], header: Header, order: FetchOrder) -> Choice:
    """The candidate to take, given the header of one of them."""
    role = role_of(header)
    if role != "variant":
        taken = next(it for it in offered if it.file == header.what)
        why = f"{taken.file} ({size_text(taken.n_bytes)}): {'an adapter' if role == 'adapter' else 'a projector'}"
        return Choice(taken, 0, fits=True, why=why)
    shape = header.shape()
    settings = msgspec.structs.replace(order.settings, n_ctx=min(order.settings.n_ctx, shape.n_ctx_train))
    memory = Memory(
        order.budget_bytes,
        settings.n_ctx,
        lambda it: need_bytes(msgspec.structs.replace(shape, weights_bytes=it.n_bytes), settings),
    )
    is_open = isinstance(order.source, HubSource) and not (order.source.file or order.source.quant)
    return choose(offered, memory, _preferred(order)) if is_open else judge(offered[0], memory)


def _preferred(order: FetchOrder) -> str | None:
    return order.source.preferred if isinstance(order.source, HubSource) else None


def role_of(header: Header) -> Role:
    """What kind of file it is, as its converter wrote it (``general.type``; older projectors only by architecture)."""
    if header.is_adapter:
        return "adapter"
    is_projector = (
        header.metadata.get("general.type") == "mmproj" or header.metadata.get("general.architecture") == "clip"
    )
    return "projector" if is_projector else "variant"


def name_of(candidate: Candidate, header: Header) -> str:
    """What a description calls it."""
    if role_of(header) == "variant":
        name = candidate.name or header.quantization.lower()
    else:
        name = PurePosixPath(candidate.file).name.removesuffix(".gguf").lower()
    name = re.sub(r"[^a-z0-9_.-]+|\.{2,}", "-", name).lstrip(".-")[:MAX_PART_CHARS]
    return name if is_part(name) else "unnamed"
