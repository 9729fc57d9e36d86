"""One session that quantizes its model by tools: what it certifies, what it leaves, and what a forger can't change."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from pytest_proofpack.certificate.agreement import disagreements
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.engine import tool_checks
from pytest_proofpack.engine.inputs import CheckedInputs
from pytest_proofpack.engine.tool_checks import require_tools
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.quiet import quiet
from pytest_proofpack.models.safetensors_files import sort_metadata
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from pytest_proofpack.plan.tool_edits import TOOLS
from pytest_proofpack.runs.conditions import why_not
from pytest_proofpack.runs.run import Run, resolve_run
from tests.plugin.conftest import SmallSuite, certificates, small_suite
from tests.support.default_settings import DEFAULTS
from tests.support.forgery import change_document, forge_certificate, reseal
from tests.support.packs import copy_of
from tests.support.quantized_checkpoints import compressed_tensors_copy, torchao_copy

pytestmark = pytest.mark.slow  # a session that certifies a model

Pytester = pytest.Pytester
INT4, W8A8 = "torchao_int4", "w8a8"
SPECS = {INT4: "tool:torchao:int4wo:16", W8A8: "tool:compressed-tensors:W8A8"}
LABELS = {INT4: "torchao:int4wo", W8A8: "compressed-tensors:W8A8"}
PLACE = "certs/acme__small/{}/run_1/evaluation.cert.json"


def scenario(name: str, spec: str, category: str = "clean", strictness: str = "must_pass") -> JsonObject:
    generation = {"kind": "edit", "edit_spec": spec}
    return {"id": name, "category": category, "strictness": strictness, "generation": generation}


def write_suite(small: SmallSuite, *scenarios: JsonObject) -> None:
    small.write(extra="")
    document = {"schema": "proof_pack_scenarios_v1", "schema_version": 1, "scenarios": list(scenarios)}
    (small.folder / "scenarios.json").write_text(json.dumps(document))


@dataclass(frozen=True)
class Session:
    """What a finished session left; tests look at it and change nothing."""

    folder: Path
    suite: Path
    output: str

    def certificate(self, name: str) -> JsonObject:
        """Return the certificate of a scenario."""
        found = certificates(self.folder / "run")
        return next(own for own in found.values() if own["scenario"]["id"] == name)

    @property
    def pack(self) -> Path:
        """Its pack."""
        return self.folder / "run/proof_pack"


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, saved_model: Path, sample_text: Path) -> Session:
    folder = tmp_path_factory.mktemp("tools")
    given = folder / "given"
    given.mkdir()
    small = small_suite(given, saved_model, sample_text)
    write_suite(small, scenario(INT4, SPECS[INT4]), scenario(W8A8, SPECS[W8A8], "stress", "informational"))
    options = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-runs=calibration:0", "-v")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == pytest.ExitCode.OK, done.stdout + done.stderr
    return Session(folder, small.suite, done.stdout)


def test_each_is_a_scenario_of_the_suite_and_called_what_its_files_say(session: Session) -> None:
    for name, label in LABELS.items():
        own = session.certificate(name)
        edit = own["provenance"]["edit"]
        assert (own["edit_name"], own["label"]["origin"], edit["source"]) == (label, "files", "tool")
        assert own["readings"]["losses"] == "as_run"
        assert own["readings"]["weights"] == "dequantized"
        assert own["structure"]["edit_details"]["tool"] == own["readings"]["package"]
        assert own["structure"]["summary"]["changed"] > 0
    assert session.certificate(INT4)["scenario"]["category"] == "clean"
    assert session.certificate(W8A8)["scenario"]["category"] == "stress"


def test_nothing_that_a_tool_made_is_left(session: Session) -> None:
    assert [path for path in session.folder.rglob("*") if path.name.startswith(".tool.")] == []
    assert [path for path in session.folder.rglob("*.safetensors") if "state" not in path.parts] == []


def test_the_pack_verifies_and_its_page_says_what_was_done(session: Session) -> None:
    assert findings_of(verify_pack(session.pack)) == []
    page = (session.pack / PLACE.format(INT4)).with_name("evaluation.html").read_text()
    assert "Quantizing by torchao&#39;s recipe int4wo in groups of 16 (21 of 30 parameters changed" in page


def findings_of(report: VerificationReport) -> list[str]:
    return [finding for step in report.steps for finding in step.findings]


def own_loss(directory: Path, windows: torch.Tensor) -> float:
    """Return the mean loss by plain transformers: the model as anybody loads it."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", device_map="cpu")
    with torch.no_grad():
        return float(model(input_ids=windows, labels=windows).loss)


