"""A GGUF file certified against the safetensors that it was made of, and as a baseline of its own."""

from __future__ import annotations

import math
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.files import sha256_file
from pytest_proofpack.common.model_directory import directory_digest
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.engine.certify import certify, loaded_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.measures.generation import generation_facts
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.load import load_model
from pytest_proofpack.models.same_values import hold_same_values
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.gguf_files import write_gguf
from tests.support.subject_runs import subject_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    (folder / "edited").mkdir()
    write_gguf(folder / "edited" / "tiny-small.gguf", EMBEDDED, "Q4_0")
    return folder


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return subject_run(folder, "edited")


@pytest.fixture(scope="module")
def bench(run: Run) -> Workbench:
    return Workbench(run)


@pytest.fixture(scope="module")
def certificate(run: Run, bench: Workbench) -> JsonObject:
    request = run.requests[-1]
    baseline = bench.baseline(request)
    return certify(run, loaded_subject(run, baseline, request, bench.checkpoint(request, baseline)))


def loss(model: PreTrainedModel, windows: torch.Tensor) -> float:
    """Return the mean loss of a model on windows, by transformers alone."""
    with torch.no_grad():
        return float(torch.stack([model(input_ids=part, labels=part).loss for part in torch.split(windows, 50)]).mean())


@pytest.mark.slow
def test_its_ratio_is_that_of_plain_transformers(
    run: Run, bench: Workbench, certificate: JsonObject, folder: Path
) -> None:
    assert check_certificate(certificate) == []
    windows = torch.as_tensor(bench.baseline(run.requests[-1]).prepared.text.draw(1).final)
    plain = AutoModelForCausalLM.from_pretrained(folder / "edited", gguf_file="tiny-small.gguf")
    ratio = math.exp(loss(plain, windows) - loss(AutoModelForCausalLM.from_pretrained(EMBEDDED), windows))
    assert certificate["primary_metric"]["ratio_vs_baseline"] == pytest.approx(ratio, abs=1e-4)
    assert 1.01 < ratio < 1.1


@pytest.mark.slow
def test_what_a_certificate_says_of_it(certificate: JsonObject, folder: Path) -> None:
    assert certificate["outcome"]["passed"]
    assert certificate["invariants"]["violations"] == []
    assert certificate["generation"]["differences"] == []
    readings = certificate["readings"]
    assert (readings["losses"], readings["weights"], readings["form"]) == ("dequantized", "dequantized", "gguf")
    assert (readings["weights_only"], readings["package"]) == (True, {"name": "gguf", "version": version("gguf")})
    assert (certificate["edit_name"], readings["quantization"]["label"]) == ("gguf:Q4_0", "gguf:Q4_0")
    changes = certificate["structure"]["changes"]
    assert (changes["added"], changes["removed"], changes["reshaped"]) == ([], [], [])
    levels = {count for count in changes["tensors"]["distinct"] if count is not None}
    assert max(levels) == 16  # of a block's values
    file = folder / "edited" / "tiny-small.gguf"
    assert certificate["provenance"]["model_digest"]["subject"] == directory_digest(file)


def test_as_a_baseline(run: Run, folder: Path) -> None:
    path = folder / "edited" / "tiny-small.gguf"
    spec = ModelSpec("tiny", path)
    prepared = prepare_model(run, spec)
    assert (prepared.tokenizer_size, prepared.plan.seq_len, prepared.warnings) == (1024, 128, ())
    model = load_model(spec, "cpu").model
    stored = StoredWeights(path)
    name = "model.layers.0.mlp.up_proj.weight"
    assert not stored.holds(name, model.get_parameter(name))
    assert stored.read(name) is None
    stored.recognise(model)
    kept = stored.read(name)
    assert kept is not None
    assert torch.equal(kept, model.get_parameter(name))
    assert not hold_same_values(CheckpointFiles.at(path), CheckpointFiles.at(EMBEDDED))


def test_its_chat_template_is_compared(folder: Path, tmp_path: Path) -> None:
    model = load_model(ModelSpec("tiny", folder / "edited" / "tiny-small.gguf"), "cpu").model
    write_gguf(tmp_path / "a.gguf", EMBEDDED, "Q8_0", keys={"tokenizer.chat_template": "{{ messages }}"})
    counted = {"with_tokenizer": False, "with_template": True}
    facts = generation_facts(model, CheckpointFiles.at(tmp_path / "a.gguf"), **counted)
    assert facts["tokenizer.chat_template"] == {"file": "a.gguf", "value": "{{ messages }}"}
    assert "tokenizer.chat_template" not in generation_facts(model, CheckpointFiles.at(EMBEDDED), **counted)


SUITE = """
schema = "proof_pack_suite_v1"
name = "installed"
[[models]]
id = "acme/tiny"
package = "acme-tiny"
file = "acme_tiny/tiny-small.gguf"
[models.sha256]
"tiny-small.gguf" = "{sha256}"
[text]
provider = "synthetic"
documents = 1200
"""


def test_as_a_suites_model_in_an_installed_package(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, info = tmp_path / "acme_tiny" / "tiny-small.gguf", tmp_path / "acme_tiny-1.0.dist-info"
    for made in (file.parent, info):
        made.mkdir()
    shutil.copy(folder / "edited" / "tiny-small.gguf", file)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_tiny\nVersion: 1.0\n")
    (info / "RECORD").write_text("acme_tiny/tiny-small.gguf,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for sha256, fits in ((sha256_file(file), True), ("0" * 64, False)):
        (tmp_path / "suite.toml").write_text(SUITE.format(sha256=sha256))
        own = resolve_run(replace(DEFAULTS, suite=str(tmp_path / "suite.toml"), out=str(tmp_path / "run")))
        (model,) = own.suite.models
        if fits:
            assert prepare_model(own, model).states.keys() == {file}
        else:
            with pytest.raises(ConfigurationError, match="is pinned for acme/tiny"):
                prepare_model(own, model)
