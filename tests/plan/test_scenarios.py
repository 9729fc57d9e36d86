"""Scenarios: the packaged ones are those of the design, and a bad file of one's own says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import MAX_BYTES, JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.edit_kinds import FAULTS
from pytest_proofpack.plan.records import Category, Scenario, Strictness
from pytest_proofpack.plan.scenarios import CALIBRATION, parse_scenarios, read_scenarios
from pytest_proofpack.plan.suites import suites_directory
from tests.support.mutations import Path as Keys
from tests.support.mutations import removed, replaced

METRIC: JsonObject = {"kind": "validation_flag", "flag": "primary_metric_acceptable", "expected": False}
SPECTRAL: JsonObject = {"kind": "validation_flag", "flag": "spectral_stable", "expected": False}
RMT: JsonObject = {"kind": "validation_flag", "flag": "rmt_stable", "expected": False}
VARIANCE: JsonObject = {"kind": "validation_flag", "flag": "variance_stable", "expected": False}
DEGRADED: JsonObject = {"kind": "primary_metric", "field": "degraded", "expected": True}
INVARIANTS: JsonObject = {"kind": "invariants_status", "allowed": ["fail", "error"]}
FIRE_WHEN_NOTHING_IS_FOUND: list[tuple[JsonObject, str, str]] = [
    ({**METRIC, "expected": True}, "expected", "false was expected"),
    ({**DEGRADED, "expected": False}, "expected", "true was expected"),
    ({**DEGRADED, "field": "invalid", "expected": False}, "expected", "true was expected"),
    ({**INVARIANTS, "allowed": ["pass", "warn", "fail"]}, "allowed[0]", "'pass' is not one of ['fail', 'error']"),
    ({**INVARIANTS, "allowed": ["warn"]}, "allowed[0]", "'warn' is not one of ['fail', 'error']"),
]
CLEAN = (Category.CLEAN, Strictness.MUST_PASS)
DESTRUCTIVE = (Category.STRESS, Strictness.MUST_FAIL)
INFORMATIONAL = (Category.STRESS, Strictness.INFORMATIONAL)
PACKAGED_EDITS = {
    "quant_4bit_clean": (*CLEAN, "quant_rtn:clean:ffn"),
    "fp8_e5m2_clean": (*CLEAN, "fp8_quant:clean:ffn"),
    "prune_12pct_clean": (*CLEAN, "magnitude_prune:clean:ffn"),
    "svd_rank32_l31_clean": (*CLEAN, "lowrank_svd:clean:ffn"),
    "prune_50pct_stress": (*DESTRUCTIVE, "magnitude_prune:0.5:all"),
    "svd_rank32_stress": (*DESTRUCTIVE, "lowrank_svd:32:all"),
    "quant_4bit_stress": (*INFORMATIONAL, "quant_rtn:4:32:all"),
    "fp8_e5m2_stress": (*INFORMATIONAL, "fp8_quant:e5m2:all"),
}
STRUCTURAL = {"nan_injection", "inf_injection", "shape_mismatch", "missing_tensors", "weight_tying_break"}

EDIT: JsonObject = {
    "id": "mine",
    "category": "stress",
    "strictness": "must_fail",
    "generation": {"kind": "edit", "edit_spec": "quant_rtn:2:64:all"},
    "requirements": {"detectors_any_of": [METRIC]},
}
FAULT: JsonObject = {
    "id": "broken",
    "category": "error_injection",
    "strictness": "must_detect",
    "generation": {"kind": "error", "error_type": "nan_injection"},
    "requirements": {"detectors_any_of": [INVARIANTS]},
}
DOCUMENT: JsonObject = {"schema": "proof_pack_scenarios_v1", "schema_version": 1, "scenarios": [EDIT, FAULT]}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages name files as one would type them


def read(folder: Path, document: object) -> JsonObject:
    path = folder / "mine.json"
    path.write_text(json.dumps(document))
    return read_scenarios(path)


def refusal(folder: Path, document: object) -> str:
    """Return why a document is refused."""
    with pytest.raises(ConfigurationError) as caught:
        read(folder, document)
    return str(caught.value)


@pytest.fixture(scope="module")
def scenarios() -> dict[str, Scenario]:
    """Return the packaged scenarios by id."""
    parsed = parse_scenarios(read_scenarios(suites_directory() / "scenarios.json"))
    assert len(parsed) == 17
    return {scenario.id: scenario for scenario in parsed}


class TestPackaged:
    def test_edits(self, scenarios: dict[str, Scenario]) -> None:
        edits = {
            scenario.id: (scenario.category, scenario.strictness, scenario.edit_spec)
            for scenario in scenarios.values()
            if scenario.error_type is None
        }
        assert edits == PACKAGED_EDITS
        assert list(edits) == list(PACKAGED_EDITS)

    def test_every_fault_must_be_detected(self, scenarios: dict[str, Scenario]) -> None:
        faults = [scenario for scenario in scenarios.values() if scenario.edit_spec is None]
        assert {fault.error_type for fault in faults} == set(FAULTS)
        for fault in faults:
            assert (fault.id, fault.category, fault.strictness) == (
                fault.error_type, Category.ERROR, Strictness.MUST_DETECT,
            )  # fmt: skip

    def test_detectors(self, scenarios: dict[str, Scenario]) -> None:
        for scenario in scenarios.values():
            found = list(scenario.detectors)
            match scenario.category, scenario.strictness:
                case Category.CLEAN, _:
                    assert found == [], scenario.id
                case _, Strictness.MUST_FAIL:
                    # The metric, always; a guard may see it too.
                    assert found[:2] == [METRIC, DEGRADED], scenario.id
                    assert all(detector in (SPECTRAL, RMT, VARIANCE) for detector in found[2:]), scenario.id
                case _, Strictness.INFORMATIONAL:
                    assert found == [METRIC, SPECTRAL], scenario.id
                case _ if scenario.id in STRUCTURAL:
                    assert found == [INVARIANTS], scenario.id
                case _:
                    assert found == [SPECTRAL, METRIC, DEGRADED], scenario.id

    def test_the_null_scenario_edits_nothing_and_must_pass(self, scenarios: dict[str, Scenario]) -> None:
        assert CALIBRATION.id not in scenarios
        assert (CALIBRATION.category, CALIBRATION.strictness, CALIBRATION.edit_spec) == (
            Category.CALIBRATION, Strictness.MUST_PASS, "noop",
        )  # fmt: skip


class TestOwnFile:
    def test_what_stands_there_is_what_is_parsed(self, tmp_path: Path) -> None:
        edit = {**EDIT, "requirements": {"detectors_any_of": [METRIC, DEGRADED]}}
        clean = {**EDIT, "id": "clean", "category": "clean", "strictness": "must_pass"}
        del clean["requirements"]
        document = read(tmp_path, {**DOCUMENT, "scenarios": [FAULT, edit, clean]})
        assert parse_scenarios(document) == [
            Scenario("broken", Category.ERROR, Strictness.MUST_DETECT, None, "nan_injection", (INVARIANTS,)),
            Scenario("mine", Category.STRESS, Strictness.MUST_FAIL, "quant_rtn:2:64:all", None, (METRIC, DEGRADED)),
            Scenario("clean", Category.CLEAN, Strictness.MUST_PASS, "quant_rtn:2:64:all"),
        ]  # fmt: skip

    def test_notes_of_ones_own_are_kept(self, tmp_path: Path) -> None:
        document = {**DOCUMENT, "_meta": {"purpose": "mine"}, "scenarios": [{**EDIT, "note": "why"}]}
        assert read(tmp_path, document) == document

    def test_keys_that_files_of_earlier_versions_have_are_ignored(self, tmp_path: Path) -> None:
        old: JsonObject = {
            **EDIT,
            "failure_class": "stress_edit.quant_rtn",
            "intent": "catastrophic_failure",
            "primary_guard": "spectral",
            "requirements": {**EDIT["requirements"], "catastrophic_required": True},
        }
        assert parse_scenarios(read(tmp_path, {**DOCUMENT, "scenarios": [old]})) == parse_scenarios(
            {**DOCUMENT, "scenarios": [EDIT]}
        )

    def test_the_plan_of_an_earlier_run_is_dropped(self, tmp_path: Path) -> None:
        runs = {"calibration": 1, "clean": 1, "stress": 1, "error": 1}
        plan = {"suite": "old", "models": ["old/model"], "runs": runs, "skipped": []}
        assert read(tmp_path, {**DOCUMENT, "plan": plan}) == DOCUMENT


class TestBadFile:
    @pytest.mark.parametrize(
        ("path", "value", "key", "expectation"),
        [
            (("schema",), "proof_pack_scenarios_v2", "schema: ", "'proof_pack_scenarios_v1' was expected"),
            (("schema_version",), 2, "schema_version: ", "1 was expected"),
            (("scenarios",), [], "scenarios: ", "should be non-empty"),
            (("scenarios",), {}, "scenarios: ", "is one object, where a list of them is expected"),
            (("scenarios", 1, "id"), 5, "scenarios[1].id: ", "is not of type 'string'"),
            (("scenarios", 1, "id"), "../up", "scenarios[1].id: ", "does not match"),
            (("scenarios", 0, "category"), "calibration", "scenarios[0].category: ", "['clean', 'stress', 'error_inj"),
            (("scenarios", 0, "strictness"), "must", "scenarios[0].strictness: ", "['must_pass', 'must_fail', 'must_"),
            (("scenarios", 0, "category"), "error_injection", "scenarios[0].generation.kind: ", "'error' was expected"),
            (("scenarios", 1, "category"), "clean", "scenarios[1].generation.kind: ", "'edit' was expected"),
            (("scenarios", 1, "generation", "error_type"), 5, "scenarios[1].generation.error_type: ", "5"),
            (("scenarios", 0, "requirements", "detectors_any_of", 0, "more"), 1,
             "scenarios[0].requirements.detectors_any_of[0]: ", "'more'"),
            (("scenarios", 0, "requirements", "detectors_any_of", 0, "expected"), 0,
             "scenarios[0].requirements.detectors_any_of[0].expected: ", "false was expected"),
            *((("scenarios", 0, "requirements", "detectors_any_of", 0), detector,
               f"scenarios[0].requirements.detectors_any_of[0].{wrong}: ", expected)
              for detector, wrong, expected in FIRE_WHEN_NOTHING_IS_FOUND),
            (("scenarios", 0, "requirements", "detectors_any_of", 0, "kind"), "validation_flags",
             "scenarios[0].requirements.detectors_any_of[0].kind: ", "is unknown (did you mean 'validation_flag'?)"),
            (("scenarios", 0, "requirements", "detectors_any_of", 0), {"flag": "rmt_stable"},
             "scenarios[0].requirements.detectors_any_of[0]: ", "the key 'kind' is missing"),
            (("scenarios", 0, "requirements", "detectors_any_of"), [],
             "scenarios[0].requirements.detectors_any_of: ", "should be non-empty"),
        ],
    )  # fmt: skip
    def test_a_value_that_does_not_fit(
        self, tmp_path: Path, path: Keys, value: object, key: str, expectation: str
    ) -> None:
        message = refusal(tmp_path, replaced(DOCUMENT, path, value))
        assert message.startswith("mine.json is not a usable scenarios file: ")
        assert key in message
        assert expectation in message.split(key, 1)[1]

    @pytest.mark.parametrize(
        ("path", "finding"),
        [
            (("schema",), "top level: the key 'schema' is missing"),
            (("scenarios",), "top level: the key 'scenarios' is missing"),
            (("scenarios", 0, "generation"), "scenarios[0]: the key 'generation' is missing"),
            (("scenarios", 0, "strictness"), "scenarios[0]: the key 'strictness' is missing"),
            # must_fail, then must_detect: what nothing can see would always hold
            (("scenarios", 0, "requirements"), "scenarios[0]: the key 'requirements' is missing"),
            (("scenarios", 1, "requirements"), "scenarios[1]: the key 'requirements' is missing"),
            (("scenarios", 0, "requirements", "detectors_any_of"),
             "scenarios[0].requirements: the key 'detectors_any_of' is missing"),
        ],
    )  # fmt: skip
    def test_a_missing_key(self, tmp_path: Path, path: Keys, finding: str) -> None:
        message = refusal(tmp_path, removed(DOCUMENT, path))
        assert message.startswith("mine.json is not a usable scenarios file: ")
        assert finding in message

    def test_an_id_that_stands_there_twice(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, replaced(DOCUMENT, ("scenarios", 1, "id"), "mine"))
        assert message == "mine.json: scenarios[1]: the id 'mine' stands there twice, or is reserved"

    @pytest.mark.parametrize("reserved", ["calibration", "errors"])
    def test_a_reserved_id(self, tmp_path: Path, reserved: str) -> None:
        message = refusal(tmp_path, replaced(DOCUMENT, ("scenarios", 0, "id"), reserved))
        assert message == f"mine.json: scenarios[0]: the id '{reserved}' stands there twice, or is reserved"

    @pytest.mark.parametrize(
        ("spec", "expectation"),
        [
            ("distill:2:all", "the edit 'distill' is unknown; expected one of"),
            ("quant_rtn:4:all", "expected quant_rtn:BITS:GROUP_SIZE:SCOPE or quant_rtn:clean:SCOPE"),
            ("magnitude_prune:2:all", "expected a number above 0 and below 1"),
            ("lowrank_svd:clean:head", "scope 'head' is not understood: expected ffn|attn|all"),
        ],
    )
    def test_a_bad_edit_spec(self, tmp_path: Path, spec: str, expectation: str) -> None:
        message = refusal(tmp_path, replaced(DOCUMENT, ("scenarios", 0, "generation", "edit_spec"), spec))
        assert message.startswith("mine.json: scenarios[0].generation.edit_spec: ")
        assert expectation in message

    def test_an_unknown_fault(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, replaced(DOCUMENT, ("scenarios", 1, "generation", "error_type"), "nan_injektion"))
        assert message.startswith(
            "mine.json: scenarios[1].generation.error_type: the fault 'nan_injektion' is unknown; expected one of nan_"
        )
        assert message.endswith("Did you mean 'nan_injection'?")

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b'{"schema": ', "not valid JSON"),
            (b"[]", "expected a JSON object at the top, found list"),
            (b'{"schema": "\xff"}', "not UTF-8 text"),
            (b'{"schema": "a", "schema": "b"}', "the key 'schema' stands twice"),
            (b"[" * 1000, "nested more than"),
            (b'{"schema_version": NaN}', "NaN is not JSON"),
        ],
    )
    def test_what_is_no_json(self, tmp_path: Path, data: bytes, reason: str) -> None:
        path = tmp_path / "mine.json"
        path.write_bytes(data)
        self.refuses(path, reason)

    def test_what_cannot_be_read(self, tmp_path: Path) -> None:
        self.refuses(tmp_path / "mine.json", r"cannot be read \(No such file or directory\)")
        (tmp_path / "mine.json").mkdir()
        self.refuses(tmp_path / "mine.json", r"cannot be read \(Is a directory\)")

    def test_what_is_too_long(self, tmp_path: Path) -> None:
        path = tmp_path / "mine.json"
        with path.open("wb") as stream:
            stream.truncate(MAX_BYTES + 1)  # a hole: takes no room on the disk
        self.refuses(path, f"more than the {MAX_BYTES} allowed")

    def refuses(self, path: Path, reason: str) -> None:
        expected = rf"^mine\.json: .*{reason}.*Name a file in the format proof_pack_scenarios_v1\.$"
        with pytest.raises(ConfigurationError, match=expected):
            read_scenarios(path)
