"""Format 1 verifies for ever, format 2 says that it is format 2, and neither passes for the other."""

from __future__ import annotations

import copy
import json
import tarfile
from functools import cache
from pathlib import Path

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.format1 import as_format1, sha256_of
from pytest_proofpack.certificate.formats import CURRENT, FORMAT_1, certificate_digest, finish_certificate, format_of
from pytest_proofpack.certificate.policy import looser_than_tier, resolve_policy
from pytest_proofpack.certificate.repeats import sample_of
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import FormatError
from tests.support.certificates import make_evidence, make_plan

STORED = Path(__file__).parents[1] / "packs" / "tiny-0.1.0-format1.tar.xz"
REQUEST = next(request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean")


@cache
def _stored() -> dict[str, bytes]:
    with tarfile.open(STORED) as tar:
        members = [member for member in tar.getmembers() if member.name.endswith("evaluation.cert.json")]
        return {member.name: file.read() for member in members if (file := tar.extractfile(member))}


def stored(part: str) -> JsonObject:
    """Return a certificate that version 0.1.0 made."""
    name = next(name for name in sorted(_stored()) if part in name)
    return parse_json(_stored()[name], name)


class TestFormat1:
    def test_there_are_certificates_of_every_kind(self) -> None:
        assert len(_stored()) >= 10

    def test_certificates_of_the_first_release_verify(self) -> None:
        for name, data in _stored().items():
            certificate = parse_json(data, name)
            assert format_of(certificate) is FORMAT_1
            assert check_certificate(certificate) == [], name

    def test_a_note_among_the_overrides_is_refused_in_it_too(self) -> None:
        certificate = stored("quant_4bit_clean")
        certificate["policy_provenance"]["overrides"] = {"limits": {"drift": {"max": 9.0}}}
        assert any("policy_provenance.overrides.limits: is not" in line for line in check_certificate(certificate))

    def test_an_integer_that_only_it_has_room_for_does_not_stop_the_summary_of_repeats(self) -> None:
        certificate = {**stored("quant_4bit_clean"), "plugins": {"number": 2**60}}
        assert sample_of(certificate, 0).entry["certificate_digest"] == certificate["certificate_digest"]

    def test_variance_counts_towards_rmt_and_distribution_is_a_gate_without_a_flag(self) -> None:
        certificate = next(
            found
            for name, data in sorted(_stored().items())
            if not (found := parse_json(data, name))["variance"]["passed"] and found["rmt"]["stable"]
        )
        assert certificate["validation"]["rmt_stable"] is False
        assert "variance_stable" not in certificate["validation"]
        assert check_certificate(certificate) == []
        changed = copy.deepcopy(certificate)
        changed["validation"]["rmt_stable"] = True
        findings = check_certificate(finish_certificate(changed))
        assert "validation.rmt_stable: recorded True, recomputed False" in findings

    def test_its_digest_is_over_the_form_that_python_writes(self) -> None:
        certificate = stored("calibration")
        rest = {key: value for key, value in certificate.items() if key not in {"volatile", "certificate_digest"}}
        assert certificate["certificate_digest"] == sha256_of(rest) == certificate_digest(certificate)
        assert sha256_of([1.0, 1e-5, 2**60]) != CURRENT.sha256([1, 0.00001, 5])

    @pytest.mark.parametrize("number", [1, 2])
    def test_it_cannot_call_itself_another_format(self, number: int) -> None:
        findings = check_certificate({**stored("calibration"), "certificate_format": number})
        assert findings != []

    def test_it_knows_no_guards_of_extensions(self) -> None:
        certificate = {**stored("calibration"), "foreign_guards": {}}
        assert any("foreign_guards" in finding for finding in check_certificate(finish_certificate(certificate)))


class TestFormat2:
    def test_a_new_certificate_says_its_format_and_keeps_the_name_of_the_schema(self) -> None:
        certificate = build_certificate(make_evidence(REQUEST))
        assert certificate["certificate_format"] == 2
        assert certificate["schema_version"] == "v1"  # of InvarLock 0.3.7, whose verifier asks for it
        assert format_of(certificate) is CURRENT

    def test_distribution_and_variance_have_flags(self) -> None:
        validation = build_certificate(make_evidence(REQUEST))["validation"]
        assert validation["variance_stable"] is True
        assert validation["distribution_acceptable"] is True

    def test_a_reader_that_writes_numbers_in_another_way_gets_the_same_digest(self) -> None:
        certificate = build_certificate(make_evidence(REQUEST))
        rewritten = json.loads(json.dumps(certificate), parse_float=lambda digits: _shortest(float(digits)))
        assert compact_json(rewritten) != compact_json(certificate)
        assert certificate_digest(rewritten) == certificate["certificate_digest"]

    def test_a_format_of_the_future_is_named(self) -> None:
        with pytest.raises(FormatError, match="certificate_format: 3 is not known; a later version"):
            format_of({"certificate_format": 3})


def test_format_1_is_made_of_what_is_derived_today() -> None:
    derived = derive(build_certificate(make_evidence(REQUEST, shift=0.3)))
    old = as_format1(derived)
    assert old["outcome"]["failed_gates"] == derived["outcome"]["failed_gates"]
    assert set(derived["validation"]) - set(old["validation"]) == {
        "variance_stable",
        "distribution_acceptable",
        "direction_kept",
        "answers_kept",
        "values_in_place",
        "label_holds",
        "baseline_acceptable",
    }
    assert set(derived["primary_metric"]) - set(old["primary_metric"]) == {"final_tokens", "final_windows"}
    changed = {"validation", "outcome", "primary_metric"}
    assert {key: old[key] for key in old if key not in changed} == {
        key: derived[key] for key in derived if key not in changed
    }


def test_the_policy_of_format_1_is_that_of_today_without_what_has_come_since() -> None:
    today = resolve_policy("balanced").thresholds
    then = FORMAT_1.demands(today)
    assert set(today["primary_metric"]) - set(then["primary_metric"]) == {"min_final_share", "min_final_windows"}
    assert set(today["invariants"]["warning"]) - set(then["invariants"]["warning"]) == {"layout", "vocabulary_grown"}
    assert len(looser_than_tier("balanced", then)) == 3
    assert looser_than_tier("balanced", then, demands=FORMAT_1.demands) == []
    loose = {**then, "primary_metric": {**then["primary_metric"], "ratio_limit": 1.2}}
    assert len(looser_than_tier("balanced", loose, demands=FORMAT_1.demands)) == 1


def _shortest(number: float) -> float | int:
    return int(number) if number.is_integer() and abs(number) < 2**53 else number
