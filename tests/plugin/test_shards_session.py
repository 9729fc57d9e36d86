"""Sessions that make a shard of a run each, in directories that know nothing of each other, and their assembly."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack import verify
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.commands.main import main
from pytest_proofpack.common.strict_json import JsonObject
from tests.plugin.conftest import SmallSuite, certificates
from tests.support.forgery import change_document, rederive
from tests.support.pack_documents import documents

pytestmark = pytest.mark.slow  # sessions that certify a model

SHARDS = 4
ITEMS = 8
OPTIONS = ("--proofpack-sign=off", "--proofpack-no-html", "--proofpack-repeats=1", "-p", "no:cacheprovider", "-q")


@dataclass(frozen=True)
class Divided:
    """A run that one session made, and the same one in shards; tests do not change them."""

    folder: Path
    suite: Path
    statuses: tuple[int, ...]

    def shard(self, number: int) -> Path:
        return self.folder / f"shard-{number}" / "run"

    @property
    def shards(self) -> list[Path]:
        return [self.shard(number) for number in range(1, SHARDS + 1)]


def session(suite: Path, folder: Path, *more: str) -> int:
    """Run a session in this process, in a directory of its own."""
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder):
        return pytest.main(["-c", "/dev/null", f"--proofpack-suite={suite}", "--proofpack-out=run", *OPTIONS, *more])


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory, saved_model: Path, sample_text: Path) -> Divided:
    folder = tmp_path_factory.mktemp("divided")
    (folder / "model").symlink_to(saved_model)
    (folder / "text.txt").symlink_to(sample_text)
    suite = SmallSuite(folder, folder / "small.toml", folder / "model", folder / "text.txt")
    suite.write(clean=2)
    statuses = [session(suite.suite, folder / "whole")]
    for number in range(1, SHARDS + 1):
        statuses += [session(suite.suite, folder / f"shard-{number}", f"--proofpack-shard={number}/{SHARDS}")]
    return Divided(folder, suite.suite, tuple(statuses))


def test_four_shards_assembled_are_the_run_of_one_session(
    divided: Divided, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert divided.statuses == (0,) * (SHARDS + 1)
    made = [set(certificates(shard)) for shard in divided.shards]
    assert all(made)
    assert sum(map(len, made)) == len(set.union(*made)) == ITEMS
    assert not any((shard / name).exists() for shard in divided.shards for name in ("reports", "proof_pack"))

    status = main(["assemble", *map(str, divided.shards), f"--out={tmp_path / 'run'}", "--sign=off", "--no-html"])

    said = capsys.readouterr().out
    assert status == 0, said
    whole = divided.folder / "whole" / "run"
    report = verify(tmp_path / "run/proof_pack")
    assert report.ok
    assert report.verdict == "PASS"
    assert documents(tmp_path / "run/proof_pack") == documents(whole / "proof_pack")
    text = "reports/final_verdict.txt"
    assert (tmp_path / "run" / text).read_bytes() == (whole / text).read_bytes()


@dataclass(frozen=True)
class Assembling:
    """Copies of the shards, which a test may change, and the command that assembles them."""

    shards: list[Path]
    out: Path
    capsys: pytest.CaptureFixture[str]

    def run(self, *more: str) -> int:
        return main(["assemble", *map(str, self.shards), f"--out={self.out}", "--no-html", *(more or ["--sign=off"])])

    def refused(self) -> str:
        """Assemble, make sure that nothing was written, and return why."""
        assert self.run() == 2
        assert not self.out.exists()
        assert [path.name for path in self.out.parent.iterdir()] == ["shards"]
        return self.capsys.readouterr().err

    def certificate(self, scenario: str = "fp8_e5m2_clean", run: int = 1) -> Path:
        (path,) = (path for shard in self.shards for path in shard.glob(f"*/certificates/{scenario}/run_{run}/*.json"))
        return path

    def forge(self, change: Callable[[JsonObject], object], **which: Any) -> None:
        """Change a certificate, and make its digest agree."""

        def changed(certificate: JsonObject) -> None:
            change(certificate)
            certificate.update(finish_certificate(certificate))

        change_document(self.certificate(**which), changed)


@pytest.fixture
def assembling(divided: Divided, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Assembling:
    folder = tmp_path / "shards"
    shards = [Path(shutil.copytree(shard, folder / str(number))) for number, shard in enumerate(divided.shards, 1)]
    capsys.readouterr()
    return Assembling(shards, tmp_path / "out", capsys)


def test_equal_duplicates_are_told_and_a_whole_run_may_be_among_them(assembling: Assembling, divided: Divided) -> None:
    assembling.shards.append(divided.folder / "whole" / "run")
    assert assembling.run() == 0
    said = assembling.capsys.readouterr().out
    assert f"{ITEMS} certificates are there more than once, and equal" in said
    assert "acme/small: measured unedited in 5 of them, on cpu, and they agree" in said
    assert "verdict: PASS" in said
    assert f"verify it with: proofpack verify {assembling.out}/proof_pack" in said


def test_a_verdict_that_is_no_pass_is_written_and_packed(assembling: Assembling) -> None:
    for shard in assembling.shards:
        change_document(shard / "state/scenarios.json", _demand_that_a_fault_fails_otherwise)
    assert assembling.run() == 1
    assert "verdict: FAIL" in assembling.capsys.readouterr().out
    assert verify(assembling.out / "proof_pack").verdict == "FAIL"


def _demand_that_a_fault_fails_otherwise(document: JsonObject) -> None:
    (fault,) = (entry for entry in document["scenarios"] if entry["id"] == "shape_mismatch")
    detector = {"kind": "validation_flag", "flag": "primary_metric_acceptable", "expected": False}
    fault["requirements"]["detectors_any_of"] = [detector]


def test_a_missing_shard_is_named(assembling: Assembling) -> None:
    del assembling.shards[1]
    said = assembling.refused()
    assert "2 of 8 certificates are missing" in said
    assert "Bring the directories of the shards 2/4 too." in said


def test_what_a_shard_has_not_made_is_named(assembling: Assembling) -> None:
    assembling.certificate().unlink()
    said = assembling.refused()
    assert "1 of 8 certificates are missing (acme/small-fp8_e5m2_clean-run_1). Go on with the shard" in said


def test_a_link_to_a_certificate_somewhere_else_is_none(assembling: Assembling, divided: Divided) -> None:
    path = assembling.certificate()
    path.unlink()
    path.symlink_to(next(divided.folder.glob("whole/run/*/certificates/fp8_e5m2_clean/run_1/*.json")))
    assert "1 of 8 certificates are missing" in assembling.refused()


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("run", {"tier": "conservative"}, 'tier is "balanced" in the one, "conservative" in the other'),
        ("run", {"policy_digest": "0" * 16}, 'policy_digest is "'),
        ("run", {"tool": {"name": "pytest-proofpack", "version": "0.0.1"}}, "was made by version 0.0.1"),
        ("run", {"mode": "tune"}, "holds tuned parameters, and no certificates"),
        ("scenarios", {"schema_version": 2}, "schema_version"),
        ("tuned_edit_params", {"models": {"acme/small": {}}}, "tuned_edit_params.models.acme/small is absent in the"),
        ("model_revisions", {"models": {"acme/small": {"revision": "a" * 40}}}, "commits.models.acme/small is null"),
    ],
)
def test_what_is_of_another_run_is_named(assembling: Assembling, file: str, change: JsonObject, said: str) -> None:
    change_document(assembling.shards[2] / f"state/{file}.json", lambda document: document.update(change))
    refusal = assembling.refused()
    assert said in refusal
    assert "shards/3" in refusal


def test_a_certificate_that_does_not_verify_is_refused(assembling: Assembling) -> None:
    assembling.forge(lambda certificate: certificate["outcome"].update(passed=False))
    said = assembling.refused()
    assert "fp8_e5m2_clean/run_1/evaluation.cert.json: its outcome" in said


def test_a_certificate_of_other_inputs_is_refused(assembling: Assembling) -> None:
    assembling.forge(lambda certificate: certificate["meta"].update(tokenizer_hash="0" * 64))
    assert "its tokenizer differs (compared with the plan, and with " in assembling.refused()


def test_versions_that_differ_are_named(assembling: Assembling) -> None:
    change_document(
        assembling.certificate(), lambda certificate: certificate["volatile"]["libraries"].update(torch="1.0")
    )
    assert "its version of torch differs" in assembling.refused()


def test_a_model_that_was_measured_on_two_kinds_of_devices_is_told(assembling: Assembling) -> None:
    def elsewhere(certificate: JsonObject) -> None:
        certificate["meta"].update(device="cuda")
        certificate["meta"]["determinism"].update(reached="throughput")

    assembling.forge(elsewhere)
    assert "acme/small was measured on several kinds of devices, whose numbers cannot be compared" in (
        assembling.refused()
    )


def test_baselines_that_differ_between_shards_are_refused(assembling: Assembling) -> None:
    for scenario in ("quant_4bit_clean", "fp8_e5m2_clean"):  # all on the second draw, in one shard
        assembling.forge(_measure_another_baseline, scenario=scenario, run=2)
    assert "contradicts what" in assembling.refused()


def _measure_another_baseline(certificate: JsonObject) -> None:
    for side in certificate["evaluation_windows"].values():
        for key in ("baseline_logloss", "logloss"):
            side[key] = [loss * 1.01 for loss in side[key]]
    rederive(certificate)


def test_two_certificates_for_one_request_are_refused_if_they_differ(assembling: Assembling) -> None:
    assembling.shards.append(Path(shutil.copytree(assembling.shards[0], assembling.shards[0].parent / "again")))
    again = next(assembling.shards[-1].glob("*/certificates/**/evaluation.cert.json"))

    def change(certificate: JsonObject) -> None:
        certificate["structure"]["edit_details"] = {"matrices": 1}
        certificate.update(finish_certificate(certificate))

    change_document(again, change)
    assert f"{again}: " in assembling.refused()


def test_a_signature_that_cannot_be_made_is_told_before_anything_is_written(
    assembling: Assembling, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", "/nonexistent")
    assert assembling.run("--sign=required") == 2
    assert not assembling.out.exists()
    assert "sign" in assembling.capsys.readouterr().err


def test_nothing_is_written_over_what_is_there(assembling: Assembling) -> None:
    assembling.out.mkdir()
    (assembling.out / "mine.txt").write_text("mine")
    assert assembling.run() == 2
    assert [path.name for path in assembling.out.iterdir()] == ["mine.txt"]


def test_nothing_is_written_into_a_shard(assembling: Assembling) -> None:
    inside = replace(assembling, out=assembling.shards[0] / "whole")
    assert inside.run() == 2
    assert not inside.out.exists()
    assert f"lies inside the directory of another run, {assembling.shards[0]}" in assembling.capsys.readouterr().err


def test_a_shard_goes_on_as_the_same_shard_only(divided: Divided, assembling: Assembling) -> None:
    folder = assembling.out.parent / "resumed"
    folder.mkdir()
    shutil.copytree(divided.shard(2), folder / "run")
    other = session(divided.suite, folder, "--proofpack-resume", "--proofpack-shard=3/4")
    said = assembling.capsys.readouterr()
    assert other == pytest.ExitCode.USAGE_ERROR
    assert 'shard was "2/4", is now "3/4"' in said.err

    next((folder / "run").glob("*/certificates/*/*/evaluation.cert.json")).unlink()
    assert session(divided.suite, folder, "--proofpack-resume", "--proofpack-shard=2/4", "-v") == pytest.ExitCode.OK
    assert "resumed: 1 of 2 certificates reused; 1 not made yet" in assembling.capsys.readouterr().out
    assert certificates(folder / "run").keys() == certificates(divided.shard(2)).keys()


def test_a_shard_of_which_certificates_were_left_out_has_failed(
    divided: Divided, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = session(divided.suite, tmp_path / "part", "--proofpack-shard=4/4", "-k", "shape_mismatch")
    said = capsys.readouterr().out
    assert status == pytest.ExitCode.TESTS_FAILED
    assert "shard 4/4: 1 of 2 certificates are there" in said
    assert "go on with: pytest " in said
