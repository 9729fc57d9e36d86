"""Going on with a run: what is reused, what is made again and why, and what is another run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from pytest_proofpack.certificate.build import ModelFacts, build_certificate
from pytest_proofpack.certificate.explain import one_line, unexpected
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.presets import Preset
from pytest_proofpack.certificate.verdict import assess
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plan.records import CertificateRequest, Strictness, TextFacts, WindowPlan
from pytest_proofpack.runs import resume
from pytest_proofpack.runs.claim import claimed
from pytest_proofpack.runs.conditions import Conditions
from pytest_proofpack.runs.directory import RunDirectory
from pytest_proofpack.runs.extensions import Extension
from pytest_proofpack.runs.run import Run
from tests.support.certificates import INPUTS, MODEL, TOKENS_PER_WINDOW, WINDOWS, make_evidence, make_plan
from tests.support.default_settings import DEFAULTS

RUNS = {"calibration": 1, "clean": 1, "stress": 0, "error": 0}
FACTS = ModelFacts(
    revision=None,
    device="cpu",
    dtype="float32",
    tokenizer_hash="b" * 64,
    determinism={"requested": "throughput", "reached": "strict"},
    baseline_digest="c" * 64,
    inputs=INPUTS,
)
VOLATILE = {"tokens_per_second": 3000.0, "libraries": {"torch": "2.13.0", "transformers": "5.23.0"}}
CONDITIONS = Conditions(
    plan=WindowPlan(TOKENS_PER_WINDOW + 1, WINDOWS, WINDOWS, 42),
    text=TextFacts("synthetic", "evaluation", 100, "a" * 64, 10**6, 4 * 10**6, 4 * WINDOWS),
    tokenizer_hash="b" * 64,
    device="cpu",
    batch_windows=8,
    libraries=dict(VOLATILE["libraries"]),  # type: ignore[call-overload]
    weights=lambda: "c" * 64,
    subjects={},
)
REVISIONS = Revisions("small", "2026-01-31T12:00:00Z", (MODEL,), {(Role.MODEL, MODEL): Pin(None)})
EXTENSION = Extension("my_edits.py", None, "e" * 64)
TEXT = [{"window_id": "0" * 32, "text": "secret"}]
CHOSEN = "fp8_e5m2_clean"
NULL = {group: np.linspace(0.01, 0.1, 24).tolist() for group in ("attn", "ffn")}

Change = Callable[[JsonObject], None]


def make_run(out: Path, **given: object) -> Run:
    suite, plan = make_plan(runs=RUNS)
    settings: Settings = replace(DEFAULTS, suite="small", out=str(out), **given)  # type: ignore[arg-type]
    policy = resolve_policy(settings.tier, settings.profile)
    return Run(settings, suite, plan, policy, out, out / "proof_pack", presets={}, revisions=REVISIONS)


def made(run: Run, request: CertificateRequest) -> JsonObject:
    evidence = make_evidence(request)
    guards = {**evidence.guards, "rmt": {**evidence.guards["rmt"], "null_log_ratios": NULL}}
    return build_certificate(replace(evidence, policy=run.policy, guards=guards, model=FACTS, volatile=VOLATILE))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a run all of whose certificates are there."""
    run = make_run(tmp_path / "run")
    directory = RunDirectory(run)
    with claimed(run):
        directory.create({MODEL: CONDITIONS.fingerprint}, workers=True)
    for request in run.requests:
        directory.store(json.dumps(made(run, request)))
    return run


def chosen(run: Run) -> tuple[CertificateRequest, Path]:
    request = next(request for request in run.requests if request.scenario.id == CHOSEN)
    return request, run.out / request.folder / "evaluation.cert.json"


def change(run: Run, edit: Change) -> None:
    _, path = chosen(run)
    certificate = json.loads(path.read_text())
    edit(certificate)
    path.write_text(json.dumps(certificate))


def reusable(run: Run, conditions: Conditions = CONDITIONS) -> resume.Reusable:
    return resume.scan_certificates(run, {model.id: conditions for model in run.suite.models})


