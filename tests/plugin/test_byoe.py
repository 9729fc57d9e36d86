"""Bring your own edit: a whole session over checkpoints that other tools have edited, and forgeries of its pack."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.generation import derive_generation, generation_evidence
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.pack.public import verify
from pytest_proofpack.pack.verify import verify_pack
from tests.support.edited_checkpoints import (
    EMBEDDED,
    FP8_CONFIG,
    Tensors,
    edited_copy,
    fine_tune,
    quantize,
    store_as_fp8,
)
from tests.support.forgery import change_document, forge_certificate, load, recompute_verdict, reseal
from tests.support.made_once import made_once
from tests.support.mutations import leaves, other, replaced
from tests.support.packs import copy_of
from tests.support.subject_runs import write_text
from tests.support.warm_sessions import run_pytest

pytestmark = pytest.mark.slow  # sessions that certify a model

SAID = "said.json"
GATE = "model.layers.1.mlp.gate_proj.weight"
NORM = "model.layers.3.input_layernorm.weight"
LORA = "model.layers.0.mlp.up_proj.lora_A.weight"
QUANTIZED = "certs/tiny_model/tiny-quant_rtn/run_1/evaluation.cert.json"
PASSING = {"fine-tuned": "custom", "tiny-copy": "noop", "tiny-fp8": "fp8", "tiny-quant_rtn": "quant_rtn"}
CAUGHT = {
    "eps": ("config", "rms_norm_eps"),
    "lora": ("loading", LORA),
    "missing": ("loading", GATE),
    "no-norm": ("loading", NORM),
    "rope": ("config", "rope_parameters"),
    "shape": ("loading", GATE),
}
"""Damaged subjects, and the violation and name that the invariants report."""
NO_CLAIM: JsonObject = {
    "tensors": None, "evaluated": False, "reason": "no label says what the weights look like", "holds": True,
    "label": None, "binding": False, "findings": [],
}  # fmt: skip
"""What a certificate holds of a label that claims nothing."""


@dataclass(frozen=True)
class Session:
    """A finished session over all of them."""

    folder: Path
    output: str
    status: int

    def certificate(self, subject: str) -> JsonObject:
        return load(self.folder / f"run/tiny_model/certificates/{subject}/run_1/evaluation.cert.json")

    @property
    def pack(self) -> Path:
        return self.folder / "run/proof_pack"


def pytest_in(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return run_pytest(folder, "-p", "no:cacheprovider", "--proofpack-text=text.txt", *options)


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def add_lora(tensors: Tensors) -> None:
    tensors[LORA] = torch.zeros(4, 128)


def cut(tensors: Tensors) -> None:
    tensors[GATE] = tensors[GATE][:280].contiguous()


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Session:
    folder = made_once(tmp_path_factory, "byoe", certify_subjects)
    output, status = json.loads((folder / SAID).read_text())
    return Session(folder, output, status)


def certify_subjects(folder: Path) -> None:
    """Certify a directory of subjects: good ones, damaged ones, and one that nothing here can load."""
    subjects = folder / "subjects"
    fine_tune(subjects / "fine-tuned")
    (subjects / "tiny-copy").symlink_to(EMBEDDED)
    edited_copy(subjects / "tiny-quant_rtn", quantize)
    edited_copy(subjects / "tiny-fp8", store_as_fp8, quantization_config=FP8_CONFIG)
    edited_copy(subjects / "eps", rms_norm_eps=1e-3)
    edited_copy(subjects / "rope", rope_parameters={"rope_theta": 500000.0, "rope_type": "default"})
    edited_copy(subjects / "missing", without(GATE))
    edited_copy(subjects / "no-norm", without(NORM))
    edited_copy(subjects / "lora", add_lora)
    edited_copy(subjects / "shape", cut)
    edited_copy(subjects / "no-block", store_as_fp8, quantization_config={**FP8_CONFIG, "weight_block_size": [0, 0]})
    write_text(folder)
    options = ("--proofpack-subject=subjects", "--proofpack-out=run", "--junitxml=junit.xml", "-v")
    done = pytest_in(folder, f"--proofpack-baseline={EMBEDDED}", *options)
    (folder / SAID).write_text(json.dumps([done.stdout + done.stderr, done.returncode]))


@pytest.fixture
def pack(session: Session, tmp_path: Path) -> Path:
    return copy_of(session.pack, tmp_path / "pack")


class TestSession:
    def test_each_subject_is_an_item(self, session: Session) -> None:
        lines = session.output.splitlines()
        subjects = ", ".join(sorted([*PASSING, *CAUGHT, "no-block"]))
        what = f"suite byoe, 12 certificates of tiny_model, edited: {subjects}"
        assert f"proofpack: {what}; tier balanced, ratio at most 1.1; run directory run" in lines
        for subject, word in (("tiny-quant_rtn", "PASSED ratio 1.0"), ("lora", "FAILED ratio 1.0000 ")):
            assert f"proofpack/byoe::test_certificate[tiny_model-{subject}-run_1] {word}" in session.output
        assert session.status == pytest.ExitCode.TESTS_FAILED
        assert "warning: tiny-copy: its files are the baseline's, byte for byte, so nothing is said" in session.output

    @pytest.mark.parametrize(("subject", "label"), PASSING.items())
    def test_a_good_one_passes_under_its_own_label(self, session: Session, subject: str, label: str) -> None:
        certificate = session.certificate(subject)
        edit = certificate["provenance"]["edit"]
        assert certificate["outcome"]["failed_gates"] == []
        assert (edit["type"], edit["source"], edit["subject"]) == (label, "byoe", subject)
        assert certificate["provenance"]["model_digest"] == {
            "baseline": CheckpointFiles.at(EMBEDDED).digest,
            "subject": CheckpointFiles.at(session.folder / "subjects" / subject).digest,
        }

    @pytest.mark.parametrize(("subject", "kind", "name"), [(key, *value) for key, value in CAUGHT.items()])
    def test_a_damaged_one_is_caught_by_the_invariants_and_named(
        self, session: Session, subject: str, kind: str, name: str
    ) -> None:
        certificate = session.certificate(subject)
        violations = certificate["invariants"]["violations"]
        assert "invariants_pass" in certificate["outcome"]["failed_gates"]
        assert [(v["kind"], v["severity"], v["names"]) for v in violations] == [(kind, "fatal", [name])]
        assert f"({name})" in session.output

    def test_one_that_cannot_be_loaded_says_why_and_what_to_do(self, session: Session) -> None:
        assert "no-block: cannot be loaded from" in session.output
        assert "Its weights are quantized by fp8: install what that needs, or save it dense." in session.output
        assert "During handling of the above exception" not in session.output

    def test_the_verdict_names_its_rule(self, session: Session) -> None:
        verdict = load(session.folder / "run/reports/final_verdict.json")
        failed = {(entry["requirement"], entry.get("scenario")) for entry in verdict["failed_requirements"]}
        assert failed == {*(("byoe_all_pass", subject) for subject in CAUGHT), ("scenario_coverage", None)}
        assert (verdict["verdict"], verdict["criteria"]["byoe_all_pass"]) == ("FAIL", True)
        assert [(entry["scenario"], entry["run"]) for entry in verdict["missing"]] == [("no-block", 1)]

    def test_people_read_the_same(self, session: Session) -> None:
        assert "changed     0 of 47 parameters, 1 not compared, 1 removed" in session.output
        page = (session.pack / QUANTIZED).with_name("evaluation.html").read_text()
        shown = page.replace('<span class="nowrap">', "").replace("</span>", "")
        assert "edited elsewhere (15 of 47 parameters changed, about 4 bits), raised perplexity by 2" in shown
        assert "<dt>Weights on disk</dt><dd>" in page
        assert "edited elsewhere, must pass" in (session.pack / "index.html").read_text()
        suite = ElementTree.parse(session.folder / "junit.xml").getroot().find("testsuite")  # noqa: S314 - our own file
        assert suite is not None
        cases = {case.get("name"): case for case in suite.findall("testcase")}
        quantized = cases["test_certificate[tiny_model-tiny-quant_rtn-run_1]"]
        assert {"proofpack_ratio", "proofpack_interval"} <= {e.get("name") for e in quantized.iter("property")}

    def test_no_artifact_tells_where_it_was_made(self, session: Session) -> None:
        for path in (session.folder / "run").rglob("*"):
            assert not path.is_file() or str(session.folder).encode() not in path.read_bytes(), path


class TestWhatChanged:
    def test_rounding_shows_in_its_group_alone(self, session: Session) -> None:
        structure = session.certificate("tiny-quant_rtn")["structure"]
        groups = structure["summary"]["families"]
        assert len(structure["parameters_changed"]) == 15
        assert all(".mlp." in name for name in structure["parameters_changed"])
        assert 0.05 < groups["ffn"]["relative_change"] < 0.2
        assert (groups["ffn"]["bits"], groups["ffn"]["distinct_base"]) == (4, 32)
        assert groups["attn"]["relative_change"] == 0.0

    def test_training_changes_everything_a_little(self, session: Session) -> None:
        summary = session.certificate("fine-tuned")["structure"]["summary"]
        assert summary["changed"] == summary["parameters"] == 47
        assert all(0 < group["relative_change"] < 0.05 for group in summary["families"].values())

    def test_a_native_form_is_told_and_compared_dense(self, session: Session) -> None:
        certificate = session.certificate("tiny-fp8")
        structure, readings = certificate["structure"], certificate["readings"]
        assert (readings["form"], readings["losses"], readings["weights"]) == ("fp8", "dequantized", "dequantized")
        assert (readings["quantization"]["method"], readings["quantization"]["group"]) == ("fp8", 32)
        assert len(structure["parameters_changed"]) == 35
        assert 0.01 < structure["summary"]["families"]["attn"]["relative_change"] < 0.05

    def test_the_same_files_differ_in_nothing(self, session: Session) -> None:
        certificate = session.certificate("tiny-copy")
        assert certificate["primary_metric"]["ratio_vs_baseline"] == 1.0
        assert certificate["structure"]["parameters_changed"] == []

    @pytest.mark.parametrize(
        ("subject", "key", "name"),
        [
            ("missing", "removed", GATE),
            ("no-norm", "removed", NORM),
            ("lora", "added", LORA),
            ("shape", "reshaped", GATE),
        ],
    )
    def test_tensors_added_removed_and_reshaped(self, session: Session, subject: str, key: str, name: str) -> None:
        changes = session.certificate(subject)["structure"]["changes"]
        assert {kind: changes[kind] for kind in ("added", "removed", "reshaped") if changes[kind]} == {key: [name]}


class TestForgery:
    def findings(self, pack: Path) -> str:
        reseal(pack)
        report = verify_pack(pack)
        assert not report.ok
        return json.dumps(report.to_json())

    def test_the_honest_pack_verifies(self, session: Session) -> None:
        report = verify_pack(session.pack)
        assert report.ok, report.to_json()

    def test_the_models_in_ones_hand_are_those_certified(self, session: Session) -> None:
        subjects = session.folder / "subjects"
        good = {
            "subject": f"{subjects / 'tiny-quant_rtn'}",
            "baseline": f"{EMBEDDED}",
            "expect-model": "tiny-quant_rtn",
        }
        report = verify(session.pack, demands=good)
        assert report.accepted, report.to_json()["demands"]
        assert verify(session.pack, demands={"subject": f"{EMBEDDED}"}).accepted  # tiny-copy has its files
        bad = {"subject": f"{subjects / 'no-block'}", "baseline": f"{subjects / 'eps'}"}
        assert len(verify(session.pack, demands=bad).unmet) == 2

    def test_another_label(self, pack: Path) -> None:
        forge_certificate(pack, QUANTIZED, relabel("merged"))
        assert "provenance.edit: recorded" in self.findings(pack)

    def test_a_label_that_only_equal_files_have(self, pack: Path) -> None:
        change_document(pack / "state/scenarios.json", lambda d: entry(d)["generation"].update(label="noop"))
        forge_certificate(pack, QUANTIZED, relabel("noop"))
        assert "contradicts the digests of the models" in self.findings(pack)

    def test_a_guess_passed_off_as_the_users_word(self, pack: Path) -> None:
        forge_certificate(pack, QUANTIZED, lambda certificate: certificate["label"].update(origin="given"))
        assert "label.origin: recorded 'given'" in self.findings(pack)

    def test_the_digest_of_another_subject(self, pack: Path) -> None:
        def swap(certificate: JsonObject) -> None:
            certificate["provenance"]["model_digest"]["subject"] = "0" * 64

        forge_certificate(pack, QUANTIZED, swap)
        assert "provenance.model_digest.subject: recorded" in self.findings(pack)

    def test_a_subject_that_needs_not_pass(self, pack: Path) -> None:
        change_document(pack / "state/scenarios.json", lambda d: entry(d).update(strictness="informational"))
        recompute_verdict(pack)
        assert "'must_pass' was expected" in self.findings(pack)

    def test_a_violation_left_out(self, pack: Path) -> None:
        def drop(certificate: JsonObject) -> None:
            certificate["invariants"].update(violations=[], status="pass", fatal_violations=0)
            certificate["validation"]["invariants_pass"] = True
            certificate["outcome"].update(passed=True, failed_gates=[], signals=[])

        forge_certificate(pack, QUANTIZED.replace("tiny-quant_rtn", "lora"), drop)
        assert "the invariants count other keys" in self.findings(pack)

    def test_a_subject_passed_off_as_an_edit_in_memory(self, pack: Path) -> None:
        def disguise(certificate: JsonObject) -> None:
            del certificate["provenance"]["edit"]["source"]
            certificate["label"] |= {**NO_CLAIM, "origin": None}
            facts = generation_evidence(None, None)
            certificate["generation"] = facts | derive_generation(facts)
            certificate["readings"]["form"] = None

        forge_certificate(pack, QUANTIZED, disguise)
        assert "contradicts the category" in self.findings(pack)

    def test_no_value_of_what_changed_is_free(self, session: Session) -> None:
        """But for where the baseline's values came from, and the facts that loading reported about itself."""
        certificate = session.certificate("tiny-quant_rtn")
        assert check_certificate(certificate) == []
        free = {("changes", "source"), ("edit_details",)}
        last = {"tensors": 3}
        paths = [path for path in leaves(certificate["structure"]) if path not in free and is_sampled(path, last)]
        paths = [("structure", *path) for path in paths]
        paths += [("invariants", "baseline", "tokenizer"), ("invariants", "subject", "tokenizer")]
        assert len(paths) > 60
        for path in paths:
            value: object = certificate
            for key in path:
                value = value[key]  # type: ignore[index]
            forged = finish_certificate(replaced(certificate, path, other(value)))
            assert check_certificate(forged), path


