"""What comes of a fetch: from a hub of our own, through the real huggingface_hub."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import pytest
from fakehub import COMMIT, FakeHub, Fault, Repo
from fetching import CHUNK_BYTES, REPO, Pull, digest
from fetching import gguf as gguf_of
from ggufwriter import GgufWriter
from huggingface_hub import constants

from beastd.errors import AccessDenied, BadModel, BadRequest, DigestMismatch, DiskFull, DownloadFailed, ModelNotFound
from beastd.fetch.order import Fetched, FileSource, HubSource, UrlSource
from beastd.registry.store import Store
from beastd.tool import Progress

SIZE = 20 * CHUNK_BYTES


def gguf(n_bytes: int = SIZE, seed: int = 0, kind: str | None = None) -> bytes:
    return gguf_of(n_bytes, seed, kind)


def offer(hub: FakeHub, *quants: str, **changes: object) -> dict[str, bytes]:
    """A repository with these quantizations of one model, the first the largest."""
    files = {f"M-{quant}.gguf": gguf(SIZE - 1000 * i, i) for i, quant in enumerate(quants)}
    hub.repos[REPO] = Repo(files, **changes)  # type: ignore[arg-type]
    return files


def blobs(fetched: Fetched) -> list[str]:
    return [part.digest for part in fetched.files[0].parts]


def test_takes_the_best_and_says_where_it_is_from(
    hub: FakeHub, pull: Pull, store: Store, progress: list[Progress]
) -> None:
    files = offer(hub, "F16", "Q8_0", "Q4_K_M", card={"license": "apache-2.0", "base_model": "user/model"})
    hub.repos[REPO].files["mmproj-F16.gguf"] = b""
    fetched = pull(HubSource(repo=REPO))
    assert fetched.files[0].role == "variant"
    assert (fetched.files[0].name, fetched.files[0].file) == ("q8_0", "M-Q8_0.gguf")
    assert store.blob(blobs(fetched)[0]).read_bytes() == files["M-Q8_0.gguf"]
    assert fetched.origin == f"hf.co/{REPO}@{COMMIT}"
    assert (fetched.license, fetched.base_model) == ("apache-2.0", "user/model")
    assert fetched.projectors == ["mmproj-F16.gguf"]
    assert fetched.fits
    assert fetched.need_bytes > len(files["M-Q8_0.gguf"])
    assert store.partials() == []
    assert any(told.status.startswith(f"{fetched.why}; ") for told in progress)


def test_reading_the_header_is_part_of_the_download(hub: FakeHub, pull: Pull) -> None:
    files = offer(hub, "Q8_0", "Q4_K_M")
    pull(HubSource(repo=REPO))
    assert dict(hub.served) == {"M-Q8_0.gguf": len(files["M-Q8_0.gguf"])}


def test_nothing_stays_of_a_header_that_led_to_another_choice(hub: FakeHub, pull: Pull, store: Store) -> None:
    writer = GgufWriter()
    wide = writer.file(writer.model(context_length=4096, attention__head_count_kv=4), n_data=3 * 10**6)
    hub.repos[REPO] = Repo({"M-Q8_0.gguf": wide + bytes(8 * 10**6), "M-Q4_K_M.gguf": wide})
    fetched = pull(HubSource(repo=REPO), budget_bytes=107 * 10**6)
    assert fetched.files[0].name == "q4_k_m"
    assert hub.served["M-Q8_0.gguf"] < len(wide)
    assert store.partials() == []


def test_takes_the_named_quantization_even_if_it_does_not_fit(hub: FakeHub, pull: Pull) -> None:
    offer(hub, "Q8_0", "Q4_K_M")
    fetched = pull(HubSource(repo=REPO, quant="q4_K_m"), budget_bytes=1000)
    assert (fetched.files[0].name, fetched.fits) == ("q4_k_m", False)


def test_takes_a_catalogs_preferred_variant_by_the_catalogs_name(hub: FakeHub, pull: Pull) -> None:
    offer(hub, "Q8_0", "Q4_K_M", "Q2_K")
    variants = {"fine": "M-Q8_0.gguf", "usual": "M-Q4_K_M.gguf"}
    assert pull(HubSource(repo=REPO, variants=variants, preferred="usual")).files[0].name == "usual"
    assert pull(HubSource(repo=REPO, variants=variants, quant="fine")).files[0].file == "M-Q8_0.gguf"
    with pytest.raises(ModelNotFound, match=r"no 'q2_k'; there is"):
        pull(HubSource(repo=REPO, variants=variants, quant="q2_k"))


def test_does_not_choose_between_different_models(hub: FakeHub, pull: Pull) -> None:
    hub.repos[REPO] = Repo({"A-Q8_0.gguf": gguf(), "B-Q4_0.gguf": gguf()})
    with pytest.raises(BadRequest, match="holds several models"):
        pull(HubSource(repo=REPO))


def test_brings_all_shards_in_their_order(hub: FakeHub, pull: Pull, store: Store) -> None:
    writer = GgufWriter()
    pairs = [*writer.model(), writer.pair("split.count", "u16", 3)]
    empty = writer.file([writer.pair("general.architecture", "str", "llama")], tensors=[])
    shards = [writer.file(pairs, tensors=[], n_data=0), gguf(SIZE, 1), empty + bytes(SIZE // 2)]
    hub.repos[REPO] = Repo({f"Q8_0/M-{i:05d}-of-00003.gguf": data for i, data in enumerate(shards, 1)})
    fetched = pull(HubSource(repo=REPO, file="Q8_0/M-00002-of-00003.gguf"))
    assert fetched.files[0].file == "Q8_0/M-00001-of-00003.gguf"
    assert blobs(fetched) == [digest(data) for data in shards]
    assert [store.blob(it).read_bytes() for it in blobs(fetched)] == shards
    assert fetched.need_bytes > sum(map(len, shards))


def test_recognizes_an_adapter(hub: FakeHub, pull: Pull) -> None:
    hub.repos[REPO] = Repo({"Pirate LoRA-F16.gguf": gguf(kind="adapter")})
    fetched = pull(HubSource(repo=REPO))
    assert (fetched.files[0].role, fetched.files[0].name) == ("adapter", "pirate-lora-f16")
    assert (fetched.need_bytes, fetched.fits) == (0, True)


def test_brings_a_projector_that_is_named(hub: FakeHub, pull: Pull) -> None:
    hub.repos[REPO] = Repo({"mmproj-F16.gguf": gguf(kind="mmproj")})
    assert pull(HubSource(repo=REPO, file="mmproj-F16.gguf")).files[0].role == "projector"


def test_a_file_that_is_no_model_is_refused_after_its_first_bytes(hub: FakeHub, pull: Pull, store: Store) -> None:
    hub.repos[REPO] = Repo({"M-Q8_0.gguf": b"<html>" * 1_000_000})
    with pytest.raises(BadModel, match=r"M-Q8_0.gguf is not a GGUF file"):
        pull(HubSource(repo=REPO))
    assert hub.served["M-Q8_0.gguf"] <= 256 * 1024
    assert store.partials() == []


def test_what_is_in_the_store_is_not_loaded_again(hub: FakeHub, pull: Pull) -> None:
    files = offer(hub, "Q8_0")
    first, second = pull(HubSource(repo=REPO)), pull(HubSource(repo=REPO))
    assert first == second
    assert hub.served.total() == len(files["M-Q8_0.gguf"])


def test_what_huggingface_hub_has_cached_is_linked(hub: FakeHub, pull: Pull, store: Store, tmp_path: Path) -> None:
    data = offer(hub, "Q8_0")["M-Q8_0.gguf"]
    cached = tmp_path / "hf" / "hub" / "models--user--model-GGUF" / "blobs" / digest(data)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(data)
    fetched = pull(HubSource(repo=REPO))
    assert store.blob(blobs(fetched)[0]).samefile(cached)
    assert hub.served.total() == 0
    assert store.partials() == []


def test_a_broken_file_in_huggingface_hubs_cache_is_loaded_instead(
    hub: FakeHub, pull: Pull, store: Store, tmp_path: Path
) -> None:
    data = offer(hub, "Q8_0")["M-Q8_0.gguf"]
    cached = tmp_path / "hf" / "hub" / "models--user--model-GGUF" / "blobs" / digest(data)
    cached.parent.mkdir(parents=True)
    cached.write_bytes(data[:-1] + b"!")
    assert store.blob(blobs(pull(HubSource(repo=REPO)))[0]).read_bytes() == data


# --- refusals of the hub ---


def test_a_missing_repository_may_be_private(hub: FakeHub, pull: Pull) -> None:
    with pytest.raises(ModelNotFound, match=r"no repository user/none, or it is private: .* HF_TOKEN"):
        pull(HubSource(repo="user/none"))


def test_a_missing_revision_is_named(hub: FakeHub, pull: Pull) -> None:
    offer(hub, "Q8_0")
    with pytest.raises(ModelNotFound, match="no revision 'v2/x'"):
        pull(HubSource(repo=REPO, revision="v2/x"))


def test_a_repository_without_models_is_said_to_have_none(hub: FakeHub, pull: Pull) -> None:
    hub.repos[REPO] = Repo({"README.md": b"", "model.safetensors": b""})
    with pytest.raises(ModelNotFound, match="has no GGUF files"):
        pull(HubSource(repo=REPO))


def test_a_gated_repository_tells_where_to_accept_its_licence(hub: FakeHub, pull: Pull) -> None:
    offer(hub, "Q8_0", gated=True)
    with pytest.raises(AccessDenied, match=rf"accept its licence at {hub.endpoint}/{REPO}, then set HF_TOKEN"):
        pull(HubSource(repo=REPO))


def test_a_token_opens_it_and_never_leaves_the_hub(hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(hub, "Q8_0", gated=True, private=True)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    pull(HubSource(repo=REPO))
    assert all(("authorization" in asked.headers) != asked.is_cdn for asked in hub.asked)
    assert any(asked.is_cdn for asked in hub.asked)


def test_the_token_stored_in_hf_home_is_used(hub: FakeHub, pull: Pull, tmp_path: Path) -> None:
    offer(hub, "Q8_0", private=True)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "token").write_text(hub.token)
    assert pull(HubSource(repo=REPO)).files[0].name == "q8_0"


def test_a_wrong_token_is_refused(hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    hub.faults["api"].append(Fault(status=401))
    with pytest.raises(AccessDenied, match="make a token that may read it"):
        pull(HubSource(repo=REPO))


def test_a_garbled_token_is_said(hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_\u00e4")
    with pytest.raises(AccessDenied, match="characters no token has"):
        pull(HubSource(repo=REPO))


def test_offline_mode_is_said(hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadFailed, match="HF_HUB_OFFLINE is set"):
        pull(HubSource(repo=REPO))


def test_a_proxy_that_cannot_be_used_is_said(hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "what://example.org")
    with pytest.raises(DownloadFailed, match="cannot use the proxy"):
        pull(HubSource(repo=REPO))


def test_a_hub_that_cannot_be_reached_is_tried_again_and_given_up(
    hub: FakeHub, pull: Pull, monkeypatch: pytest.MonkeyPatch, progress: list[Progress]
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match=r"cannot reach 127.0.0.1: .*, 6 times in a row"):
        pull(HubSource(repo=REPO))
    assert len([told for told in progress if told.status.startswith("waiting")]) == 5


@pytest.mark.parametrize("name", ["../../etc", "user", "a/b/c", "user/na me", "user/\x00"])
def test_what_cannot_be_a_repository_is_not_asked_for(hub: FakeHub, pull: Pull, name: str) -> None:
    with pytest.raises(BadRequest, match="is not a repository"):
        pull(HubSource(repo=name))
    assert hub.asked == []


def test_an_answer_that_is_not_the_hubs_is_refused(hub: FakeHub, pull: Pull) -> None:
    hub.repos[REPO] = Repo({}, card={"license": "x"})
    hub.repos[REPO].files = {"a": b""}
    hub.faults["api"].append(Fault(status=206))
    with pytest.raises(DownloadFailed, match="check HF_ENDPOINT"):
        pull(HubSource(repo=REPO))


# --- trouble on the way ---


def test_a_busy_hub_is_waited_for_as_it_asks(hub: FakeHub, pull: Pull, progress: list[Progress]) -> None:
    offer(hub, "Q8_0")
    hub.faults["api"].append(Fault(status=429, headers={"Retry-After": "0"}))
    hub.faults["M-Q8_0.gguf"] += [Fault(status=503), Fault(status=429, headers={"Retry-After": "1"})]
    assert pull(HubSource(repo=REPO)).files[0].name == "q8_0"
    waits = [told.status for told in progress if told.status.startswith("waiting")]
    assert waits[0] == "waiting 0 s: 127.0.0.1 asks us to wait"
    assert waits[2] == "waiting 1 s: 127.0.0.1 asks us to wait"
    assert "503" in waits[1]


def test_a_server_that_only_fails_is_given_up(hub: FakeHub, pull: Pull, store: Store) -> None:
    offer(hub, "Q8_0")
    hub.faults["M-Q8_0.gguf"] += [Fault(cut_after=5 * CHUNK_BYTES)] + [Fault(status=500)] * 6
    with pytest.raises(DownloadFailed, match=r"500 .*, 6 times in a row; what has come is kept"):
        pull(HubSource(repo=REPO))
    assert hub.served["M-Q8_0.gguf"] == 4 * CHUNK_BYTES, "the header's block ends before the cut"
    pull(HubSource(repo=REPO))
    assert hub.served["M-Q8_0.gguf"] == len(hub.repos[REPO].files["M-Q8_0.gguf"])


def test_85_pulls_cut_at_random_points_load_no_byte_twice(hub: FakeHub, pull: Pull, store: Store) -> None:
    """Cuts that one pull outlives, and ones after which it gives up and the next pull goes on."""
    draw = random.Random(3)
    for i in range(85):
        data = gguf(SIZE // 2, seed=i)
        hub.repos[REPO] = Repo({"M-Q8_0.gguf": data})
        hub.faults["M-Q8_0.gguf"] += [Fault(cut_after=draw.randrange(SIZE // 3)) for _ in range(draw.randrange(1, 5))]
        if draw.random() < 0.4:
            hub.faults["M-Q8_0.gguf"] += [Fault(status=500)] * 6
            with suppress(DownloadFailed):
                pull(HubSource(repo=REPO))
            hub.faults.clear()
        fetched = pull(HubSource(repo=REPO))
        hub.faults.clear()
        assert store.blob(blobs(fetched)[0]).read_bytes() == data
        assert hub.served.pop("M-Q8_0.gguf") == len(data)
    assert store.partials() == []


def test_a_stalled_transfer_is_connected_anew(hub: FakeHub, pull: Pull, progress: list[Progress]) -> None:
    files = offer(hub, "Q8_0")
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(stall_after=CHUNK_BYTES)]
    fetched = pull(HubSource(repo=REPO), stall_s=0.3)
    assert blobs(fetched) == [digest(files["M-Q8_0.gguf"])]
    assert any("has sent nothing for" in told.status for told in progress)
    assert hub.served["M-Q8_0.gguf"] == len(files["M-Q8_0.gguf"])


def test_a_server_without_ranges_is_read_from_the_start(hub: FakeHub, pull: Pull, store: Store) -> None:
    files = offer(hub, "Q8_0")
    hub.faults["M-Q8_0.gguf"] += [Fault(cut_after=3 * CHUNK_BYTES), Fault(ignores_range=True)]
    assert blobs(pull(HubSource(repo=REPO))) == [digest(files["M-Q8_0.gguf"])]


def test_other_bytes_than_announced_are_thrown_away(hub: FakeHub, pull: Pull, store: Store) -> None:
    files = offer(hub, "Q8_0")
    hub.repos[REPO].announced["M-Q8_0.gguf"] = "0" * 64
    with pytest.raises(DigestMismatch, match=f"not {'0' * 64} as announced, and was thrown away"):
        pull(HubSource(repo=REPO))
    assert (store.partials(), store.blobs()) == ([], {})
    hub.repos[REPO].announced.clear()
    assert blobs(pull(HubSource(repo=REPO))) == [digest(files["M-Q8_0.gguf"])]


def test_one_bad_shard_fails_the_pull_and_keeps_the_others(hub: FakeHub, pull: Pull, store: Store) -> None:
    shards = {f"M-Q8_0-{i:05d}-of-00003.gguf": gguf(SIZE, i) for i in (1, 2, 3)}
    hub.repos[REPO] = Repo(shards, announced={"M-Q8_0-00002-of-00003.gguf": "1" * 64})
    with pytest.raises(DigestMismatch, match=r"M-Q8_0-00002-of-00003.gguf came with"):
        pull(HubSource(repo=REPO))
    assert "1" * 64 not in store.blobs()
    served = hub.served.total()
    hub.repos[REPO].announced.clear()
    pull(HubSource(repo=REPO))
    again = hub.served.total() - served
    assert again < 3 * SIZE


def test_a_disk_without_room_is_refused_before_the_download(hub: FakeHub, pull: Pull) -> None:
    offer(hub, "Q8_0")
    with pytest.raises(DiskFull, match=r"q8_0 needs 1\.\d MB more in .*, whose disk has 0 bytes to give"):
        pull(HubSource(repo=REPO), keep_free_bytes=10**15)
    assert hub.served["M-Q8_0.gguf"] <= 256 * 1024


def test_what_lies_behind_the_durable_bytes_is_not_believed(hub: FakeHub, pull: Pull, store: Store) -> None:
    files = offer(hub, "Q8_0")
    hub.faults["M-Q8_0.gguf"] += [Fault(), Fault(cut_after=9 * CHUNK_BYTES)] + [Fault(status=500)] * 6
    with pytest.raises(DownloadFailed):
        pull(HubSource(repo=REPO))
    partial = store.partial(f"sha256-{digest(files['M-Q8_0.gguf'])}")
    with partial.open("ab") as file:
        file.write(b"\0" * 100_000)
    assert blobs(pull(HubSource(repo=REPO))) == [digest(files["M-Q8_0.gguf"])]
    assert hub.served["M-Q8_0.gguf"] == len(files["M-Q8_0.gguf"])


# --- addresses ---


def test_an_address_is_fetched_and_its_digest_found(hub: FakeHub, pull: Pull, store: Store) -> None:
    data = gguf()
    hub.plain["/files/My Model-Q4_0.gguf"] = (data, '"1"')
    fetched = pull(UrlSource(url=f"{hub.cdn}/files/My%20Model-Q4_0.gguf?token=secret"))
    assert (fetched.files[0].name, fetched.files[0].file) == ("q4_0", "My Model-Q4_0.gguf")
    assert blobs(fetched) == [digest(data)]
    assert fetched.origin == f"{hub.cdn}/files/My%20Model-Q4_0.gguf"
    assert hub.served.total() == len(data)


@pytest.mark.parametrize("prefix", ["", "sha256:"])
def test_an_address_with_its_digest_is_checked(hub: FakeHub, pull: Pull, prefix: str) -> None:
    data = gguf()
    hub.plain["/m.gguf"] = (data, '"1"')
    good, bad = prefix + digest(data).upper(), prefix + "0" * 64
    with pytest.raises(DigestMismatch):
        pull(UrlSource(url=f"{hub.cdn}/m.gguf", sha256=bad))
    assert blobs(pull(UrlSource(url=f"{hub.cdn}/m.gguf", sha256=good))) == [digest(data)]


@pytest.mark.parametrize("etag", ['"2"', 'W/"1"', ""])
def test_a_file_that_may_have_changed_is_loaded_from_the_start(hub: FakeHub, pull: Pull, etag: str) -> None:
    old, new = gguf(seed=1), gguf(seed=2)
    hub.plain["/m.gguf"] = (old, etag if etag != '"2"' else '"1"')
    hub.faults["m.gguf"] += [Fault(), Fault(cut_after=5 * CHUNK_BYTES)] + [Fault(status=500)] * 6
    with pytest.raises(DownloadFailed):
        pull(UrlSource(url=f"{hub.cdn}/m.gguf"))
    hub.plain["/m.gguf"] = (new, etag)
    hub.faults.clear()
    assert blobs(pull(UrlSource(url=f"{hub.cdn}/m.gguf"))) == [digest(new)]


def test_an_unchanged_file_goes_on_in_the_next_pull(hub: FakeHub, pull: Pull) -> None:
    data = gguf()
    hub.plain["/m.gguf"] = (data, '"1"')
    hub.faults["m.gguf"] += [Fault(), Fault(cut_after=5 * CHUNK_BYTES)] + [Fault(status=500)] * 6
    with pytest.raises(DownloadFailed):
        pull(UrlSource(url=f"{hub.cdn}/m.gguf"))
    assert blobs(pull(UrlSource(url=f"{hub.cdn}/m.gguf"))) == [digest(data)]
    assert hub.served.total() == len(data)


def test_shards_of_an_address_come_from_beside_it(hub: FakeHub, pull: Pull) -> None:
    shards = [gguf(seed=1), gguf(seed=2)]
    for i, data in enumerate(shards, 1):
        hub.plain[f"/a/M-0000{i}-of-00002.gguf"] = (data, f'"{i}"')
    fetched = pull(UrlSource(url=f"{hub.cdn}/a/M-00001-of-00002.gguf"))
    assert blobs(fetched) == [digest(data) for data in shards]
    assert fetched.need_bytes > sum(map(len, shards))


def test_a_missing_address_is_said(hub: FakeHub, pull: Pull) -> None:
    with pytest.raises(ModelNotFound, match=r"there is no .*/m.gguf \(404\)"):
        pull(UrlSource(url=f"{hub.cdn}/m.gguf"))


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://example.org/m.gguf", "use https, or give its sha256"),
        ("ftp://example.org/m.gguf", "is not an https address"),
        ("https:///m.gguf", "is not an https address"),
        ("https://exa mple/\x00", "is not an"),
    ],
)
def test_addresses_nobody_should_believe_are_refused(pull: Pull, url: str, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        pull(UrlSource(url=url))


def test_one_digest_does_not_speak_for_many_files(pull: Pull) -> None:
    with pytest.raises(BadRequest, match="2 files"):
        pull(UrlSource(url="https://example.org/M-00001-of-00002.gguf", sha256="0" * 64))


# --- files of this machine ---


def test_a_file_is_copied_and_checked(pull: Pull, store: Store, tmp_path: Path, progress: list[Progress]) -> None:
    source = tmp_path / "M-Q8_0.gguf"
    source.write_bytes(gguf())
    fetched = pull(FileSource(path=str(source)))
    assert store.blob(blobs(fetched)[0]).read_bytes() == source.read_bytes()
    assert not store.blob(blobs(fetched)[0]).samefile(source)
    assert (fetched.files[0].name, fetched.origin) == ("q8_0", str(source))
    copying = [told.completed for told in progress if told.status == "copying M-Q8_0.gguf"]
    assert copying[-1] == source.stat().st_size
    with pytest.raises(DigestMismatch, match="is it the right file"):
        pull(FileSource(path=str(source), sha256="0" * 64))
    assert store.partials() == []


def test_a_missing_file_is_said(pull: Pull, tmp_path: Path) -> None:
    with pytest.raises(BadModel, match="does not exist"):
        pull(FileSource(path=str(tmp_path / "none.gguf")))
