"""Planning the certification of edited checkpoints: which they are, what their edits are called, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.byoe import byoe_suite, infer_label, settled_request, settled_subject, settled_suite
from pytest_proofpack.plan.records import Category, Scenario, Strictness, SubjectEdit, TextSpec
from pytest_proofpack.plan.suites import Suite, plan_certificates
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.mutations import replaced

A, B = "a" * 64, "b" * 64


def models(folder: Path, *names: str) -> list[str]:
    """Make directories that look like models to the planning, which reads nothing but names."""
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
    return [str(folder / name) for name in names]


def suite(baseline: str, *subjects: str, label: str | None = None, **runs: int) -> Suite:
    return byoe_suite(baseline, subjects, label=label, text=TextSpec("synthetic"), runs=runs)


def run_for(folder: Path, **settings: object) -> Run:
    base, *edited = models(folder, "base", "ft")
    values: dict[str, Any] = {"baseline": base, "subject": tuple(edited), "text": "text.txt", "out": f"{folder}/run"}
    return resolve_run(replace(DEFAULTS, **{**values, **settings}))


class TestSubjects:
    def test_each_is_a_scenario_that_must_pass(self, tmp_path: Path) -> None:
        base, one, two = models(tmp_path, "base", "one", "Two-RTN")
        plan = plan_certificates(suite(base, one, two, clean=2))
        made = [(request.scenario.id, request.run, request.edit_name) for request in plan.requests]
        assert made == [
            ("calibration", 1, "noop"),
            ("one", 1, "custom"),
            ("one", 2, "custom"),
            ("two-rtn", 1, "quant_rtn"),
            ("two-rtn", 2, "quant_rtn"),
        ]
        last = plan.requests[-1]
        assert (last.model.id, last.subject and last.subject.id) == ("base", "Two-RTN")
        assert (last.scenario.category, last.scenario.strictness) == (Category.BYOE, Strictness.MUST_PASS)
        assert last.folder == "base/certificates/two-rtn/run_2"
        assert last.edit_facts == {"type": "quant_rtn", "source": "byoe", "subject": "Two-RTN", "revision": None}

    def test_a_directory_stands_for_the_models_in_it(self, tmp_path: Path) -> None:
        (base,) = models(tmp_path, "base")
        models(tmp_path / "all", "b", "a")
        (tmp_path / "all" / "notes").mkdir()
        assert list(suite(base, str(tmp_path / "all")).subjects) == ["a", "b"]

    def test_models_of_one_name_are_told_apart_by_their_folders(self, tmp_path: Path) -> None:
        base, one, two = models(tmp_path, "llama", "x/llama", "y/llama")
        made = suite(base, one, two)
        assert [model.id for model in made.subjects.values()] == ["x/llama", "y/llama"]
        assert list(made.subjects) == ["x__llama", "y__llama"]

    def test_hub_ids_keep_their_revisions(self) -> None:
        made = suite("acme/llama@v1", "acme/llama@v2", "acme/llama@v3")
        assert [(model.id, model.revision) for model in made.models] == [("acme/llama", "v1")]
        assert {name: model.revision for name, model in made.subjects.items()} == {
            "acme__llama-v2": "v2",
            "acme__llama-v3": "v3",
        }

    @pytest.mark.parametrize("name", ["calibration", "errors", "x" * 90])
    def test_names_that_cannot_be_folders_are_numbered(self, tmp_path: Path, name: str) -> None:
        base, edited = models(tmp_path, "base", name)
        assert list(suite(base, edited).subjects) == ["subject_1"]

    def test_kinds_of_runs_that_mean_nothing_are_left_out(self, tmp_path: Path) -> None:
        base, edited = models(tmp_path, "base", "one")
        assert suite(base, edited, stress=4, calibration=0).runs == {
            "calibration": 0,
            "clean": 1,
            "stress": 0,
            "error": 0,
        }

    def test_a_directory_without_models(self, tmp_path: Path) -> None:
        (base,) = models(tmp_path, "base")
        (tmp_path / "empty").mkdir()
        with pytest.raises(ConfigurationError, match="neither it nor a directory in it holds"):
            suite(base, str(tmp_path / "empty"))

    def test_one_named_twice(self, tmp_path: Path) -> None:
        base, edited = models(tmp_path, "base", "one")
        with pytest.raises(ConfigurationError, match="several subjects are called one"):
            suite(base, edited, f"{edited}/")


class TestLabels:
    @pytest.mark.parametrize(
        ("name", "label"),
        [
            ("quant_rtn", "quant_rtn"),
            ("acme/Llama-7B-RTN-g128", "quant_rtn"),
            ("llama-fp8", "fp8_quant"),
            ("llama.pruned.50", "magnitude_prune"),
            ("magnitude_prune", "magnitude_prune"),
            ("llama-lowrank_svd", "lowrank_svd"),
            ("llama-pruned-fp8", None),
            ("llama-int4-awq", None),
            ("rtnet", None),
            ("fp8/llama", None),
        ],
    )
    def test_a_name_tells_it_or_does_not(self, name: str, label: str | None) -> None:
        assert infer_label(name) == label

    def test_the_users_word_counts(self, tmp_path: Path) -> None:
        base, edited = models(tmp_path, "base", "llama-fp8")
        (request,) = plan_certificates(suite(base, edited, label="merged", calibration=0)).requests
        assert request.edit_name == "merged"

    @pytest.mark.parametrize("label", ["", "Quant", "a b", "../x", "x" * 101])
    def test_a_label_of_other_characters(self, tmp_path: Path, label: str) -> None:
        base, edited = models(tmp_path, "base", "one")
        with pytest.raises(ConfigurationError, match="--proofpack-edit-label"):
            suite(base, edited, label=label)

    def test_what_the_files_say_counts_more_than_their_name_and_less_than_their_bytes(self) -> None:
        for origin in ("inferred", "default"):
            planned = SubjectEdit("custom", origin, "x")
            settled = settled_subject(planned, None, A, B, told="compressed-tensors:W4A16")
            assert (settled.label, settled.origin) == ("compressed-tensors:W4A16", "files")
            assert settled_subject(planned, None, A, A, told="fp8").label == "noop"

    def test_the_users_label_names_no_other_form_than_the_files(self) -> None:
        own = SubjectEdit("quant_rtn", "given", "x")
        assert settled_subject(own, None, A, B, told="bnb-int8") == replace(own, digest=B)
        with pytest.raises(ConfigurationError, match="edit-label=gptq: the files of x say of themselves that they are"):
            settled_subject(replace(own, label="gptq"), None, A, B, told="bnb-int8")

    def test_a_label_may_name_a_form_and_its_scheme(self, tmp_path: Path) -> None:
        base, edited = models(tmp_path, "base", "one")
        (request,) = plan_certificates(suite(base, edited, label="compressed-tensors:W4A16", calibration=0)).requests
        assert request.edit_name == "compressed-tensors:W4A16"

    def test_equal_files_are_a_noop_whatever_the_name_says(self) -> None:
        planned = SubjectEdit("quant_rtn", "inferred", "x")
        assert settled_subject(planned, "rev", A, A) == SubjectEdit("noop", "digest", "x", "rev", A)
        assert settled_subject(planned, "rev", A, B) == SubjectEdit("quant_rtn", "inferred", "x", "rev", B)
        told = settled_subject(planned, "rev", A, B, told="lora")
        assert told == SubjectEdit("lora", "files", "x", "rev", B), "files say more than a name"
        assert settled_subject(planned, "rev", A, A, told="lora").label == "noop"
        assert settled_subject(SubjectEdit("mine", "given", "x"), None, A, B, told="lora").label == "mine"

    @pytest.mark.parametrize(
        ("label", "digest", "message"),
        [("quant_rtn", A, "are the baseline's, byte for byte"), ("noop", B, "are not the baseline's")],
    )
    def test_a_given_label_that_the_files_contradict(self, label: str, digest: str, message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            settled_subject(SubjectEdit(label, "given", "x"), None, A, digest)

    @pytest.mark.parametrize(
        ("label", "same", "refused"),
        [
            ("quant_rtn", True, "hold the baseline's values, saved anew: nothing was changed"),
            ("quant_rtn", False, None),
            ("noop", True, None),
            ("noop", False, "are not the baseline's"),
            ("custom", True, None),
            ("merged", True, None),
        ],
    )
    def test_a_given_label_that_the_values_contradict(self, label: str, same: bool, refused: str | None) -> None:
        """Saved anew, in other shards, a copy is a copy. A label of one's own says nothing of values."""
        planned = SubjectEdit(label, "given", "x")
        if refused is None:
            assert settled_subject(planned, None, A, B, lambda: same).label == label
        else:
            with pytest.raises(ConfigurationError, match=refused):
                settled_subject(planned, None, A, B, lambda: same)

    def test_what_the_name_says_is_no_claim_of_the_users(self) -> None:
        assert settled_subject(SubjectEdit("quant_rtn", "inferred", "x"), None, A, B, lambda: True).origin == "inferred"

    def test_a_given_noop_that_is_one(self) -> None:
        assert settled_subject(SubjectEdit("noop", "given", "x"), None, A, A).label == "noop"

    def test_suite_and_request_are_settled_alike(self, tmp_path: Path) -> None:
        base, one, two = models(tmp_path, "base", "one-rtn", "two-rtn")
        made = suite(base, one, two)
        plan = plan_certificates(made)
        document = plan.document(settled_suite(made, plan, A, {"one-rtn": A, "two-rtn": B}))
        assert schema_findings("scenarios", document) == []
        settled = [settled_request(request, A, B) for request in plan.requests if request.subject]
        assert [request.edit_name for request in settled] == ["quant_rtn", "quant_rtn"]
        labels = [(e["generation"]["label"], e["generation"]["digest"]) for e in document["scenarios"]]
        assert labels == [("noop", A), ("quant_rtn", B)]


