"""The hub: the real client against a small server that can fail in every way; each failure is one clear line."""

from __future__ import annotations

import gzip
import io
import json
import logging
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http as hub_http

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Role
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.sources.hub import fetch
from pytest_proofpack.sources.hub_cache import snapshot_problem
from pytest_proofpack.sources.hub_client import Hub, Patience
from pytest_proofpack.sources.source import Snapshot, Source
from tests.support.hub_server import Fault, HostedRepo, HubServer, hub_server

WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "modeling_small.py": b"print('run')",
    "README.md": b"# A model",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}
PATIENCE = Patience(timeout=5.0, tries=2, longest_wait=2.0)


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda _: None)  # neither the client nor we need to pause here
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    return Hub(server.url, tmp_path / "cache", PATIENCE)


@pytest.fixture(autouse=True)
def repo(server: HubServer) -> HostedRepo:
    hosted = server.add("acme/small", card={"license": "apache-2.0"})
    hosted.commit(FILES)
    return hosted


SOURCE = Source(Role.MODEL, "acme/small", "acme/small", None)


def model(id_: str, asked: str | None = None) -> Source:
    return Source(Role.MODEL, id_, id_, asked)


def fetch_one(hub: Hub, source: Source = SOURCE, pin: Pin | None = None) -> Snapshot:
    return fetch(hub, [source], {source.key: pin} if pin else {}, lambda _: None)[source.key]


def problem(hub: Hub, source: Source = SOURCE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fetch_one(hub, source)
    return str(caught.value)


def stored(found: Snapshot) -> set[str]:
    assert found.path is not None
    return {path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()}


class TestDownload:
    def test_only_what_is_needed_and_by_commit(self, hub: Hub, server: HubServer, repo: HostedRepo) -> None:
        found = fetch_one(hub)
        assert (found.pin.revision, found.pin.license) == (repo.branches["main"], "apache-2.0")
        assert (found.pin.gated, found.pin.private) == (False, False)
        assert stored(found) == NEEDED
        asked = [request for request in server.requests if "/resolve/" in request]
        assert asked
        assert all(f"/resolve/{repo.branches['main']}/" in request for request in asked)

    def test_code_only_if_it_may_run(self, hub: Hub) -> None:
        assert stored(fetch_one(hub, replace(SOURCE, remote_code=True))) == {*NEEDED, "modeling_small.py"}

    @pytest.mark.parametrize("asked", ["v1", "refs/pr/1"])
    def test_branches_and_tags(self, hub: Hub, repo: HostedRepo, asked: str) -> None:
        commit = repo.commit({**FILES, "config.json": b'{"model_type": "gpt2"}'}, branch=asked)
        repo.commit(FILES)
        assert fetch_one(hub, model("acme/small", asked)).pin.revision == commit

    def test_a_moved_branch_does_not_move_a_pin(self, hub: Hub, repo: HostedRepo) -> None:
        first = fetch_one(hub).pin
        repo.commit({**FILES, "config.json": b'{"model_type": "gpt2"}'})
        again = fetch_one(hub, pin=first)
        assert again.pin == first
        assert (again.path or Path()).joinpath("config.json").read_bytes() == FILES["config.json"]
        assert fetch_one(hub).pin.revision == repo.branches["main"] != first.revision

    def test_shards_are_those_of_the_index(self, hub: Hub, repo: HostedRepo) -> None:
        shards = {f"model-0000{number}-of-00002.safetensors": bytes([number]) * 100 for number in (1, 2)}
        index = json.dumps({"weight_map": dict.fromkeys(["a", "b"], "model-00001-of-00002.safetensors")}).encode()
        base = {name: content for name, content in FILES.items() if name != "model.safetensors"}
        repo.commit({**base, **shards, "model.safetensors.index.json": index, "consolidated.safetensors": b"x" * 100})
        assert stored(fetch_one(hub)) == {
            *(NEEDED - {"model.safetensors"}),
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
        }

    def test_a_data_set_brings_its_card_and_the_split(self, hub: Hub, server: HubServer) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.table({"text": ["one", "two"]}), buffer)
        rows = buffer.getvalue()
        card = (
            b"---\nconfigs:\n- config_name: small\n  data_files:\n"
            b"  - {split: validation, path: s/validation-*}\n  - {split: train, path: s/train-*}\n---\n"
        )
        files = {f"s/{split}-00000-of-00001.parquet": rows for split in ("validation", "train")}
        repo = server.add("acme/texts", "dataset")
        repo.commit({**files, "README.md": card, "load.py": b"print('run')"})
        text = TextSpec("hf_text", dataset="acme/texts", config="small", split="validation")
        found = fetch_one(hub, Source(Role.DATASET, "acme/texts", "acme/texts", None, text=text))
        assert stored(found) == {"README.md", "s/validation-00000-of-00001.parquet"}

    def test_the_licence_that_the_suite_names_stands_in(self, hub: Hub, server: HubServer) -> None:
        server.add("acme/other", card={"license": "other", "license_name": "acme-1"}).commit(FILES)
        server.add("acme/none").commit(FILES)
        assert fetch_one(hub, model("acme/other")).pin.license == "acme-1"
        assert fetch_one(hub, replace(model("acme/none"), license="mit")).pin.license == "mit"

    def test_what_is_said(self, hub: Hub, repo: HostedRepo) -> None:
        lines: list[str] = []
        fetch(hub, [SOURCE], {}, lines.append)
        commit = repo.branches["main"]
        assert lines == [
            f"acme/small: default branch is commit {commit}; license apache-2.0; 3 files, 1.02 MB, 1.02 MB to download",
            "acme/small: downloading",
        ]
        lines.clear()
        fetch(hub, [replace(SOURCE, revision="main")], {}, lines.append)
        assert lines == [f"acme/small: main is commit {commit}; license apache-2.0; 3 files, 1.02 MB, all in the cache"]


