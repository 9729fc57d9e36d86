"""Certificates by an edit of an extension, verified by a stranger who has not got it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.commands.verify import main
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.pack.verify import VerificationReport, verify_pack
from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS, Edit, Fault, Parameter
from tests.support.certificates import TUNED, make_run_directory
from tests.support.forgery import change_document, forge_certificate, load, reseal
from tests.support.own_edit import SOFT_THRESHOLD
from tests.support.packs import copy_of, pack_of

BLEND = Edit(
    "blend",
    SOFT_THRESHOLD.apply,
    "something with three parameters",
    (Parameter("mode", str, "a word"), Parameter("steps", int, "a number"), Parameter("share", float, "a number")),
)
HICCUP = Fault("hiccup", lambda _target, _seed: {}, "nothing comes of it")
CLEAN = "certs/acme__tiny-1m/soft/run_1/evaluation.cert.json"
FAULT = "certs/acme__tiny-1m/errors/hiccup/evaluation.cert.json"
STRESS = "certs/acme__tiny-1m/blended/run_1/evaluation.cert.json"


def scenario(name: str, category: str, strictness: str, spec: str) -> JsonObject:
    generation = {"kind": "edit", "edit_spec": spec}
    return {"id": name, "category": category, "strictness": strictness, "generation": generation}


DOCUMENT: JsonObject = {
    "schema": "proof_pack_scenarios_v1",
    "schema_version": 1,
    "scenarios": [
        scenario("soft", "clean", "must_pass", "soft_threshold:clean:all"),
        {
            "id": "hiccup",
            "category": "error_injection",
            "strictness": "informational",
            "generation": {"kind": "error", "error_type": "hiccup"},
        },
        scenario("blended", "stress", "informational", "blend:7:3:3.0:attn@layer=1"),
    ],
}


@contextmanager
def known() -> Iterator[None]:
    """Let edits and fault be known, as to those who have the extension."""
    for edit in (SOFT_THRESHOLD, BLEND):
        EDITS.register(edit)
    FAULTS.register(HICCUP)
    try:
        yield
    finally:
        for edit in (SOFT_THRESHOLD, BLEND):
            EDITS.unregister(edit.name)
        FAULTS.unregister("hiccup")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack whose makers had the extension; tests do not change it."""
    tuned = {**TUNED, "defaults": {**TUNED["defaults"], "soft_threshold": SOFT_THRESHOLD.clean}}
    folder = tmp_path_factory.mktemp("foreign")
    with known():
        make_run_directory(folder / "run", scenarios=DOCUMENT, tuned=tuned)
        return pack_of(folder / "run", folder / "pack")


@pytest.fixture
def pack(original: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return copy_of(original, tmp_path / "pack")


def messages(report: VerificationReport) -> tuple[str, str]:
    """Return findings and warnings of the verdict's step."""
    (step,) = (step for step in report.steps if step.step == "verdict")
    return "\n".join(step.findings), "\n".join(step.warnings)


def forge_edit(pack: Path, path: str, **facts: object) -> None:
    """Change the edit block of a certificate, and make all digests agree with it."""

    def forge(certificate: JsonObject) -> None:
        edit = {**certificate["provenance"]["edit"], **facts}
        del edit["sha256"]
        certificate["provenance"]["edit"] = {**edit, "sha256": sha256_of(edit)}
        certificate["edit_name"] = edit["type"]
        certificate["plugins"]["edits"] = [edit["type"]]
        certificate["provenance"]["model_digest"] |= derive(certificate)["provenance"]["model_digest"]

    forge_certificate(pack, path, forge)
    reseal(pack)


def test_who_has_the_edit_is_told_nothing(original: Path) -> None:
    with known():
        report = verify_pack(original)
    assert report.ok
    assert messages(report) == ("", "")


def test_a_stranger_verifies_it_and_is_told_what_was_not_checked(
    original: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = verify_pack(original)
    assert report.ok
    findings, warnings = messages(report)
    assert findings == ""
    assert [line.split(" is not known here")[0] for line in warnings.splitlines()] == [
        "state/scenarios.json: the edit 'blend' of 1 certificates",
        "state/scenarios.json: the edit 'soft_threshold' of 1 certificates",
    ]
    assert load(original / STRESS)["provenance"]["edit"]["parameters"] == {"mode": "7", "steps": 3, "share": 3.0}
    assert main([str(original)]) == 0
    assert "was not checked" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "facts"),
    [
        (STRESS, {"parameters": {"mode": "7", "steps": 3, "share": 0.5}}),
        (STRESS, {"parameters": {"mode": "7", "steps": 4, "share": 3.0}}),
        (STRESS, {"parameters": {"mode": "8", "steps": 3, "share": 3.0}}),
        (STRESS, {"parameters": {"mode": "7", "steps": 3}}),
        (STRESS, {"parameters": {"mode": "7", "steps": 3, "share": 3.0, "more": 1}}),
        (STRESS, {"parameters": {"mode": "7", "steps": True, "share": [3.0]}}),
        (STRESS, {"parameters": None}),
        (STRESS, {"scope": "attn"}),
        (STRESS, {"type": "blind"}),
        (STRESS, {"note": "more"}),
        (CLEAN, {"parameters": {"threshold": 0.5}}),
        (CLEAN, {"parameters": {"limit": 0.0001}}),
        (CLEAN, {"parameters": {}}),
        (CLEAN, {"scope": "all"}),
        (FAULT, {"type": "nan_injection"}),
    ],
)
def test_a_stranger_finds_another_edit_than_the_scenario_asks_for(
    pack: Path, path: str, facts: dict[str, object]
) -> None:
    forge_edit(pack, path, **facts)
    report = verify_pack(pack)
    assert not report.ok
    assert f"{path}: provenance.edit: recorded" in messages(report)[0]


@pytest.mark.parametrize(
    "parameters", [{"a": "7", "b": 3.0, "c": 3}, {"mode": 7, "steps": 3, "share": "3.0"}], ids=["names", "kinds"]
)
def test_which_parameter_has_which_value_only_the_extension_knows(pack: Path, parameters: JsonObject) -> None:
    forge_edit(pack, STRESS, parameters=parameters)
    assert verify_pack(pack).ok
    with known():
        assert f"{STRESS}: provenance.edit: recorded" in messages(verify_pack(pack))[0]


def test_an_edit_that_the_tuned_parameters_skip_or_do_not_have_is_found(pack: Path) -> None:
    tuned = pack / "state/tuned_edit_params.json"
    change_document(tuned, lambda document: document["defaults"].pop("soft_threshold"))
    reseal(pack)
    assert f"{CLEAN}: provenance.edit: recorded" in messages(verify_pack(pack))[0]
    skipped = {"status": "skipped", "reason": "not tuned"}
    change_document(tuned, lambda document: document["defaults"].update(soft_threshold=skipped))
    reseal(pack)
    assert f"{CLEAN}: provenance.edit: recorded" in messages(verify_pack(pack))[0]
    with known():
        assert f"{CLEAN}: state/tuned_edit_params.json skips this edit (not tuned)" in messages(verify_pack(pack))[0]


@pytest.mark.parametrize("spec", ["", ":", "blend", "blend:attn@layer=1", "::::", "x:clean:", "noop:noop", "\0"])
def test_specs_that_nobody_understands_do_not_stop_verification(pack: Path, spec: str) -> None:
    def respell(document: JsonObject) -> None:
        document["scenarios"][2]["generation"]["edit_spec"] = spec or " "

    change_document(pack / "state/scenarios.json", respell)
    reseal(pack)
    assert not verify_pack(pack).ok
