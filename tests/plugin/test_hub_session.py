"""Sessions whose model and text come from the hub: pinned once with network, rerun without, every failure told."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import verify_pack
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text.synthetic import generate
from tests.plugin.conftest import certificates
from tests.support.hub_server import HostedRepo, HubServer, hub_server

pytestmark = pytest.mark.slow  # sessions that certify a model

USAGE_ERROR = 4
NO_SOCKETS = """
import os, pathlib, socket

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        with open(os.environ["CONNECTIONS"], "a") as log:
            print(address, file=log)
        raise OSError("no network in this test")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


def first_on_path(folder: Path) -> str:
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


SUITE = """
schema = "proof_pack_suite_v1"
name = "hosted"
scenarios = "scenarios.json"
[[models]]
id = "acme/small"
{extra}
[text]
provider = "hf_text"
dataset = "acme/texts"
[windows]
seq_len = 32
[runs]
calibration = 1
clean = 1
stress = 0
error = 0
"""


@dataclass(frozen=True)
class Site:
    """A hub with a model and a data set, and an empty place to work in."""

    server: HubServer
    folder: Path
    model: HostedRepo

    @property
    def commit(self) -> str:
        return self.model.branches["main"]

    def run(self, *options: str, extra: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        """Run pytest on the suite, as a user whose cache and hub these are."""
        (self.folder / "hosted.toml").write_text(SUITE.format(extra=extra))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODEL_", "PYTEST_"))}
        own = {"HF_ENDPOINT": self.server.url, "HF_HOME": str(self.folder / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "20"}
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--proofpack-sign=off"]
        if not any(option.startswith("--proofpack-baseline") for option in options):
            command.append("--proofpack-suite=hosted.toml")
        return subprocess.run(
            [*command, *options],
            cwd=self.folder,
            env={**kept, **own, **environment},
            capture_output=True,
            text=True,
            check=False,
        )

    def error(self, *options: str, extra: str = "") -> str:
        """Run pytest, which has to refuse, and return what it says."""
        result = self.run(*options, extra=extra)
        assert result.returncode == USAGE_ERROR, result.stdout + result.stderr
        assert "Traceback" not in result.stdout + result.stderr
        return result.stderr.strip()


def make_site(folder: Path, server: HubServer, model: Path) -> Site:
    document = json.loads((suites_directory() / "scenarios.json").read_text())
    document["scenarios"] = [entry for entry in document["scenarios"] if entry["id"] == "quant_4bit_clean"]
    (folder / "scenarios.json").write_text(json.dumps(document))
    rows = io.BytesIO()
    pq.write_table(pa.table({"text": [document.text for document in generate(3, 700)]}), rows)
    server.add("acme/texts", "dataset", card={"license": "cc0-1.0"}).commit(
        {"data/validation-00000-of-00001.parquet": rows.getvalue(), "README.md": b"# Texts", "load.py": b"1/0"}
    )
    repo = server.add("acme/small", card={"license": "mit"})
    repo.commit_directory(model, pytorch_model__bin=b"pickled", modeling__py=b"1/0")
    return Site(server, folder, repo)


@pytest.fixture
def site(tmp_path: Path, saved_model: Path) -> Iterator[Site]:
    with hub_server() as server:
        yield make_site(tmp_path, server, saved_model)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory, saved_model: Path) -> Iterator[Site]:
    """Return a site whose first run has filled ``first``, the cache and the pins; the branch has moved since."""
    folder = tmp_path_factory.mktemp("site")
    with hub_server() as server:
        site = make_site(folder, server, saved_model)
        pinned = site.commit
        result = site.run("--proofpack-net=1", "--proofpack-out=first")
        assert result.returncode == 0, result.stdout + result.stderr
        (folder / "output.txt").write_text(result.stdout)
        site.model.commit({"config.json": b"{}"})
        assert site.commit != pinned
        yield site


PINS = "--proofpack-revisions=first/state/model_revisions.json"


def read(path: Path) -> JsonObject:
    document: JsonObject = json.loads(path.read_text())
    return document


def lasting(run: Path) -> dict[str, JsonObject]:
    """Return the certificates of a run without what may differ, and without the digest over all of it."""
    return {
        name: {key: value for key, value in certificate.items() if key not in {"volatile", "certificate_digest"}}
        for name, certificate in certificates(run).items()
    }


class TestFirstRun:
    def test_commits_and_licences_are_written_down(self, fetched: Site) -> None:
        state = read(fetched.folder / "first/state/model_revisions.json")
        model, dataset = state["models"]["acme/small"], state["datasets"]["acme/texts"]
        assert (state["suite"], state["model_list"]) == ("hosted", ["acme/small"])
        assert model["revision"] in fetched.model.commits
        assert model.keys() == {"revision", "resolved_at", "gated", "private", "license"}
        assert (model["gated"], model["private"], model["license"]) == (False, False, "mit")
        assert (len(dataset["revision"]), dataset["license"]) == (40, "cc0-1.0")

    def test_certificates_and_pack_carry_them(self, fetched: Site) -> None:
        pinned = read(fetched.folder / "first/state/model_revisions.json")
        found = certificates(fetched.folder / "first")
        assert len(found) == 2
        for certificate in found.values():
            assert certificate["meta"]["revision"] == pinned["models"]["acme/small"]["revision"]
            assert certificate["dataset"]["source"]["revision"] == pinned["datasets"]["acme/texts"]["revision"]
        manifest = read(fetched.folder / "first/proof_pack/manifest.json")
        assert manifest["models"][0]["revision"] == pinned["models"]["acme/small"]["revision"]
        assert (manifest["model_licenses"], manifest["network_mode"]) == ({"acme/small": "mit"}, "online")
        assert verify_pack(fetched.folder / "first/proof_pack", Demands()).ok

    def test_what_a_user_sees(self, fetched: Site) -> None:
        shown = (fetched.folder / "output.txt").read_text()
        commit = read(fetched.folder / "first/state/model_revisions.json")["models"]["acme/small"]["revision"]
        assert f"proofpack: acme/small: default branch is commit {commit}; license mit; " in shown
        assert "proofpack: data set acme/texts: downloading" in shown
        assert f"rerun it offline with: {PINS}" in shown

    def test_pickles_and_code_stay_where_they_are(self, fetched: Site) -> None:
        names = {path.name for path in (fetched.folder / "home/hub").glob("*/snapshots/*/**/*")}
        assert {"model.safetensors", "config.json", "validation-00000-of-00001.parquet"} <= names
        assert not {name for name in names if name.endswith((".py", ".bin"))}


class TestLaterRuns:
    def test_offline_gives_the_same_certificates_and_opens_no_socket(self, fetched: Site, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(NO_SOCKETS)
        before = len(fetched.server.requests)
        result = fetched.run(
            *(PINS, "--proofpack-out=offline", "-n1"),
            PYTHONPATH=first_on_path(tmp_path),
            CONNECTIONS=str(tmp_path / "connections"),
        )
        assert result.returncode == 0, result.stdout + result.stderr
        assert not (tmp_path / "connections").exists()
        assert len(fetched.server.requests) == before
        assert lasting(fetched.folder / "offline") == lasting(fetched.folder / "first")
        assert read(fetched.folder / "offline/proof_pack/manifest.json")["network_mode"] == "offline"

    def test_with_network_a_moved_branch_changes_nothing_either(self, fetched: Site) -> None:
        fetched.server.bytes_sent = 0
        (snapshot,) = (fetched.folder / "home/hub/models--acme--small/snapshots").iterdir()
        (snapshot / "NOTES.md").write_text("fetched by somebody else: no part of what is certified")
        result = fetched.run(PINS, "--proofpack-net=1", "--proofpack-out=again", "-k", "quant_4bit_clean")
        pinned, again = (
            read(fetched.folder / run / "state/model_revisions.json")["models"] for run in ("first", "again")
        )
        assert pinned == again, result.stdout + result.stderr
        assert fetched.server.bytes_sent < 50_000  # questions, no weights
        name = next(name for name in lasting(fetched.folder / "again") if "quant" in name)
        assert lasting(fetched.folder / "again")[name] == lasting(fetched.folder / "first")[name]

    def test_pinned_by_hand(self, fetched: Site) -> None:
        pinned = read(fetched.folder / "first/state/model_revisions.json")
        commit = pinned["models"]["acme/small"]["revision"]
        error = fetched.error(f"--proofpack-model=acme/small@{commit}", "--proofpack-out=hand")
        assert "data set acme/texts: no commit is pinned for its default branch" in error
        assert "acme/small: " not in error
        contradiction = fetched.error(f"--proofpack-model=acme/small@{'0' * 40}", PINS, "--proofpack-out=hand")
        assert f"acme/small: commit {'0' * 40} is asked for, but {PINS} has {commit}. Correct one" in contradiction

    def test_a_cache_that_does_not_fit_the_commit(self, fetched: Site, tmp_path: Path) -> None:
        shutil.copytree(fetched.folder, tmp_path / "copy", symlinks=True)
        copy = Site(fetched.server, tmp_path / "copy", fetched.model)
        (weights,) = (copy.folder / "home/hub").glob("*/snapshots/*/model.safetensors")
        raw = bytearray(weights.read_bytes())
        raw[-1] ^= 1
        weights.resolve().write_bytes(raw)
        error = copy.error(PINS, "--proofpack-out=damaged")
        assert "acme/small: in the cache, model.safetensors has the SHA-256" in error
        assert "Delete it below" in error
        shutil.rmtree(copy.folder / "home/hub/models--acme--small")
        error = copy.error(PINS, "--proofpack-out=gone")
        assert "acme/small: commit" in error
        assert "is not in the cache" in error
        assert "download what is missing: pytest -p no:cacheprovider --proofpack-sign=off " in error
        assert error.endswith(f"--proofpack-suite=hosted.toml {PINS} --proofpack-out=gone --proofpack-net=1")


class TestRefusals:
    def test_without_pins_nothing_is_asked(self, site: Site) -> None:
        error = site.error("--proofpack-out=run")
        assert error.splitlines()[:3] == [
            "ERROR: 2 things are in the way:",
            "  acme/small: no commit is pinned for its default branch",
            "  data set acme/texts: no commit is pinned for its default branch",
        ]
        assert "--proofpack-suite=hosted.toml --proofpack-out=run --proofpack-net=1\n" in error
        assert site.server.requests == []

    def test_everything_that_cannot_be_used_is_told_at_once(self, site: Site) -> None:
        site.model.gated = "manual"
        del site.server.repos["dataset", "acme/texts"]
        error = site.error("--proofpack-net=1", "--proofpack-out=run", extra='[[models]]\nid = "acme/gone"')
        assert "acme/small: gated, and you are not logged in" in error
        assert "acme/gone: not there, or private" in error
        assert "data set acme/texts: not there, or private" in error
        assert not (site.folder / "home/hub").exists()
        assert not (site.folder / "run").exists()

    def test_a_hub_that_cannot_be_reached(self, site: Site, tmp_path: Path) -> None:
        (tmp_path / "sitecustomize.py").write_text(NO_SOCKETS)
        log = tmp_path / "connections"
        result = site.run("--proofpack-net=1", PYTHONPATH=first_on_path(tmp_path), CONNECTIONS=str(log))
        assert result.returncode == USAGE_ERROR
        assert result.stderr.count(f"{site.server.url} cannot be reached, or breaks off (no network in this test)") == 2
        assert "127.0.0.1" in log.read_text()  # so the test of offline runs would see a connection

    def test_a_revisions_file_that_is_none(self, site: Site) -> None:
        (site.folder / "pins.json").write_text('{"models": {"acme/small": {"revision": "main"}}}')
        error = site.error("--proofpack-revisions=pins.json")
        assert "pins.json is not a usable model revisions file: models['acme/small'].revision: 'main' does" in error
        assert "missing.json" in site.error("--proofpack-revisions=missing.json")


def test_a_run_is_gone_on_with_at_its_own_commits(fetched: Site) -> None:
    resumed = fetched.folder / "resumed"
    shutil.copytree(fetched.folder / "first", resumed)
    next(resumed.glob("*/certificates/quant_4bit_clean/run_1/*.json")).unlink()
    result = fetched.run("--proofpack-out=resumed", "--proofpack-resume", "-v")

    assert result.returncode == 0, result.stdout + result.stderr
    assert "proofpack: resumed: 1 of 2 certificates reused; 1 not made yet" in result.stdout
    assert lasting(resumed) == lasting(fetched.folder / "first")
    assert read(resumed / "state/run.json")["network_mode"] == "online"  # of some session
    assert read(resumed / "proof_pack/manifest.json")["network_mode"] == "online"


def test_full_is_planned_without_a_question_to_the_hub(site: Site) -> None:
    result = site.run("--proofpack-suite=full", "--collect-only", "-q")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "test_certificate[mistralai/Mistral-7B-v0.1-quant_4bit_clean-run_1]" in result.stdout
    expected = "Qwen/Qwen1.5-72B: 72,287,920,128 parameters, about 145 GB to download in 16 bits"
    needs = r", needs about ([0-9.]+) GiB of one GPU, or of several ([0-9.]+) GiB"
    said = re.search(re.escape(expected) + needs, result.stdout)
    assert said is not None
    assert 135 < float(said[1]) < 180
    assert 3 < float(said[2]) < 20
    assert "to download in all: about 416 GB; " in result.stdout
    assert site.server.requests == []
    assert not (site.folder / "home").exists()


def test_an_edited_model_of_the_hub_beside_its_baseline(site: Site, saved_model: Path, sample_text: Path) -> None:
    files = {path.name: path.read_bytes() for path in saved_model.iterdir()}
    edited = site.model.commit(files, branch="edited")
    models = ("--proofpack-baseline=acme/small", "--proofpack-subject=acme/small@edited")
    options = (*models, f"--proofpack-text={sample_text}", "--proofpack-runs=calibration:0")
    result = site.run(*options, "--proofpack-net=1", "--proofpack-out=first")
    assert result.returncode == 0, result.stdout + result.stderr
    state = read(site.folder / "first/state/model_revisions.json")
    assert state["models"]["acme/small"]["revision"] == site.commit
    assert state["subjects"]["acme/small"]["revision"] == edited
    (certificate,) = certificates(site.folder / "first").values()
    assert certificate["provenance"]["edit"]["revision"] == edited

    again = site.run(*options, PINS, "--proofpack-out=second", "-n1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert lasting(site.folder / "second") == lasting(site.folder / "first")


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_of_a_model_runs_only_if_the_suite_says_so_and_then_it_is_told(site: Site, saved_model: Path) -> None:
    config = {
        **read(saved_model / "config.json"),
        "model_type": "own",
        "architectures": ["OwnForCausalLM"],
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"},
    }
    files = {path.name: path.read_bytes() for path in saved_model.iterdir()}
    site.model.commit({**files, "config.json": json.dumps(config).encode(), "own.py": OWN_CODE.encode()})

    refused = site.error("--proofpack-net=1", "--proofpack-out=refused")
    assert "acme/small: transformers cannot use" in refused

    options = ("--proofpack-net=1", "--proofpack-out=trusted", "-k", "quant_4bit_clean")
    result = site.run(*options, extra="trust_remote_code = true")
    assert "ran code that came with the model (trust_remote_code): acme/small" in result.stdout, result.stderr
    (certificate,) = certificates(site.folder / "trusted").values()
    assert certificate["meta"]["trust_remote_code"] is True
