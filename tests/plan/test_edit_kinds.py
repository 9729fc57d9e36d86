"""The records of edits and faults: one of each kind, read without torch, by everybody who needs to know of it."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits import BUILTIN_EDITS, BUILTIN_FAULTS
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.byoe import infer_label
from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS, Edit, Fault, Parameter, words_of
from pytest_proofpack.plan.edit_specs import CleanEdit, edit_from_tuned_entry, parse_edit_spec
from pytest_proofpack.plan.records import EditSpec, FaultSpec, ModelSpec, TextSpec
from pytest_proofpack.plan.scenarios import read_scenarios
from pytest_proofpack.plan.suites import Suite, WindowChoice, packaged_tuned, plan_certificates
from pytest_proofpack.scheduling.costs import CPU, ModelSize, certificate_seconds, kind_of
from tests.support.own_edit import SOFT_THRESHOLD

ROOT = Path(__file__).parents[2]
SCENARIOS = """{"schema": "proof_pack_scenarios_v1", "schema_version": 1, "scenarios": [
  {"id": "soft", "category": "clean", "strictness": "must_pass",
   "generation": {"kind": "edit", "edit_spec": "soft_threshold:clean:all"}},
  {"id": "softer", "category": "stress", "strictness": "informational",
   "generation": {"kind": "edit", "edit_spec": "soft_threshold:0.5:attn"}},
  {"id": "hiccup", "category": "error_injection", "strictness": "informational",
   "generation": {"kind": "error", "error_type": "hiccup"}}]}"""


@pytest.fixture
def extended() -> Iterator[None]:
    """Register an edit and a fault of one's own."""
    EDITS.register(SOFT_THRESHOLD)
    FAULTS.register(Fault("hiccup", lambda _target, _seed: {}, "nothing comes of it", cost=3.0))
    yield
    EDITS.unregister("soft_threshold")
    FAULTS.unregister("hiccup")


def plan_of(path: Path) -> dict[str, EditSpec | FaultSpec]:
    """Plan the scenarios of a file for one model, and return the edits by scenario."""
    path.write_text(SCENARIOS)
    runs = {"calibration": 0, "clean": 1, "stress": 1, "error": 1}
    scenarios, tuned = read_scenarios(path), packaged_tuned()
    suite = Suite("own", (ModelSpec("acme/a"),), TextSpec("synthetic"), WindowChoice(), runs, scenarios, tuned)
    found = {request.scenario.id: request.edit for request in plan_certificates(suite).requests}
    return {name: edit for name, edit in found.items() if isinstance(edit, EditSpec | FaultSpec)}


