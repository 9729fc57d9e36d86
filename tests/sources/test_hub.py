"""The hub: the real client against a small server that can fail in every way; each failure is one clear line."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pytest_proofpack.common.files import Space
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Role
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.sources.hub import fetch
from pytest_proofpack.sources.hub_client import Hub, Patience
from pytest_proofpack.sources.source import Source
from tests.support.hosted_model import FILES, NEEDED, SOURCE, WEIGHTS, fetch_one, model, problem, stored
from tests.support.hub_server import Fault, HostedRepo, HubServer


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
        little = Space(bytes=1_000_000, inodes=100)
        monkeypatch.setattr("pytest_proofpack.sources.hub.free_space", lambda _: little)
        assert f"the download needs 1.02 MB, but only 1 MB are free in {hub.cache}." in problem(hub)
        monkeypatch.undo()
        fetch_one(hub)
        monkeypatch.setattr("pytest_proofpack.sources.hub.free_space", lambda _: little)
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
