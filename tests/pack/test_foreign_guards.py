"""Packs with certificates of a guard that an extension brought, and packs of two formats."""

from __future__ import annotations

import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.commands.verify import main
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import compact_json, pretty_json
from pytest_proofpack.errors import PackError
from pytest_proofpack.pack import verify
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.terms.term import Judgement, Stated, Term
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from pytest_proofpack.report import verdict_text
from pytest_proofpack.results.history import history
from tests.support.certificates import RunFiles, make_evidence, make_plan, make_run_directory
from tests.support.foreign_guard import MILD, registered
from tests.support.forgery import forge_certificate, load, reseal
from tests.support.packs import copy_of, pack_of

ONE = {"calibration": 1, "clean": 0, "stress": 0, "error": 0}
PATH = "certs/acme__tiny-1m/calibration/run_1/evaluation.cert.json"


def run_with_the_guard(directory: Path) -> RunFiles:
    """Write a run whose certificates were made with the guard registered."""
    run = make_run_directory(directory, runs=ONE)
    (request,) = make_plan(runs=ONE)[1].requests
    certificate = build_certificate(replace(make_evidence(request), foreign={"largest_weight": MILD}))
    (path,) = run.certificates
    verdict = compute_verdict(run.scenarios, [certificate])
    atomic_write(directory / path, compact_json(certificate))
    atomic_write(directory / "reports/final_verdict.json", pretty_json(verdict))
    atomic_write(directory / "reports/final_verdict.txt", verdict_text(verdict))
    return replace(run, verdict=verdict, certificates={path: certificate})


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with registered():
        run = run_with_the_guard(tmp_path_factory.mktemp("run"))
        return pack_of(run.directory, tmp_path_factory.mktemp("pack") / "pack", html=False)


def findings_of(report: VerificationReport) -> list[str]:
    return [finding for step in report.steps for finding in step.findings]


def warnings_of(report: VerificationReport) -> list[str]:
    return [warning for step in report.steps for warning in step.warnings if step.step.startswith("certificates")]


def test_who_has_the_guard_verifies_the_pack_without_a_word(original: Path) -> None:
    with registered():
        report = verify_pack(original)
    assert (report.ok, report.verdict, warnings_of(report)) == (True, "PASS", [])


def test_who_has_not_is_told_what_was_not_recomputed(original: Path) -> None:
    report = verify_pack(original)
    assert not report.ok
    assert findings_of(report)[0].startswith(
        f"{PATH}: foreign_guards.largest_weight: there is no guard of this name here, so nothing of it was recomputed"
    )


def test_who_has_not_may_take_it_on_trust(original: Path) -> None:
    report = verify_pack(original, Demands(allow_unknown_guards=True))
    assert report.ok
    (warning,) = warnings_of(report)
    assert "derived.ratio" in warning
    assert "largest_weight_ok" in warning


def test_evidence_that_makes_no_sense_is_a_finding_and_ends_no_history(original: Path, tmp_path: Path) -> None:
    """Nobody knows what such a guard's evidence has to hold, but that it says what is of the baseline."""
    trusting = Demands(allow_unknown_guards=True)
    pack = copy_of(original, tmp_path / "pack")
    forge_certificate(
        pack, PATH, lambda certificate: certificate["foreign_guards"]["largest_weight"].update(evidence={})
    )
    reseal(pack)
    senseless = "does not make sense: KeyError: 'baseline'"
    report = verify_pack(pack, trusting)
    assert [step.step for step in report.steps if senseless in step.findings] == ["agreement"]
    assert (report.facts, report.verdict) == (None, None)

    run = tmp_path / "run"
    below = "acme__tiny-1m/certificates/calibration/run_1/evaluation.cert.json"
    atomic_write(run / below, (pack / PATH).read_bytes())
    atomic_write(run / "state/scenarios.json", (pack / "state/scenarios.json").read_bytes())
    found, results = history([pack, run, original], trusting)
    assert [result.name for result in results] == [str(original)]
    assert len(found.refused) == 2
    assert all(senseless in line for line in found.refused)