def test_it_is_what_the_tools_user_makes_and_its_ratio_that_of_plain_transformers(
    session: Session, saved_model: Path, tmp_path: Path
) -> None:
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    four = getattr(torch, "int4")  # noqa: B009 - unknown to torch's own stubs
    own = {
        INT4: torchao_copy(tmp_path / "int4", IntxWeightOnlyConfig(four, PerGroup(16)), saved_model),
        W8A8: compressed_tensors_copy(tmp_path / "w8a8", "W8A8", saved_model),
    }
    windows = final_windows(session)
    base = own_loss(saved_model, windows)
    for name, directory in own.items():
        ratio = math.exp(own_loss(directory, windows) - base)
        assert session.certificate(name)["primary_metric"]["ratio_vs_baseline"] == pytest.approx(ratio, abs=1e-4)
        for file in directory.glob("tokenizer*"):
            file.unlink()
        sort_metadata(directory / "model.safetensors")
        digest = session.certificate(name)["provenance"]["model_digest"]["subject"]
        assert CheckpointFiles.at(directory).digest == digest, name


def run_of(suite: Path, out: Path) -> Run:
    """Return the run of a suite as a session plans it."""
    settings = replace(DEFAULTS, suite=str(suite), no_pack=True, sign="off", out=str(out), runs={"calibration": 0})
    return resolve_run(settings)


def final_windows(session: Session) -> torch.Tensor:
    """Return the final windows of the session's first run."""
    run = run_of(session.suite, session.folder / "other")
    prepared = CheckedInputs(run).prepare(run.suite.models[0])
    return torch.from_numpy(prepared.text.draw(1).final.astype("int64"))


FORGERIES: dict[str, tuple[Callable[[JsonObject], object], str]] = {
    "another recipe": (lambda own: own["provenance"]["edit"].update(recipe="int8wo"), "recipe int8wo leaves"),
    "another group": (lambda own: own["provenance"]["edit"].update(group=64), "readings.quantization.group"),
    "another label": (lambda own: own["provenance"]["edit"].update(type="torchao:int8wo"), "provenance.edit.type"),
    "other words": (
        lambda own: own["readings"]["quantization"].update(scheme="int8wo", label="torchao:int8wo"),
        "readings.quantization.scheme",
    ),
    "no words": (
        lambda own: own["readings"].update(quantization=None, losses="as_run", weights="as_run", form="safetensors"),
        "readings",
    ),
    "another form": (lambda own: own["readings"].update(form="bitsandbytes"), "readings.form"),
    "another version": (
        lambda own: own["structure"]["edit_details"]["tool"].update(version="9.9"),
        "readings.package.version",
    ),
    "nobody made it": (lambda own: own["structure"]["edit_details"].pop("tool"), "edit_details.tool"),
    "as given": (lambda own: own["label"].update(origin="given"), "label.origin"),
    "another kind": (
        lambda own: own["scenario"].update(category="error_injection"),
        "is no scenario in which a tool edits",
    ),
    "in memory": (lambda own: own["provenance"]["edit"].pop("source"), ""),
    "from elsewhere": (lambda own: own["provenance"]["edit"].update(source="byoe"), "provenance.edit.source"),
}


def forged(own: JsonObject, change: Callable[[JsonObject], object]) -> None:
    """Make a change and the digest of the edit agree with it."""
    change(own)
    edit = {key: value for key, value in own["provenance"]["edit"].items() if key != "sha256"}
    own["provenance"]["edit"] = {**edit, "sha256": sha256_of(edit)}
    own["edit_name"] = edit["type"]
    own["plugins"]["edits"] = [edit["type"]]


@pytest.mark.parametrize("name", FORGERIES)
def test_a_certificate_that_says_something_else_is_found(session: Session, name: str) -> None:
    change, mentions = FORGERIES[name]
    own = session.certificate(INT4)
    forged(own, change)
    findings = check_certificate(finish_certificate(own))
    assert any(mentions in finding for finding in findings), findings