class TestDocument:
    @pytest.mark.parametrize(
        "change",
        [{"strictness": "informational"}, {"category": "clean"}, {"generation": {"kind": "edit", "edit_spec": "noop"}}],
    )
    def test_a_subject_can_ask_for_nothing_less(self, tmp_path: Path, change: dict[str, object]) -> None:
        base, one = models(tmp_path, "base", "one")
        made = suite(base, one)
        plan = plan_certificates(made)
        document = plan.document(settled_suite(made, plan, A, {"one": B}))
        document["scenarios"][0].update(change)
        assert schema_findings("scenarios", document)


UNEDITED = SubjectEdit("noop", "digest", "x", None, A)
NOOP = Scenario("x", Category.BYOE, Strictness.MUST_PASS, subject=UNEDITED)
EQUAL: JsonObject = {
    "outcome": {"passed": True},
    "primary_metric": {"ratio_vs_baseline": 1.0},
    "invariants": {"violations": []},
    "structure": {"summary": dict.fromkeys(("changed", "not_compared", "added", "removed", "reshaped"), 0)},
}


class TestVerdict:
    def test_a_noop_passes_without_any_difference(self) -> None:
        assert assess(EQUAL, NOOP).as_expected

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("outcome", "passed"), False),
            (("primary_metric", "ratio_vs_baseline"), 1.0001),
            (("primary_metric", "ratio_vs_baseline"), None),
            (("invariants", "violations"), [{}]),
            (("structure", "summary", "changed"), 1),
            (("structure", "summary", "added"), 1),
            (("structure", "summary"), None),
        ],
    )
    def test_a_noop_with_a_difference_does_not(self, path: tuple[str, ...], value: object) -> None:
        certificate = replaced(EQUAL, path, value)
        assert not assess(certificate, NOOP).as_expected
        edit = replace(UNEDITED, label="custom")
        passed = certificate["outcome"]["passed"]
        assert assess(certificate, replace(NOOP, subject=edit)).as_expected is passed


class TestSettings:
    def test_the_default_text_is_wikitext(self, tmp_path: Path) -> None:
        text = run_for(tmp_path, text=None).suite.text
        assert (text.provider, text.dataset, text.split) == ("wikitext2", "Salesforce/wikitext", "validation")

    def test_every_model_that_has_to_be_here_is_listed(self, tmp_path: Path) -> None:
        assert [model.id for model in run_for(tmp_path).models] == ["base", "ft"]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"suite": "tiny"}, "exclude each other"),
            ({"subject": ()}, "need each other"),
            ({"baseline": None}, "need each other"),
            ({"model": ("x",)}, "--proofpack-model"),
            ({"runs": {"calibration": 0, "clean": 0}}, "no certificate at all"),
        ],
    )
    def test_what_does_not_go_together(self, tmp_path: Path, settings: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigurationError, match=message):
            run_for(tmp_path, **settings)

    def test_a_label_without_a_subject(self) -> None:
        with pytest.raises(ConfigurationError, match="--proofpack-edit-label"):
            resolve_run(replace(DEFAULTS, suite="tiny", edit_label="x"))