class TestInterruptions:
    def test_a_broken_transfer_goes_on_where_it_was(
        self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            "huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000
        )  # what is kept of a file, at least
        server.faults.append(Fault(0, r"GET .*model\.safetensors", times=1, cut=600_000))
        fetch_one(hub)
        assert [request for request in server.requests if "[range]" in request]
        assert server.bytes_sent < len(WEIGHTS) + 100_000

    def test_what_is_complete_is_not_sent_again(self, hub: Hub, server: HubServer) -> None:
        server.faults.append(Fault(500, r"GET .*/tokenizer\.json"))
        assert "acme/small" in problem(hub)
        server.faults.clear()
        server.bytes_sent = 0
        fetch_one(hub)
        assert server.bytes_sent < len(WEIGHTS)

    def test_a_busy_hub_is_asked_again(self, hub: Hub, server: HubServer) -> None:
        server.faults += [
            Fault(429, "GET /api/models/.*/revision", times=1, headers={"Retry-After": "1"}),
            Fault(503, "GET /api/models/.*/tree", times=1),
        ]
        fetch_one(hub, replace(SOURCE, revision="main"))
        assert not any(fault.times for fault in server.faults)


def gated(server: HubServer) -> None:
    server.repos["model", "acme/small"].gated = "manual"


def private(server: HubServer) -> None:
    server.repos["model", "acme/small"].private = True


def missing(server: HubServer) -> None:
    del server.repos["model", "acme/small"]


def no_safetensors(server: HubServer) -> None:
    server.repos["model", "acme/small"].commit({"config.json": b"{}", "pytorch_model.bin": b"pickled"})


def disabled(server: HubServer) -> None:
    server.repos["model", "acme/small"].disabled = True


def faulty(*args: object, **facts: object) -> object:
    return lambda server: server.faults.append(Fault(*args, **facts))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (gated, "gated, and you are not logged in; accept its conditions at {url}/acme/small, then run: hf auth login"),
        (private, "not there, or private (you are not logged in; HTTP 401); check the id, or run: hf auth login"),
        (missing, "not there, or private (you are not logged in; HTTP 401); check the id, or run: hf auth login"),
        (disabled, "the hub has disabled it"),
        (
            no_safetensors,
            "has no weights as model.safetensors or model.safetensors.index.json, only pickled ones "
            "(pytorch_model.bin)",
        ),
        (faulty(429, "GET /api"), "the hub limits your rate (HTTP 429), also after 2 tries; try again later"),
        (
            faulty(429, "GET /api", headers={"Retry-After": "3600"}),
            "the hub is busy or limits your rate (HTTP 429): it asks to wait 3600 s, which is longer than the 2 s we "
            "wait; try again later",
        ),
        (
            faulty(429, "GET /api", headers={"RateLimit": '"api";r=0;t=55'}),
            "the hub is busy or limits your rate (HTTP 429): it asks to wait 55 s, which is longer than the 2 s we "
            "wait; try again later",
        ),
        (faulty(503, "GET /api"), "the hub fails (HTTP 503), also after 2 tries; try again later"),
        (faulty(200, "GET /api", body=b"<html>"), "{url} sent an answer that makes no sense (JSONDecodeError: *"),
        (faulty(200, "GET /api", body=b'{"sha": 1}'), "{url} sent an answer that makes no sense (KeyError: 'id')"),
        (
            faulty(200, "GET /api", body=b'{"id": "a", "sha": "main"}'),
            "asked for the default branch, the hub answers with commit 'main'",
        ),
    ],
)
def test_each_refusal_is_one_line(hub: Hub, server: HubServer, damage: object, expected: str) -> None:
    damage(server)  # type: ignore[operator]
    text = problem(hub)
    wanted = f"acme/small: {expected}".replace("{url}", server.url)
    if wanted.endswith("*"):
        assert text.startswith(wanted[:-1])
    else:
        assert text == f"{wanted}. Nothing was downloaded."
    assert "\n" not in text
    assert not (hub.cache / "models--acme--small" / "snapshots").exists()