def is_sampled(path: tuple[str | int, ...], last: dict[str, int]) -> bool:
    """Take the first few entries of the long columns; every one is treated alike."""
    return path[1:2] != ("tensors",) or int(path[-1]) < last["tensors"]


def relabel(label: str) -> Callable[[JsonObject], object]:
    from pytest_proofpack.common.strict_json import sha256_of

    def change(certificate: JsonObject) -> None:
        edit = certificate["provenance"]["edit"]
        edit["type"] = certificate["edit_name"] = label
        edit["sha256"] = sha256_of({key: value for key, value in edit.items() if key != "sha256"})
        certificate["label"] |= NO_CLAIM

    return change


def entry(document: JsonObject) -> JsonObject:
    """Return the entry of the quantized subject in a scenarios document."""
    found: JsonObject = next(entry for entry in document["scenarios"] if entry["id"] == "tiny-quant_rtn")
    return found


class TestRuns:
    def test_subjects_in_workers(self, tmp_path: Path) -> None:
        edited_copy(tmp_path / "a")
        (tmp_path / "b").symlink_to(EMBEDDED)
        write_text(tmp_path)
        options = ("--proofpack-subject=a", "--proofpack-subject=b", "--proofpack-runs=calibration:0")
        done = pytest_in(tmp_path, f"--proofpack-baseline={EMBEDDED}", *options, "--proofpack-out=run", "-n2")

        assert done.returncode == pytest.ExitCode.OK, done.stdout
        found = sorted(path.parent.as_posix() for path in (tmp_path / "run").glob("*/certificates/*/*/*.json"))
        assert len(found) == 2
        assert verify_pack(tmp_path / "run/proof_pack").ok

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--proofpack-subject=a", "--proofpack-edit-label=quant_rtn"), "are the baseline's, byte for byte"),
            (("--proofpack-subject=nowhere/at/all",), "nowhere/at/all"),
            (("--proofpack-subject=./nowhere",), "does not exist"),
            ((), "need each other"),
            (("--proofpack-subject=a", "--proofpack-suite=tiny"), "exclude each other"),
            (("--proofpack-subject=a", "--proofpack-verify=x"), "exclude each other"),
        ],
    )
    def test_wrong_input_is_one_clear_error(self, tmp_path: Path, options: tuple[str, ...], message: str) -> None:
        (tmp_path / "a").symlink_to(EMBEDDED)
        write_text(tmp_path)
        done = pytest_in(tmp_path, f"--proofpack-baseline={EMBEDDED}", *options, "--proofpack-out=run")

        assert done.returncode == pytest.ExitCode.USAGE_ERROR
        assert message in done.stderr
        assert "Traceback" not in done.stderr