class TestReusable:
    def test_what_would_be_made_just_so_is_reused(self, run: Run) -> None:
        _, path = chosen(run)
        path.unlink()
        found = reusable(run)

        total = len(run.requests)
        assert list(found.reused) == [request.id for request in run.requests if request.scenario.id != CHOSEN]
        assert found.describe() == f"{total - 1} of {total} certificates reused; 1 not made yet"

    @pytest.mark.parametrize(
        ("edit", "why"),
        [
            (lambda c: c.clear(), "it does not fit the schema"),
            (lambda c: c["scenario"].update(run=2), "its place differs"),
            (lambda c: c["scenario"].update(category="stress"), "its place differs"),
            (lambda c: c["meta"].update(suite="other"), "its suite differs"),
            (lambda c: c["meta"].update(revision="d" * 40), "its revision differs"),
            (lambda c: c["meta"].update(trust_remote_code=True), "its trust in the model's code differs"),
            (lambda c: c["provenance"]["edit"]["parameters"].update(format="e4m3fn"), "its edit differs"),
            (lambda c: c["provenance"]["tool"].update(version="0.0.1"), "its version of pytest-proofpack differs"),
            (lambda c: c["volatile"]["libraries"].update(torch="2.12.0"), "its version of torch differs"),
            (lambda c: c["dataset"].update(kept_text=TEXT), "its text of the worst windows differs"),
            (lambda c: c["volatile"].pop("tokens_per_second"), "its record of its speed differs"),
            (lambda c: c["primary_metric"].update(final=19.0), "its certificate_digest does not verify"),
            (lambda c: c["outcome"].update(passed=False), "its certificate_digest does not verify"),
        ],
    )
    def test_what_was_changed_is_made_again(self, run: Run, edit: Change, why: str) -> None:
        change(run, edit)
        found = reusable(run)

        assert found.refused == {chosen(run)[0].id: why}
        assert found.describe().endswith(f"certificates reused; 1 made again: {why}")

    def test_a_number_is_recomputed_even_if_the_digest_was_made_to_fit(self, run: Run) -> None:
        request, path = chosen(run)
        certificate = made(run, request)
        certificate["primary_metric"]["ratio_vs_baseline"] *= 1.01
        path.write_text(json.dumps(finish_certificate(certificate)))

        assert reusable(run).refused == {request.id: "its primary_metric.ratio_vs_baseline does not verify"}

    @pytest.mark.parametrize("content", [b"", b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000])
    def test_a_file_that_holds_anything_is_made_again(self, run: Run, content: bytes) -> None:
        request, path = chosen(run)
        path.write_bytes(content)

        assert reusable(run).refused == {request.id: "it cannot be read"}

    def test_one_made_under_another_tier_is_made_again(self, run: Run) -> None:
        request, path = chosen(run)
        other = replace(run, policy=resolve_policy("conservative"))
        path.write_text(json.dumps(made(other, request)))

        assert reusable(run).refused == {request.id: "its policy differs"}

    @pytest.mark.parametrize(
        ("now", "why"),
        [
            (replace(CONDITIONS, plan=replace(CONDITIONS.plan, final=WINDOWS + 1)), "its window plan differs"),
            (replace(CONDITIONS, plan=replace(CONDITIONS.plan, seed=1)), "its window plan differs"),
            (replace(CONDITIONS, text=replace(CONDITIONS.text, text_sha256="0" * 64)), "its text differs"),
            (replace(CONDITIONS, text=replace(CONDITIONS.text, options={"own": 1})), "its text differs"),
            (replace(CONDITIONS, tokenizer_hash="0" * 64), "its tokenizer differs"),
            (replace(CONDITIONS, device="cuda"), "its device differs"),
            (replace(CONDITIONS, libraries={"transformers": "5.24.0"}), "its version of transformers differs"),
            (replace(CONDITIONS, extensions=(EXTENSION.to_json(),)), "its set of extensions differs"),
            (replace(CONDITIONS, weights=lambda: "0" * 64), "its model's digest differs"),
        ],
    )
    def test_under_other_conditions_everything_is_made_again(self, run: Run, now: Conditions, why: str) -> None:
        assert set(reusable(run, now).refused.values()) == {why}

    def test_what_is_not_known_does_not_count(self, run: Run) -> None:
        change(run, lambda c: c["volatile"].pop("libraries"))
        elsewhere = replace(CONDITIONS, device=None)

        assert not reusable(run, elsewhere).refused

    def test_weights_are_read_only_if_there_is_something_to_reuse(self, run: Run) -> None:
        def refuse() -> str:
            raise AssertionError("weights were read")

        assert reusable(run, replace(CONDITIONS, weights=refuse, tokenizer_hash="0" * 64)).refused
        for path in run.out.rglob("*.cert.json"):
            path.unlink()
        assert not reusable(run, replace(CONDITIONS, weights=refuse)).reused

    def test_null_statistics_are_those_of_the_preset_or_the_same_for_all(self, run: Run) -> None:
        preset = Preset("c" * 64, "b" * 64, TOKENS_PER_WINDOW + 1, "e" * 16, NULL)

        assert reusable(run).null == {MODEL: NULL}
        assert not reusable(replace(run, presets={MODEL: preset})).refused
        other = replace(preset, null_log_ratios={"ffn": [0.5] * 24})
        assert set(reusable(replace(run, presets={MODEL: other})).refused.values()) == {"its calibration differs"}
        change(run, lambda c: c["rmt"]["null_log_ratios"]["ffn"].append(0.2))
        assert reusable(run).refused == {chosen(run)[0].id: "its calibration differs"}

    def test_an_excerpt_says_the_same_as_the_certificate(self, run: Run) -> None:
        for request in run.requests:
            certificate = made(run, request)
            short = resume.excerpt(certificate)

            assert len(json.dumps(short)) < len(json.dumps(certificate)) / 2
            assert one_line(short) == one_line(certificate)
            assert assess(short, request.scenario) == assess(certificate, request.scenario)
            impossible = replace(request.scenario, detectors=(), strictness=Strictness.MUST_FAIL)
            assert unexpected(short, impossible) == unexpected(certificate, impossible) is not None


