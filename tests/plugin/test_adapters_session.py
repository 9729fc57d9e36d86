"""One session over an adapter and over subjects that cannot be used: these are told at the start, the others go on."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.pack.verify import verify_pack
from tests.support.adapters import reconfigure, save_adapter
from tests.support.edited_checkpoints import EMBEDDED, edited_copy
from tests.support.forgery import load
from tests.support.subject_runs import write_text
from tests.support.warm_sessions import run_pytest

pytestmark = pytest.mark.slow  # sessions that certify a model

REFUSED = {
    "elsewhere": r"that has no model.layers.0.self_attn.other_proj",
    "pickled": "convert them where you trust them: model.save_pretrained(directory)",
    "pickled-adapter": "convert it where you trust it: PeftModel.from_pretrained(model, directory)",
    "prefix": "peft_type is PREFIX_TUNING",
}


@dataclass(frozen=True)
class Session:
    """A finished session."""

    folder: Path
    output: str
    status: int


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters")
    subjects = folder / "subjects"
    write_text(folder)
    good = save_adapter(subjects / "tuned", r=4, lora_alpha=8, use_dora=True, noise=0.01)
    reconfigure(good, base_model_name_or_path="acme/another")
    shutil.copytree(good, subjects / "prefix")
    reconfigure(subjects / "prefix", peft_type="PREFIX_TUNING")
    shutil.copytree(good, subjects / "pickled-adapter")
    (subjects / "pickled-adapter/adapter_model.safetensors").rename(subjects / "pickled-adapter/adapter_model.bin")
    shutil.copytree(good, subjects / "elsewhere")
    weights = subjects / "elsewhere/adapter_model.safetensors"
    tensors = load_file(weights)
    save_file(
        {name.replace(".0.self_attn.q_proj", ".0.self_attn.other_proj"): own for name, own in tensors.items()}, weights
    )
    edited_copy(subjects / "pickled")
    (subjects / "pickled/model.safetensors").rename(subjects / "pickled/pytorch_model.bin")
    return folder


@pytest.fixture(scope="module")
def session(folder: Path) -> Session:
    options = ["-p", "no:cacheprovider", "-v", f"--proofpack-baseline={EMBEDDED}", "--proofpack-subject=subjects"]
    options += ["--proofpack-text=text.txt", "--proofpack-runs=calibration:0", "--proofpack-out=run"]
    done = run_pytest(folder, *options)
    return Session(folder, done.stdout + done.stderr, done.returncode)


@pytest.fixture(scope="module")
def certificate(session: Session) -> JsonObject:
    return load(session.folder / "run/tiny_model/certificates/tuned/run_1/evaluation.cert.json")


def test_all_that_cannot_be_used_is_told_before_anything_is_measured(session: Session) -> None:
    before, _, after = session.output.partition("test session starts")
    for name, message in REFUSED.items():
        (line,) = [line for line in before.splitlines() if line.startswith(f"proofpack: refused: {name}: ")]
        assert message in line
        assert f"proofpack/byoe::test_certificate[tiny_model-{name}-run_1] ERROR" in after
    assert session.status == pytest.ExitCode.TESTS_FAILED
    assert "scenario_coverage: 4 of 5 expected certificates are missing" in after


def test_the_adapter_is_certified(session: Session, certificate: JsonObject) -> None:
    assert check_certificate(certificate) == []
    assert certificate["outcome"]["failed_gates"] == []
    edit = certificate["provenance"]["edit"]
    assert (edit["type"], certificate["label"]["origin"]) == ("dora", "files")
    facts = certificate["structure"]["edit_details"]["adapter"]
    assert (facts["type"], facts["rank"], facts["alpha"], facts["scaling"], facts["modules"]) == ("LORA", 4, 8, 2.0, 15)
    assert facts["targets"] == ["down_proj", "q_proj", "v_proj"]
    assert certificate["structure"]["summary"]["changed"] == 15
    assert certificate["provenance"]["model_digest"] == {
        "baseline": CheckpointFiles.at(EMBEDDED).digest,
        "subject": CheckpointFiles.at(session.folder / "subjects/tuned").digest,
    }


def test_a_base_that_is_not_known_to_be_the_baseline_warns(session: Session, certificate: JsonObject) -> None:
    warning = (
        "the adapter was trained on acme/another; whether the baseline, tiny_model, is that model can't be told here."
    )
    assert f"proofpack: warning: tuned: {warning}" in session.output
    assert certificate["meta"]["inputs"]["warnings"] == [f"subject: {warning}"]
    assert certificate["outcome"]["warnings"] == ["inputs"]


def test_the_page_shows_the_adapter(session: Session) -> None:
    (page,) = (session.folder / "run").glob("**/tuned/run_1/evaluation.html")
    text = page.read_text()
    assert all(word in text for word in ("adapter", "scaling", "down_proj, q_proj, v_proj"))


def test_the_pack_verifies(session: Session) -> None:
    report = verify_pack(session.folder / "run/proof_pack")
    assert [step.findings for step in report.steps if step.findings] == []