class TestRecords:
    def test_the_packages_own(self) -> None:
        assert list(EDITS) == [edit.name for edit in BUILTIN_EDITS]
        assert list(EDITS) == ["noop", "quant_rtn", "fp8_quant", "magnitude_prune", "lowrank_svd"]
        assert [EDITS[name].form for name in EDITS] == [
            "noop",
            "quant_rtn:BITS:GROUP_SIZE:SCOPE",
            "fp8_quant:FORMAT:SCOPE",
            "magnitude_prune:SPARSITY:SCOPE",
            "lowrank_svd:RANK:SCOPE",
        ]
        assert list(FAULTS) == [fault.name for fault in BUILTIN_FAULTS]
        assert not set(EDITS) & set(FAULTS)

    def test_no_two_are_told_by_the_same_word(self) -> None:
        words = [word for edit in EDITS.values() for word in edit.told_by]
        assert len(words) == len(set(words))

    def test_the_clean_parameters_that_they_propose_can_be_used(self) -> None:
        for name, edit in EDITS.items():
            if edit.clean is not None:
                spec = edit_from_tuned_entry(name, edit.clean, name)
                assert (spec is None) == (edit.clean["status"] == "skipped")

    def test_the_documentation_has_every_one_with_its_words(self) -> None:
        pages = [ROOT / "docs/how-to" / name for name in ("suite.md", "own-edit.md")]
        usage = re.sub(r"\s+", " ", "".join(page.read_text(encoding="utf-8") for page in pages))
        for edit in EDITS.values():
            assert f"`{edit.form}`" in usage
            assert edit.words in usage
            assert all(f"`{word}`" in usage for word in edit.told_by)
            assert all(parameter.expects in usage for parameter in edit.parameters)
        for fault in FAULTS.values():
            assert f"| `{fault.name}` | {fault.words} |" in usage

    def test_words(self) -> None:
        assert words_of("nan_injection") == "one weight becomes NaN"
        assert words_of("noop") == "nothing is changed"
        assert words_of("never heard of") == ""

    def test_none_needs_torch(self) -> None:
        code = (
            "import sys\nfrom pytest_proofpack.plan.edit_kinds import EDITS, FAULTS\n"
            "assert all(record.words for record in [*EDITS.values(), *FAULTS.values()])\n"
            "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers', 'safetensors', 'scipy')))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestParameter:
    @pytest.mark.parametrize(
        ("kind", "good", "bad"),
        [
            (int, (1, 0, -3), (1.0, True, "1", None)),
            (float, (1, 0.5), (float("nan"), float("inf"), True, "0.5")),
            (str, ("a", ""), (1, None, 1.0)),
        ],
    )
    def test_a_value_has_to_be_of_the_kind(
        self, kind: type[int] | type[float] | type[str], good: tuple[object, ...], bad: tuple[object, ...]
    ) -> None:
        parameter = Parameter("size", kind, "something")
        assert [value for value in (*good, *bad) if parameter.fits(value)] == list(good)

    def test_and_the_rule_has_to_accept_it(self) -> None:
        threshold = SOFT_THRESHOLD.parameters[0]
        assert threshold.fits(threshold.read("0.25"))
        assert not threshold.fits(threshold.read("-1"))

    @pytest.mark.parametrize("names", [("scope",), ("status",), ("a", "a"), ("Size",), ("",)])
    def test_a_name_that_cannot_be_used(self, names: tuple[str, ...]) -> None:
        with pytest.raises(ConfigurationError, match=f"edit 'mine': the parameter '{names[-1]}'"):
            Edit("mine", SOFT_THRESHOLD.apply, "", tuple(Parameter(name, int, "") for name in names))

    @pytest.mark.parametrize("name", ["", "Mine", "4bit", "a:b", "x" * 101])
    def test_an_edit_or_fault_of_a_name_that_cannot_be_used(self, name: str) -> None:
        with pytest.raises(ConfigurationError, match="call it by 1 to 100 lower-case letters"):
            Edit(name, SOFT_THRESHOLD.apply, "")
        with pytest.raises(ConfigurationError, match="call it by 1 to 100 lower-case letters"):
            Fault(name, lambda _target, _seed: {}, "")

    @pytest.mark.parametrize("cost", [0.0, -1.0, float("inf"), float("nan")])
    def test_a_cost_that_cannot_be_used(self, cost: float) -> None:
        with pytest.raises(ConfigurationError, match="expected a number above 0"):
            Edit("mine", SOFT_THRESHOLD.apply, "", cost=cost)


@pytest.mark.usefixtures("extended")
class TestFromOutside:
    def test_specs_are_parsed(self) -> None:
        assert parse_edit_spec("soft_threshold:0.5:attn") == EditSpec("soft_threshold", "attn", {"threshold": 0.5})
        assert parse_edit_spec("soft_threshold:clean:all") == CleanEdit("soft_threshold", "all")
        with pytest.raises(ConfigurationError, match=r"threshold is -1\.0; expected a number above 0"):
            parse_edit_spec("soft_threshold:-1:all")
        with pytest.raises(ConfigurationError, match="expected soft_threshold:THRESHOLD:SCOPE or soft_threshold:clean"):
            parse_edit_spec("soft_threshold")

    def test_scenarios_of_a_file_are_planned_and_clean_parameters_found(self, tmp_path: Path) -> None:
        assert plan_of(tmp_path / "scenarios.json") == {
            "soft": EditSpec("soft_threshold", "ffn", {"threshold": 0.0001}),
            "softer": EditSpec("soft_threshold", "attn", {"threshold": 0.5}),
            "hiccup": FaultSpec("hiccup"),
        }

    def test_costs_are_the_records(self, tmp_path: Path) -> None:
        (tmp_path / "scenarios.json").write_text(SCENARIOS)
        scenarios = read_scenarios(tmp_path / "scenarios.json")
        runs = {"calibration": 1, "clean": 1, "stress": 1, "error": 1}
        models, tuned = (ModelSpec("acme/a"),), packaged_tuned()
        suite = Suite("own", models, TextSpec("synthetic"), WindowChoice(), runs, scenarios, tuned)
        requests = plan_certificates(suite).requests
        size = ModelSize(active=1.0, weights=1.0, tokens=1)
        calibration, *others = (certificate_seconds(request, size, CPU) for request in requests)
        assert [seconds / calibration for seconds in others] == pytest.approx([2.0 / 1.3, 2.0 / 1.3, 3.0 / 1.3])
        assert [kind_of(request) for request in requests] == [
            "noop:", "soft_threshold:ffn", "soft_threshold:attn", "hiccup",
        ]  # fmt: skip

    def test_a_models_name_tells_it(self) -> None:
        assert infer_label("acme/llama-softened-01") == "soft_threshold"
        assert infer_label("acme/llama-softened-fp8") is None

    def test_the_schema_of_tuned_parameters_takes_it(self) -> None:
        document: JsonObject = {"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}
        document["defaults"] = {"soft_threshold": SOFT_THRESHOLD.clean}
        assert schema_findings("tuned_edit_params", document) == []


def test_without_its_registration_a_file_that_names_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="the edit 'soft_threshold' is unknown; expected one of noop, quant"):
        plan_of(tmp_path / "scenarios.json")
    assert infer_label("acme/llama-softened-01") is None


def test_an_own_edit_takes_fewer_than_forty_lines() -> None:
    assert len((ROOT / "tests/support/own_edit.py").read_text(encoding="utf-8").splitlines()) < 40