@pytest.mark.parametrize(
    ("path", "size", "expected"),
    [("../out", 3, "lists a file that cannot be one: '../out'"), ("a", -1, "lists a file that cannot be one: 'a'")],
)
def test_a_hostile_listing(hub: Hub, server: HubServer, path: str, size: int, expected: str) -> None:
    entry = {"rfilename": path, "size": size, "blobId": "0" * 40}
    answer = {"id": "acme/small", "sha": "a" * 40, "siblings": [entry]}
    server.faults.append(Fault(200, "GET /api", body=json.dumps(answer).encode()))
    assert expected in problem(hub)


class TestRefusals:
    def test_all_of_them_are_told_at_once(self, hub: Hub, server: HubServer) -> None:
        server.add("acme/gated", gated="auto").commit(FILES)
        sources = [model("acme/gone"), SOURCE, model("acme/gated"), model("acme/small", "v9"), model("no id")]
        with pytest.raises(ConfigurationError) as caught:
            fetch(hub, sources, {}, lambda _: None)
        lines = str(caught.value).splitlines()
        assert lines[0] == "4 things are in the way:"
        assert [line.split(":")[0].strip() for line in lines[1:5]] == ["acme/gone", "acme/gated", "acme/small", "no id"]
        assert "has no revision 'v9'" in lines[3]
        assert "not the id of a repository" in lines[4]
        assert lines[5] == "Nothing was downloaded."

    @pytest.mark.parametrize("facts", [{"gated": "manual"}, {"private": True}])
    def test_a_token_that_was_granted_access_opens_the_door(
        self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch, facts: dict[str, Any]
    ) -> None:
        server.add("acme/closed", readers=frozenset({"hf_mine"}), **facts).commit(FILES)
        monkeypatch.setenv("HF_TOKEN", "hf_other")
        assert "your token was not granted access" in problem(hub, model("acme/closed"))
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        lines: list[str] = []
        source = model("acme/closed")
        pin = fetch(hub, [source], {}, lines.append)[source.key].pin
        assert (pin.gated, pin.private) == ("gated" in facts, "private" in facts)
        assert "used because your token was granted access to it" in lines[0]

    def test_a_hub_that_is_not_there(self, hub: Hub, server: HubServer) -> None:
        server.stop()
        assert problem(hub).startswith(f"acme/small: {server.url} cannot be reached, or breaks off (")

    @pytest.mark.parametrize("where", ["GET /api/models/acme/small/revision", "GET .*/tree", "HEAD ", "GET .*weights"])
    def test_a_hub_that_hangs(self, hub: Hub, server: HubServer, where: str) -> None:
        server.faults.append(Fault(0, where.replace("weights", "model.safetensors"), hang=True))
        impatient = replace(hub, patience=Patience(timeout=0.3, tries=2))
        expected = f"acme/small: {server.url} did not answer within 0.3 s"
        assert problem(impatient, replace(SOURCE, revision="main")).startswith(expected)

    def test_a_full_disk(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        usage = shutil.disk_usage(hub.cache.parent)._replace(free=1_000_000)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        assert f"the download needs 1.02 MB, but only 1 MB are free in {hub.cache}." in problem(hub)
        monkeypatch.undo()
        fetch_one(hub)
        monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
        fetch_one(hub)  # nothing is left to download

    @pytest.mark.parametrize(
        ("fault", "expected"),
        [
            (Fault(0, r"GET .*model\.safetensors", garble=True), "model.safetensors has the SHA-256"),
            (Fault(0, r"GET .*config\.json", garble=True), "config.json has the Git hash"),
            (
                Fault(0, r"GET .*model\.safetensors", lie=10),
                "acme/small: the download failed (Consistency check failed",
            ),
        ],
    )
    def test_a_file_that_is_not_what_the_hub_says(
        self, hub: Hub, server: HubServer, fault: Fault, expected: str
    ) -> None:
        server.faults.append(fault)
        assert expected in problem(hub)


class TestCache:
    """Offline: what lies in the cache is compared with the pinned commit, without a question to the hub."""

    @pytest.fixture
    def found(self, hub: Hub, server: HubServer) -> Snapshot:
        result = fetch_one(hub)
        server.requests.clear()
        return result

    def check(self, hub: Hub, found: Snapshot) -> str | None:
        return snapshot_problem(SOURCE, str(found.pin.revision), None, hub.cache)

    def test_whole(self, hub: Hub, found: Snapshot, server: HubServer) -> None:
        assert self.check(hub, found) is None
        assert server.requests == []

    @pytest.mark.parametrize("listed", [True, False])
    @pytest.mark.parametrize("name", sorted(NEEDED))
    def test_a_changed_file_is_named(self, hub: Hub, found: Snapshot, name: str, *, listed: bool) -> None:
        if not listed:  # as older versions of the client leave it
            shutil.rmtree(hub.cache / "models--acme--small" / "trees")
        assert found.path is not None
        file = (found.path / name).resolve()
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert f"{name} has the" in str(self.check(hub, found))

    def test_a_link_to_another_blob(self, hub: Hub, found: Snapshot) -> None:
        assert found.path is not None
        (found.path / "config.json").unlink()
        (found.path / "config.json").symlink_to((found.path / "tokenizer.json").readlink())
        assert "config.json has 2 bytes instead of 23" in str(self.check(hub, found))

    def test_a_missing_file(self, hub: Hub, found: Snapshot) -> None:
        assert found.path is not None
        (found.path / "tokenizer.json").unlink()
        assert "lacks tokenizer.json of commit" in str(self.check(hub, found))

    @pytest.mark.usefixtures("found")
    def test_another_commit(self, hub: Hub) -> None:
        line = str(snapshot_problem(SOURCE, "0" * 40, None, hub.cache))
        assert line == f"acme/small: commit {'0' * 40} is not in the cache ({hub.cache}/models--acme--small)"

    def test_copies_without_a_listing_cannot_be_checked(self, hub: Hub, found: Snapshot) -> None:
        shutil.rmtree(hub.cache / "models--acme--small" / "trees")
        assert found.path is not None
        content = (found.path / "config.json").read_bytes()
        (found.path / "config.json").unlink()
        (found.path / "config.json").write_bytes(content)
        assert "config.json cannot be checked" in str(self.check(hub, found))


class TestBounds:
    """A hub may send what it likes: what is read of it is bounded."""

    def test_an_answer_without_an_end(self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytest_proofpack.sources.hub_client.MAX_ANSWER", 100_000)
        server.faults.append(Fault(200, "GET /api", body=b"[" * 200_000))
        assert "the hub sends more than 100 kB, which nothing that is needed has" in problem(hub)

    def test_a_file_longer_than_any_that_is_listed(
        self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_proofpack.sources.hub_client.MAX_ANSWER", 20_000)
        server.faults.append(Fault(200, r"GET .*model\.safetensors", body=WEIGHTS + bytes(2000)))
        assert "the hub sends more than 1.02 MB" in problem(hub)

    def test_an_answer_that_unfolds(self, hub: Hub, server: HubServer) -> None:
        bomb = gzip.compress(bytes(10_000_000))
        server.faults.append(Fault(200, "GET /api", body=bomb, headers={"Content-Encoding": "gzip"}))
        assert "the hub answers compressed (gzip, HTTP 200), unasked" in problem(hub)


class TestAfterwards:
    """What the process has made of huggingface_hub's client is as it was."""

    def test_the_client_is_offline_again(self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        fetch_one(hub)
        with pytest.raises(OfflineModeIsEnabled):
            get_session().get(server.url)

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_factory_and_a_client_of_the_users_own(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, *, fails: bool
    ) -> None:
        for name in ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_CLIENT"):  # put back after the test
            monkeypatch.setattr(f"huggingface_hub.utils._http.{name}", getattr(hub_http, name))
        made: list[httpx2.Client] = []

        def own_factory() -> httpx2.Client:
            made.append(httpx2.Client(headers={"X-Proxy": "ours"}))
            return made[-1]

        set_client_factory(own_factory)
        own = get_session()
        problem(hub, model("acme/gone")) if fails else fetch_one(hub)
        assert get_session() is own
        assert not own.is_closed
        set_client_factory(hub_http._GLOBAL_CLIENT_FACTORY)  # closes the client
        assert get_session() is made[1]
        assert get_session().headers["X-Proxy"] == "ours"

    @pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
    def test_how_much_it_says(self, hub: Hub, level: int) -> None:
        logger = logging.getLogger("huggingface_hub")
        before = logger.level
        try:
            logger.setLevel(level)
            fetch_one(hub)
            assert logger.level == level
        finally:
            logger.setLevel(before)