def test_runs_of_one_scenario_have_the_same_files(session: Session) -> None:
    one, other = session.certificate(W8A8), session.certificate(W8A8)
    other["provenance"]["model_digest"]["subject"] = "0" * 64
    found = list(disagreements({"one": one, "other": other}))
    assert "other: provenance.model_digest.subject: contradicts what one says of the same edit" in found


def test_a_pack_of_another_recipe_than_its_scenario_asks_for_is_refused(session: Session, tmp_path: Path) -> None:
    pack = copy_of(session.pack, tmp_path / "pack")
    change_document(
        pack / "state/scenarios.json",
        lambda document: document["scenarios"][0]["generation"].update(edit_spec="tool:torchao:int4wo:32"),
    )
    forge_certificate(pack, PLACE.format(INT4), lambda _own: None)
    reseal(pack)
    findings = findings_of(verify_pack(pack))
    assert any("provenance.edit: recorded" in finding for finding in findings), findings


def test_whoever_does_not_know_the_tool_is_told(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {name: record for name, record in TOOLS.items() if name != "torchao"}
    monkeypatch.setattr(TOOLS, "_own", known)
    report = verify_pack(session.pack)
    assert findings_of(report) == []
    warnings = [warning for step in report.steps for warning in step.warnings]
    assert any("the edit 'tool:torchao' of 1 certificates is not known here" in warning for warning in warnings)


def test_what_another_version_made_is_made_again(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(session.suite, session.folder / "other")

    def reasons() -> dict[str, str | None]:
        conditions = CheckedInputs(run).conditions(run.suite.models[0], elsewhere=True)
        return {
            own.scenario.id: why_not(session.certificate(own.scenario.id), own, run, conditions, None)
            for own in run.requests
        }

    assert reasons() == {INT4: None, W8A8: None}
    monkeypatch.setattr(tool_checks, "version", lambda name: "0.0" if name == "torchao" else version(name))
    assert reasons() == {INT4: "its way of reading differs", W8A8: None}


def test_whatever_is_missing_is_told_at_the_start_and_at_once(
    small: SmallSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    specs = (
        "bitsandbytes:nf4",
        "torchao:int4wo",
        "torchao:fp8dyn-fp8w",
        "compressed-tensors:NVFP4A16",
        "torchao:int8wo",
    )
    write_suite(small, *(scenario(f"s{number}", f"tool:{spec}") for number, spec in enumerate(specs)))
    run = run_of(small.suite, tmp_path / "run")
    with pytest.raises(ConfigurationError) as told:
        require_tools(run, "cpu", processes=1)
    assert str(told.value).splitlines() == [
        "4 things are in the way:",
        "  tool:bitsandbytes:nf4: acme/small has rows of 32 values, no multiple of the 64 that share a scale, which "
        "bitsandbytes unpacks to wrong values on a CPU. Certify it on a GPU, or choose another recipe",
        "  tool:torchao:int4wo:32: acme/small has rows of 48 values, no multiple of the 32 that share a scale. Choose "
        "another group size: tool:torchao:int4wo:GROUP_SIZE",
        "  tool:torchao:fp8dyn-fp8w: torchao has a kernel for GPUs alone (float8 activations), and there is none here. "
        "Certify on a machine with one, or choose another recipe",
        "  tool:compressed-tensors:NVFP4A16: acme/small is not in bfloat16, in which alone this runs. Save it as "
        "bfloat16, or choose another recipe",
    ]
    monkeypatch.setattr(tool_checks, "find_spec", lambda name: None if name == "bitsandbytes" else name)
    write_suite(small, scenario("s", "tool:bitsandbytes:nf4"), scenario("t", "tool:bitsandbytes:int8"))
    with pytest.raises(ConfigurationError, match=r"^tool:bitsandbytes: the package bitsandbytes is not installed. "):
        require_tools(run_of(small.suite, tmp_path / "run"), "cpu", processes=1)


def test_a_session_that_asks_for_what_cannot_be_made_ends_before_it_begins(
    pytester: Pytester, small: SmallSuite
) -> None:
    write_suite(small, scenario("s", "tool:torchao:int4wo"))
    result = pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: tool:torchao:int4wo:32: acme/small has rows of 48 values*"])
    assert not (pytester.path / "run/state").exists()