def test_facts_that_make_no_sense_are_one_too(original: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is read off a pack once it holds belongs to judging it."""

    def absurd(*_: object) -> None:
        raise OverflowError("beyond all years")

    monkeypatch.setattr(verify, "verified_facts", absurd)
    report = verify_pack(original, Demands(allow_unknown_guards=True))
    assert not report.ok
    assert findings_of(report) == ["does not make sense: OverflowError: beyond all years"]


def test_a_demand_on_facts_that_make_no_sense_is_not_met(original: Path) -> None:
    def absurd(_value: object, _facts: object) -> Judgement:
        raise OverflowError("beyond all years")

    stated = Stated(Term("own", help="", metavar="N", read=int, judge=absurd), "1", 1)
    report = verify_pack(original, Demands(allow_unknown_guards=True, stated=(stated,)))
    assert (report.ok, report.accepted) == (True, False)
    assert report.unmet[0].why == "does not make sense: OverflowError: beyond all years"


def test_the_command_line_has_the_option(original: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(original)]) == 1
    assert "nothing of it was recomputed" in capsys.readouterr().out
    assert main([str(original), "--allow-unknown-guards"]) == 0
    out = capsys.readouterr().out
    assert "warning: " in out
    assert "VERIFIED" in out


def test_a_run_is_not_packed_where_its_guard_is_not_known(tmp_path: Path) -> None:
    with registered():
        run = run_with_the_guard(tmp_path / "run")
    with pytest.raises(PackError, match="there is no guard of this name here"):
        pack_of(run.directory, tmp_path / "pack")


def test_a_forged_number_of_a_foreign_guard_is_found_by_who_has_it(original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    forge_certificate(
        pack, PATH, lambda certificate: certificate["foreign_guards"]["largest_weight"]["derived"].update(ratio=0.4)
    )
    reseal(pack)
    with registered():
        assert any("derived.ratio: recorded 0.4, recomputed 0.5" in line for line in findings_of(verify_pack(pack)))


def stored_pack(directory: Path) -> Path:
    with tarfile.open(Path(__file__).parents[1] / "packs" / "tiny-0.1.0-format1.tar.xz") as tar:
        tar.extractall(directory, filter="data")
    return directory / "proof_pack"


def test_a_new_certificate_in_an_old_pack_is_refused(original: Path, tmp_path: Path) -> None:
    old = stored_pack(tmp_path)
    path = next(old.glob("certs/*/calibration/run_1/evaluation.cert.json"))
    path.write_bytes((original / PATH).read_bytes())
    reseal(old)
    assert any(
        "is of format 2, manifest.json says that the pack is of format 1" in line
        for line in findings_of(verify_pack(old, Demands(allow_unknown_guards=True)))
    )


def test_an_old_certificate_in_a_new_pack_is_refused(original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    old = next(stored_pack(tmp_path).glob("certs/*/calibration/run_1/evaluation.cert.json"))
    (pack / PATH).write_bytes(old.read_bytes())
    reseal(pack)
    assert f"{PATH}: is of format 1, manifest.json says that the pack is of format 2" in findings_of(verify_pack(pack))


def test_a_pack_cannot_take_the_other_formats_number(original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    reseal(pack, lambda manifest: manifest.update(schema_version=1))
    assert not verify_pack(pack, Demands(allow_unknown_guards=True)).ok


def test_an_old_certificate_is_not_packed_anew(original: Path, tmp_path: Path) -> None:
    run = make_run_directory(tmp_path / "run", runs=ONE)
    old = next(stored_pack(tmp_path).glob("certs/*/calibration/run_1/evaluation.cert.json"))
    (path,) = run.certificates
    (run.directory / path).write_bytes(old.read_bytes())
    with pytest.raises(PackError, match="is of an earlier format"):
        pack_of(run.directory, tmp_path / "pack")


def test_integers_beyond_json_numbers_are_a_finding(original: Path, tmp_path: Path) -> None:
    for name, block in ((PATH, "artifacts"), ("state/scenarios.json", "_meta")):
        pack = copy_of(original, tmp_path / block)
        document = load(pack / name)
        document[block] = {"count": 2**60}
        (pack / name).write_text(json.dumps(document), encoding="utf-8")
        reseal(pack)
        report = verify_pack(pack, Demands(allow_unknown_guards=True))
        assert any(name in line and "2**53 - 1" in line for line in findings_of(report)), name
