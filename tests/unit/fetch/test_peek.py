"""What a look at a source tells, and how little of it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fakehub import FakeHub, Fault, Repo
from fetching import REPO, digest, gguf, order
from ggufwriter import GgufWriter

from beastd.errors import BadModel, BadRequest, DownloadFailed, ModelNotFound
from beastd.fetch.beginning import FIRST_BYTES, MAX_BYTES
from beastd.fetch.order import FileSource, HubSource, Peeked, PeekOrder, UrlSource
from beastd.fetch.peek import peek
from beastd.registry.gguf import read_header
from beastd.registry.store import Store
from beastd.tool import Progress

SIZE = 3 * FIRST_BYTES


@pytest.fixture
def look(store: Store, progress: list[Progress], tmp_path: Path) -> Callable[..., Peeked]:
    def run(source: HubSource | UrlSource | FileSource, **changes: object) -> Peeked:
        folder = tmp_path / "stand-ins"
        folder.mkdir(exist_ok=True)
        return peek(PeekOrder(fetch=order(store, source, **changes), folder=str(folder)), progress.append)

    return run


def offer(hub: FakeHub, **files: bytes) -> None:
    hub.repos[REPO] = Repo({f"M-{name}.gguf": data for name, data in files.items()})


def test_only_the_beginning_comes_and_stands_for_the_file(hub: FakeHub, look, store: Store) -> None:
    """As large as the file, with its header, taking no more disk than that; the store has nothing of it."""
    data = gguf(SIZE)
    offer(hub, Q8_0=data, Q2_K=gguf(SIZE // 2), F16=gguf(2 * SIZE))
    found = look(HubSource(repo=REPO, quant="q8_0"))
    stand_in = Path(found.paths[0])
    assert (found.name, found.file, found.digest) == ("q8_0", "M-Q8_0.gguf", digest(data))
    assert found.size_bytes == found.missing_bytes == len(data) == stand_in.stat().st_size
    assert hub.served["M-Q8_0.gguf"] == FIRST_BYTES
    assert stand_in.stat().st_blocks * 512 <= 2 * FIRST_BYTES
    assert read_header(stand_in).shape().n_layers
    assert found.offered.keys() == {"q8_0", "q2_k", "f16"}
    assert store.blob(found.digest).exists() is False
    assert found.free_bytes > 0


def test_without_a_name_it_looks_at_what_a_pull_would_take(hub: FakeHub, look) -> None:
    offer(hub, Q8_0=gguf(SIZE), Q4_K_M=gguf(SIZE // 2))
    assert look(HubSource(repo=REPO)).name == "q8_0"
    assert look(HubSource(repo=REPO), budget_bytes=10).name == "q4_k_m"


def test_a_long_header_is_read_as_far_as_it_goes(hub: FakeHub, look) -> None:
    writer = GgufWriter()
    pairs = [*writer.model(), writer.pair("general.description", "str", "x" * (2 * FIRST_BYTES))]
    offer(hub, Q8_0=writer.file(pairs, n_data=4096) + bytes(SIZE))
    look(HubSource(repo=REPO))
    firsts = [asked.first_byte for asked in hub.downloads("M-Q8_0.gguf")]
    assert firsts == [0, FIRST_BYTES]
    assert hub.served["M-Q8_0.gguf"] < SIZE


def test_what_is_here_already_need_not_be_loaded(hub: FakeHub, look, store: Store) -> None:
    data = gguf(SIZE)
    offer(hub, Q8_0=data)
    blob = store.blob(digest(data))
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    assert look(HubSource(repo=REPO)).missing_bytes == 0


def test_a_cut_connection_is_tried_again(hub: FakeHub, look) -> None:
    """From where it was cut."""
    offer(hub, Q8_0=gguf(SIZE))
    hub.faults["M-Q8_0.gguf"].append(Fault(cut_after=100_000))
    assert look(HubSource(repo=REPO)).name == "q8_0"
    assert hub.downloads("M-Q8_0.gguf")[-1].first_byte > 0


def test_a_server_without_ranges_is_told_of(hub: FakeHub, look) -> None:
    offer(hub, Q8_0=gguf(SIZE))
    hub.faults["M-Q8_0.gguf"].append(Fault(ignores_range=True))
    with pytest.raises(DownloadFailed, match=r"gives no part of M-Q8_0\.gguf, only the whole: pull the model"):
        look(HubSource(repo=REPO))


def test_a_url_says_its_size_itself(hub: FakeHub, look) -> None:
    data = gguf(SIZE)
    hub.plain["/files/m-q4_k_m.gguf"] = (data, '"1"')
    found = look(UrlSource(url=f"{hub.cdn}/files/m-q4_k_m.gguf"))
    assert (found.name, found.size_bytes, found.missing_bytes) == ("q4_k_m", len(data), len(data))


def test_a_file_of_this_machine_stands_for_itself(look, tmp_path: Path) -> None:
    path = tmp_path / "m-q5_k_m.gguf"
    path.write_bytes(gguf(SIZE))
    found = look(FileSource(path=str(path)))
    assert (found.name, found.paths) == ("q5_k_m", [str(path)])


@pytest.mark.parametrize(("kind", "error"), [("adapter", BadRequest), ("mmproj", BadRequest)])
def test_what_is_no_model_is_refused(hub: FakeHub, look, kind: str, error: type[Exception]) -> None:
    offer(hub, F16=gguf(SIZE, kind=kind))
    with pytest.raises(error, match="is no model but made for one"):
        look(HubSource(repo=REPO))


def test_garbage_and_absence_are_clear_errors(hub: FakeHub, look) -> None:
    offer(hub, Q8_0=b"no model" * 10**5)
    with pytest.raises(BadModel, match="is not a GGUF file"):
        look(HubSource(repo=REPO))
    with pytest.raises(ModelNotFound):
        look(HubSource(repo="user/none"))


def test_a_header_without_end_is_given_up() -> None:
    """The bound is above the largest headers known, and what a hostile server can make us load."""
    assert 16 * 2**20 < MAX_BYTES <= 64 * 2**20