class TestTheSameRun:
    def test_it_is_its_own(self, run: Run) -> None:
        previous = resume.read_previous_run(run.out)

        previous.require_same_options(run)
        previous.require_same_plan(run)
        assert resume.with_previous_pins(run).settings.revisions == str(run.out / "state/model_revisions.json")
        given = replace(run, settings=replace(run.settings, revisions="mine.json"))
        assert resume.with_previous_pins(given) == given

    @pytest.mark.parametrize(
        ("options", "difference"),
        [
            ({"tier": "aggressive"}, r'tier was "balanced", is now "aggressive"\. '),
            ({"profile": "release"}, r'profile was "dev", is now "release"\. '),
            ({"determinism": "strict"}, 'determinism was "throughput", is now "strict"'),
        ],
    )
    def test_other_options_are_named(self, run: Run, options: dict[str, str], difference: str) -> None:
        with pytest.raises(ConfigurationError, match=f"--proofpack-resume: .* holds another run: {difference}"):
            resume.read_previous_run(run.out).require_same_options(make_run(run.out, **options))

    def test_of_another_suite_only_that_is_said(self, run: Run) -> None:
        other = replace(make_run(run.out, tier="aggressive"), suite=replace(run.suite, name="other", tuned={}))
        with pytest.raises(ConfigurationError, match=r'another run: suite was "small", is now "other"\. '):
            resume.read_previous_run(run.out).require_same_options(other)

    def test_another_plan_is_named(self, run: Run) -> None:
        previous = resume.read_previous_run(run.out)
        more = replace(run, suite=replace(run.suite, runs={**RUNS, "clean": 2}))
        tuned = json.loads(json.dumps(run.suite.tuned))
        tuned["defaults"]["magnitude_prune"]["sparsity"] = 0.2

        with pytest.raises(ConfigurationError, match=r"another run: scenarios\.plan\.runs\.clean was 1, is now 2\. "):
            previous.require_same_plan(more)
        with pytest.raises(ConfigurationError, match=r"magnitude_prune\.sparsity was 0\.12, is now 0\.2\. "):
            previous.require_same_options(replace(run, suite=replace(run.suite, tuned=tuned)))

    def test_another_commit_is_named(self, run: Run) -> None:
        pinned = replace(run, revisions=replace(REVISIONS, pins={(Role.MODEL, MODEL): Pin("d" * 40)}))

        with pytest.raises(ConfigurationError, match=rf'revisions\.models\.{MODEL} was null, is now "{"d" * 40}"'):
            resume.read_previous_run(run.out).require_same_plan(pinned)

    @pytest.mark.parametrize("name", ["run", "scenarios", "tuned_edit_params", "model_revisions"])
    @pytest.mark.parametrize("content", [None, b"{", b'{"suite": 5}'])
    def test_a_state_that_is_none_is_refused(self, run: Run, name: str, content: bytes | None) -> None:
        path = run.out / f"state/{name}.json"
        path.unlink()
        if content is not None:
            path.write_bytes(content)

        with pytest.raises(ConfigurationError, match=name):
            resume.read_previous_run(run.out)


class TestBaselines:
    def write(self, run: Run, digest: str) -> Path:
        path = run.out / run.suite.folders[MODEL] / "baseline/windows_43.safetensors"
        path.parent.mkdir(parents=True)
        save_file({"preview": np.zeros(3)}, path, metadata={"model_digest": digest})
        path.with_suffix(".lock").touch()
        return path

    def settle(self, run: Run, now: Conditions = CONDITIONS) -> None:
        found = reusable(run, now)
        resume.settle_baselines(run, resume.read_previous_run(run.out), {run.suite.models[0].id: now}, found)

    def test_they_are_kept_where_they_would_be_measured_again_just_so(self, run: Run) -> None:
        path = self.write(run, "c" * 64)
        self.settle(run)

        assert path.is_file()

    @pytest.mark.parametrize(
        ("digest", "now"),
        [
            ("c" * 64, replace(CONDITIONS, batch_windows=4)),
            ("c" * 64, replace(CONDITIONS, device="cuda")),
            ("0" * 64, CONDITIONS),
        ],
    )
    def test_others_are_removed(self, run: Run, digest: str, now: Conditions) -> None:
        path = self.write(run, digest)
        self.settle(run, now)

        assert not path.exists()

    def test_new_certificates_get_the_null_statistics_of_those_that_are_reused(self, run: Run) -> None:
        self.settle(run)

        stored = run.out / run.suite.folders[MODEL] / "baseline/null_edge_ratios.json"
        assert json.loads(stored.read_text()) == {"model_digest": "c" * 64, "log_ratios": NULL}
