"""The certificate: deterministic, recomputable by a stranger, and no leaf of it that can be changed unnoticed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_proofpack.certificate.build import Evidence, build_certificate
from pytest_proofpack.certificate.check import WHOLLY_DERIVED, check_certificate
from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.formats import OUTSIDE_DIGEST, certificate_digest, finish_certificate
from pytest_proofpack.certificate.policy import policy_digest, resolve_policy
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.guards.inventory import ListedTensor
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.guards.structure import StructureMeasure, TensorFacts
from pytest_proofpack.plan.records import CertificateRequest, WindowLosses, WindowSample
from tests.support.certificates import make_evidence, make_plan
from tests.support.mutations import Path, at, dotted, leaves, other, removed, replaced

Change = Callable[[JsonObject], object]


@cache
def request_for(scenario: str, run: int = 1) -> CertificateRequest:
    requests = make_plan(runs={"calibration": 2, "clean": 2, "stress": 2, "error": 1})[1].requests
    return next(request for request in requests if request.scenario.id == scenario and request.run == run)


def evidence(scenario: str = "quant_4bit_clean", shift: float | None = None) -> Evidence:
    return make_evidence(request_for(scenario), shift=shift)


@cache
def _built(scenario: str, shift: float | None) -> JsonObject:
    return build_certificate(evidence(scenario, shift))


def certificate(scenario: str = "quant_4bit_clean", shift: float | None = None) -> JsonObject:
    return copy.deepcopy(_built(scenario, shift))


def forged(document: JsonObject) -> list[str]:
    """Check a changed certificate whose digest the forger has set anew, if there is one."""
    with contextlib.suppress(FormatError):  # a format that nobody knows, an integer that has no canonical form
        document = finish_certificate(document)
    return check_certificate(document)


def with_subject_losses(base: Evidence, side: str, losses: list[float]) -> Evidence:
    draw: WindowLosses = getattr(base.subject, side)
    losses = [*losses, *draw.losses[len(losses) :]]
    return replace(base, subject=replace(base.subject, **{side: replace(draw, losses=tuple(losses))}))


GUARD_EVIDENCE = {name: guard.evidence for name, guard in GUARDS.builtin.items()}
HONEST = certificate()
DERIVED = derive(HONEST)
VECTORS = ("evaluation_windows.preview.", "evaluation_windows.final.")
MAKERS_WORD = {
    "meta.inputs.attention.baseline",
    "meta.inputs.attention.subject",
    "meta.inputs.tokenizer",
    "meta.revision", "meta.adapter", "meta.device", "meta.dtype",
    "meta.determinism.requested", "dataset.provider", "dataset.split", "dataset.documents",
    "dataset.windows.available", "dataset.hash.text", "dataset.hash.total_tokens", "dataset.hash.total_bytes",
    "invariants.baseline.non_finite", "rmt.windows_sha256", "distribution.kl_max",
    "distribution.measurement.cache_bytes_limit", "distribution.measurement.vocabulary",
    "direction.matrices.retained[0]",
    "structure.edit_details.groups", "provenance.tool.name", "provenance.tool.version",
    "plugins.adapters[0]", "plugins.edits[0]", "artifacts",
    *(f"plugins.guards[{number}]" for number in range(len(GUARDS.builtin))),
}  # fmt: skip
"""What nothing else in a certificate binds: only the signature of a pack does."""

_ROUTER = "moe.routers.block.1.router."
FREE_NUMBERS = {
    # Facts without a bearing on the guard's outcome.
    "distribution.measurement.vocabulary", "distribution.measurement.cache_bytes_limit",
    "invariants.violations[].count", "invariants.baseline.non_finite",
    # Of matrices that have not turned.
    *(f"direction.matrices.{key}[]" for key in ("retained", "rows_lost", "columns_lost")),
    # Extremes of single tokens, which only have to be possible.
    "distribution.kl_max", "distribution.kl_q99",
    # All but the two around the quantile.
    "rmt.null_log_ratios.attn[]",
    # What differs between baseline and subject anyway, and is called so.
    *(f"invariants.{side}.vocabulary.{place}" for side in ("baseline", "subject")
      for place in ("config", "embedding", "head", "tokenizer")),
    *(_ROUTER + key for key in ("base.shape[]", "cur.shape[]", "base.usage[]", "cur.usage[]", "cur.top_k")),
}  # fmt: skip
"""Numbers of the guards' evidence in :func:`certificate_of_many_findings` that only the digest binds."""


class TestHonest:
    @pytest.mark.parametrize(
        ("scenario", "shift"),
        [
            ("calibration", None),
            ("quant_4bit_clean", None),
            ("quant_4bit_clean", 0.3),
            ("prune_50pct_stress", None),
            ("nan_injection", None),
            ("shape_mismatch", None),
            ("weight_tying_break", None),
            ("scale_explosion", 3.0),
        ],
    )
    def test_nothing_is_found(self, scenario: str, shift: float | None) -> None:
        document = certificate(scenario, shift)
        assert check_certificate(document) == []
        assert check_certificate(parse_json(compact_json(document).encode(), "x")) == []

    def test_the_same_evidence_gives_the_same_bytes(self) -> None:
        assert compact_json(build_certificate(evidence())) == compact_json(HONEST)

    def test_what_is_volatile_is_in_no_digest(self) -> None:
        other_day = build_certificate(replace(evidence(), volatile={"seconds": 99, "host": "other"}))
        assert other_day["certificate_digest"] == HONEST["certificate_digest"]
        assert check_certificate(other_day) == []

    def test_plain_tools_give_the_digest(self) -> None:
        rest = {key: value for key, value in HONEST.items() if key not in {"volatile", "certificate_digest"}}
        assert HONEST["certificate_digest"] == hashlib.sha256(rfc8785.dumps(rest)).hexdigest()

    def test_runs_and_scenarios_have_certificates_of_their_own(self) -> None:
        requests = [request_for("quant_4bit_clean"), request_for("quant_4bit_clean", 2), request_for("calibration")]
        made = [build_certificate(make_evidence(request)) for request in requests]
        assert len({document["certificate_digest"] for document in made}) == 3
        assert len({document["run_id"] for document in made}) == 3
        assert made[1]["meta"]["seeds"]["windows"] == made[0]["meta"]["seeds"]["windows"] + 1

    def test_building_leaves_the_policy_as_it_was(self) -> None:
        policy = resolve_policy("balanced")
        build_certificate(replace(evidence(), policy=policy))
        assert policy == resolve_policy("balanced")


class TestEvidence:
    @pytest.mark.parametrize("side", ["preview", "final"])
    @pytest.mark.parametrize("key", ["ids", "token_counts"])
    def test_baseline_and_subject_must_have_seen_the_same_windows(self, side: str, key: str) -> None:
        base = evidence()
        draw: WindowLosses = getattr(base.subject, side)
        moved = replace(draw, **{key: (*getattr(draw, key)[1:], getattr(draw, key)[0] * 2)})
        with pytest.raises(EvaluationError, match=f"saw different {side} windows"):
            build_certificate(replace(base, subject=replace(base.subject, **{side: moved})))

    def test_a_window_counts_once(self) -> None:
        base = evidence()

        def repeat(draw: WindowSample) -> WindowSample:
            ids = (draw.preview.ids[0], *draw.final.ids[1:])
            return replace(draw, final=replace(draw.final, ids=ids))

        with pytest.raises(EvaluationError, match=r"1 of 160 windows repeat another one .*fewer repetitions"):
            build_certificate(replace(base, baseline=repeat(base.baseline), subject=repeat(base.subject)))

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_baseline_without_a_finite_loss_gives_no_certificate(self, bad: float) -> None:
        base = evidence()
        final = replace(base.baseline.final, losses=(bad, *base.baseline.final.losses[1:]))
        with pytest.raises(EvaluationError, match=r"acme/Tiny-1M: the baseline's own loss is not finite.*Check"):
            build_certificate(replace(base, baseline=replace(base.baseline, final=final)))

    @pytest.mark.parametrize("side", ["preview", "final"])
    @pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
    def test_a_subject_without_a_finite_loss_is_a_failure_in_strict_json(self, side: str, bad: float) -> None:
        document = build_certificate(with_subject_losses(evidence(), side, [bad]))
        metric = document["primary_metric"]
        assert (metric["invalid"], metric["degraded"], metric["degraded_reason"]) == (True, True, "non_finite_loss")
        assert "ratio_vs_baseline" not in metric
        assert document["evaluation_windows"][side]["logloss"][0] is None
        assert {"primary_metric_acceptable", "preview_final_drift_acceptable"} <= {*document["outcome"]["failed_gates"]}
        assert check_certificate(parse_json(compact_json(document).encode(), "x")) == []

    @pytest.mark.parametrize("side", ["preview", "final"])
    def test_a_perplexity_beyond_the_range_of_numbers_is_a_failure_too(self, side: str) -> None:
        document = build_certificate(with_subject_losses(evidence(), side, [3e38] * 20))
        assert document["primary_metric"]["degraded_reason"] == "perplexity_overflow"
        assert not document["outcome"]["passed"]
        assert check_certificate(document) == []


class TestForged:
    def test_no_leaf_changes_without_the_digest(self) -> None:
        for path in leaves(HONEST):
            if path == ("certificate_format",):
                continue  # says how the digest is made
            changed = certificate_digest(replaced(HONEST, path, other(at(HONEST, path))))
            assert (changed != HONEST["certificate_digest"]) == (path[0] not in OUTSIDE_DIGEST), dotted(path)

    def test_a_change_without_a_new_digest_is_named(self) -> None:
        changed = replaced(HONEST, ("dataset", "provider"), "other")
        assert check_certificate(changed) == ["certificate_digest: does not match the content"]

    @pytest.mark.parametrize("path", list(leaves(DERIVED)), ids=dotted)
    def test_every_derived_leaf_that_is_changed_is_named(self, path: Path) -> None:
        # The lists of gates and warnings are empty here: something is put into them.
        findings = forged(replaced(HONEST, path, other(at(HONEST, path))))
        assert any(dotted(path) in finding for finding in findings), findings

    @pytest.mark.parametrize("path", [path for path in leaves(DERIVED) if path[-1] not in {0, 1}], ids=dotted)
    def test_every_derived_leaf_that_is_removed_is_named(self, path: Path) -> None:
        key = str(path[-1])
        assert any(key in finding for finding in forged(removed(HONEST, path)))

    @pytest.mark.parametrize("block", WHOLLY_DERIVED)
    def test_nothing_can_be_added_to_what_is_derived(self, block: str) -> None:
        assert any(block in finding for finding in forged(replaced(HONEST, (block, "bonus"), 1)))

    def test_nothing_can_be_added_deeper_either(self) -> None:
        changed = replaced(HONEST, ("primary_metric_tail", "quantiles", "q100"), 0.0)
        assert forged(changed) == ["primary_metric_tail.quantiles.q100: nothing in the evidence supports it"]

    @pytest.mark.parametrize("guard", GUARD_EVIDENCE)
    def test_nothing_can_be_added_anywhere_in_a_guards_block(self, guard: str) -> None:
        document = certificate_of_many_findings()
        assert check_certificate(document) == []
        for path in _objects(document[guard], (guard,)):
            findings = forged(replaced(document, (*path, "bonus"), 1))
            named = (f"{guard}: ", dotted(path[:2]))
            assert any(name in finding for finding in findings for name in named), dotted(path)

    @pytest.mark.parametrize("guard", GUARD_EVIDENCE)
    def test_a_guard_cannot_be_left_out_or_called_unevaluated(self, guard: str) -> None:
        assert any(guard in finding for finding in check_certificate(removed(HONEST, (guard,))))
        otherwise = replaced(HONEST, (guard, "evaluated"), not HONEST[guard]["evaluated"])
        assert any(f"{guard}.evaluated" in finding for finding in forged(otherwise))
        for rest in ({}, {"status": "pass", "passed": True, "stable": True, "identity_ok": True}):
            assert forged({**HONEST, guard: {"evaluated": False, "reason": "not measured", **rest}}) != []

    @pytest.mark.parametrize(
        ("guard", "key"), [(guard, key) for guard, keys in GUARD_EVIDENCE.items() for key in sorted(keys)]
    )
    def test_evidence_of_a_guard_that_is_removed_is_named(self, guard: str, key: str) -> None:
        if (guard, key) != ("variance", "calibration"):  # optional; with it, see below
            assert any(guard in finding for finding in forged(removed(HONEST, (guard, key))))
        document = certificate_of_many_findings()
        assert any(guard in finding for finding in forged(removed(document, (guard, key))))

    def test_every_number_of_a_guards_evidence_is_bound_or_known_to_be_free(self) -> None:
        document = certificate_of_many_findings()
        free = set()
        for guard, evidence_keys in GUARD_EVIDENCE.items():
            for path in leaves({key: document[guard].get(key) for key in evidence_keys}):
                value, place = at(document[guard], path), (guard, *path)
                if isinstance(value, int | float) and not isinstance(value, bool):
                    moved = (value * 1.01 or 0.01) if isinstance(value, float) else value + 1
                    changed = replaced(document, place, moved)
                    assert "certificate_digest: does not match the content" in check_certificate(changed)
                    if not forged(changed):
                        free.add(re.sub(r"\[\d+\]", "[]", dotted(place)))
        assert free == FREE_NUMBERS

    def test_a_broken_model_cannot_be_given_a_ratio(self) -> None:
        document = build_certificate(with_subject_losses(evidence(), "final", [math.nan]))
        document["primary_metric"] |= {"ratio_vs_baseline": 1.0, "display_ci": [1.0, 1.0]}
        assert len(forged(document)) == 2

    def test_every_leaf_is_either_bound_or_the_makers_word(self) -> None:
        unbound = {
            dotted(path)
            for path in leaves(HONEST)
            if path[0] not in OUTSIDE_DIGEST
            and not dotted(path).startswith(VECTORS)
            and not forged(replaced(HONEST, path, other(at(HONEST, path))))
        }
        assert unbound == MAKERS_WORD

    def test_warnings_about_the_files_are_warnings_of_the_outcome(self) -> None:
        own = evidence()
        inputs = {**own.model.inputs, "warnings": ["the tokenizer has tokens that the model has no embedding for"]}
        document = build_certificate(replace(own, model=replace(own.model, inputs=inputs)))
        assert check_certificate(document) == []
        assert document["outcome"]["warnings"] == ["inputs"]
        assert document["outcome"]["passed"]
        assert any("outcome.warnings" in finding for finding in forged(replaced(document, ("outcome", "warnings"), [])))

    def test_the_data_set_of_a_text_is_recorded_and_the_makers_word(self) -> None:
        source = {
            "dataset": "acme/words", "config": None, "revision": "abc", "field": "text",
            "sample": {"documents": 40, "seed": 3},
        }  # fmt: skip
        document = build_certificate(replace(evidence(), text=replace(evidence().text, source=source)))
        assert document["dataset"]["source"] == source
        assert check_certificate(document) == []
        for path in leaves(source):
            changed = replaced(document, ("dataset", "source", *path), 5 if "sample" in path else "other")
            assert check_certificate(changed) == ["certificate_digest: does not match the content"]
        assert forged(replaced(document, ("dataset", "source", "sample", "documents"), 0))
        assert forged(replaced(document, ("dataset", "source"), {**source, "note": "x"}))

    @pytest.mark.parametrize("key", ["logloss", "baseline_logloss"])
    @pytest.mark.parametrize("side", ["preview", "final"])
    @pytest.mark.parametrize("window", [0, 79])
    def test_changed_losses_are_named_by_what_follows_from_them(self, key: str, side: str, window: int) -> None:
        path: Path = ("evaluation_windows", side, key, window)
        findings = forged(replaced(HONEST, path, at(HONEST, path) + 0.01))
        assert any("drift" in finding for finding in findings)
        assert any(finding.startswith("primary_metric.ratio_vs_baseline") for finding in findings) == (side == "final")

    @pytest.mark.parametrize(
        ("change", "expected"),
        [
            (lambda d: d["evaluation_windows"]["final"]["window_ids"].reverse(), "dataset.hash.final"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 374), "contradict each other"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 376), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 0), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, -375), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, 375.0), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, "375"), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].__setitem__(0, True), "token_counts"),
            (lambda d: d["evaluation_windows"]["final"]["token_counts"].pop(), "four lists of one length"),
            (lambda d: d["evaluation_windows"]["preview"]["logloss"].append(1.0), "four lists of one length"),
            (lambda d: d["evaluation_windows"]["final"]["window_ids"].__setitem__(0, 5), "expected strings"),
            (lambda d: d["evaluation_windows"]["final"]["logloss"].__setitem__(0, "3.0"), "final.logloss"),
            (lambda d: d["evaluation_windows"]["final"]["logloss"].__setitem__(0, True), "final.logloss"),
            (lambda d: d["evaluation_windows"]["final"]["logloss"].__setitem__(0, -1.0), "final.logloss"),
            (lambda d: d["evaluation_windows"]["final"]["logloss"].__setitem__(0, 1e300), "final.logloss"),
            (lambda d: d["evaluation_windows"]["final"]["baseline_logloss"].__setitem__(0, None), "must be finite"),
            (lambda d: d["evaluation_windows"]["preview"].update(baseline_logloss=[400] * 80), "must be finite"),
            (lambda d: d["dataset"].update(seq_len=2000), "dataset.stride"),
            (lambda d: d["dataset"]["windows"].update(available=159), "more windows than"),
            (lambda d: d["meta"]["seeds"].update(edit=7), "meta.seeds.windows"),
            (lambda d: d["meta"].update(tokenizer_hash="0" * 64), "baseline_ref.tokenizer_hash"),
            (lambda d: d["meta"].update(model_id="other"), "baseline_ref.model_id"),
            (lambda d: d["scenario"].update(run=2), "dataset.windows.seed"),
            (lambda d: d.update(edit_name="noop"), "edit_name"),
            (lambda d: d["provenance"]["edit"]["parameters"].update(bits=8), "provenance.edit.sha256"),
            (lambda d: d["spectral"].update(bonus=True), "spectral.bonus"),
            (lambda d: d["spectral"].update(evaluated=False), "spectral.evaluated"),
            (lambda d: d["guard_overhead"].pop("bare_logloss"), "guard_overhead.bare_logloss"),
            (lambda d: d["rmt"].clear() or d["rmt"].update(evaluated=False, reason="none"), "cannot be recomputed"),
            (lambda d: d["spectral"].clear() or d["spectral"].update(evaluated=False), "cannot be recomputed"),
            (lambda d: d["moe"].clear() or d["moe"].update(evaluated=False), "cannot be recomputed"),
            (lambda d: d["variance"].clear() or d["variance"].update(evaluated=False), "cannot be recomputed"),
            (lambda d: d["distribution"].clear() or d["distribution"].update(evaluated=False), "cannot be recomputed"),
            (lambda d: d["validation"].pop("spectral_stable"), "spectral_stable"),
            (lambda d: d["validation"].pop("guard_overhead_acceptable"), "guard_overhead_acceptable"),
        ],
    )  # fmt: skip
    def test_evidence_that_cannot_be_is_named(self, change: Change, expected: str) -> None:
        document = certificate()
        change(document)
        findings = forged(document)
        assert any(expected in finding for finding in findings), findings

    def test_one_good_window_many_times_is_no_evidence(self) -> None:
        document = certificate(shift=0.3)
        final = document["evaluation_windows"]["final"]
        best = min(range(80), key=lambda i: final["logloss"][i] - final["baseline_logloss"][i])
        for column in final.values():
            column[:] = [column[best]] * 80
        rebuilt = [finding for finding in forged(document) if "cannot be recomputed" in finding]
        assert rebuilt == [f"cannot be recomputed: evaluation_windows: {rebuilt[0].partition('windows: ')[2]}"]
        assert "stands there twice" in rebuilt[0]

    @pytest.mark.parametrize("seed", [0, 1, 999])
    def test_no_luckier_seed_can_be_chosen(self, seed: int) -> None:
        document = certificate()
        document["dataset"]["windows"]["seed"] = seed
        document["dataset"]["windows"]["stats"]["bootstrap"]["seed"] = seed
        document["meta"]["seeds"] |= {"windows": seed, "bootstrap": seed}
        findings = forged(document)
        assert any(finding.startswith("dataset.windows.seed") for finding in findings)

    def test_too_few_resamples_are_not_enough_evidence(self) -> None:
        document = certificate()
        document["dataset"]["windows"]["stats"]["bootstrap"]["replicates"] = 10
        derived = derive(document)
        assert derived["validation"]["primary_metric_acceptable"] is False
        assert any(finding.startswith("primary_metric.reps") for finding in forged(document))


class TestForgedPolicy:
    def forge(self, change: Change) -> list[str]:
        """Change the policy and make every digest of it agree."""
        document = certificate()
        change(document)
        provenance = document["policy_provenance"]
        digest = policy_digest(document["resolved_policy"], provenance["overrides"])
        provenance["policy_digest"] = document["policy_digest"]["thresholds_hash"] = digest
        document["run_id"] = derive(document)["run_id"]
        return forged(document)

    def test_an_unchanged_one_passes(self) -> None:
        assert self.forge(dict.copy) == []

    def test_a_looser_one_is_named(self) -> None:
        findings = self.forge(lambda document: document["resolved_policy"]["primary_metric"].update(ratio_limit=2.0))
        assert findings == ["resolved_policy.primary_metric.ratio_limit is 2.0, the balanced tier has 1.1"]

    def test_a_looser_tier_under_a_stricter_name_is_named(self) -> None:
        findings = self.forge(lambda document: document["policy_provenance"].update(tier="conservative"))
        assert any("ratio_limit is 1.1, the conservative tier has 1.05" in finding for finding in findings)

    def test_an_unknown_tier_is_named(self) -> None:
        findings = self.forge(lambda document: document["policy_provenance"].update(tier="mine"))
        assert any(finding.startswith("policy_provenance.tier: unknown policy tier 'mine'") for finding in findings)

    def test_an_unknown_version_is_named(self) -> None:
        findings = self.forge(lambda document: document["policy_provenance"].update(policy_version="0"))
        assert "policy_provenance.policy_version: '0', known is '1'" in findings

    def test_a_tier_softened_by_an_override_is_named(self) -> None:
        def soften(document: JsonObject) -> None:
            document["policy_provenance"]["overrides"] = {"drift": {"max": 9}}
            document["policy_digest"]["changed"] = True
            document["resolved_policy"]["drift"]["max"] = 9

        assert self.forge(soften) != []

    def test_a_digest_of_another_policy_is_named(self) -> None:
        document = replaced(HONEST, ("policy_provenance", "policy_digest"), "0" * 16)
        document["run_id"] = derive(document)["run_id"]
        assert forged(document) == ["policy_provenance.policy_digest: does not match the recorded policy"]


class TestSchema:
    def test_an_honest_certificate_fits(self) -> None:
        assert certificate_findings(HONEST) == []

    @pytest.mark.parametrize("key", [key for key in HONEST if key not in {"volatile", "certificate_format"}])
    def test_every_block_is_required(self, key: str) -> None:
        assert any(repr(key) in finding for finding in check_certificate(removed(HONEST, (key,))))

    @pytest.mark.parametrize("number", [None, 0, 1, 3, 2.0, True, "2"])
    def test_a_format_that_is_not_known_is_refused(self, number: object) -> None:
        findings = forged(replaced(HONEST, ("certificate_format",), number))
        assert len(findings) == 1
        assert findings[0].startswith("certificate_format: ")

    def test_format_2_does_not_pass_for_format_1(self) -> None:
        assert forged(removed(HONEST, ("certificate_format",))) != []

    @pytest.mark.parametrize("value", [None, 5, "text", [1], True])
    @pytest.mark.parametrize("key", list(HONEST))
    def test_every_block_has_its_type(self, key: str, value: object) -> None:
        assert check_certificate({**HONEST, key: value}) != []

    def test_nothing_stands_beside_the_blocks(self) -> None:
        assert check_certificate({**HONEST, "extra": 1}) != []


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 10**290, 1e308, -1e308, 1e-308, 0.5, 3.0, "", "x" * 1000, "1", "\n\x1b[31m", [], {},
    [[]], [1, "a"], {"a": {}}, [None] * 20, ["x"] * 20,
]  # fmt: skip


class TestHostile:
    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def test_no_input_stops_the_check(self, data: st.DataObject) -> None:
        document = certificate(data.draw(st.sampled_from(["quant_4bit_clean", "nan_injection"])))
        for _ in range(data.draw(st.integers(1, 3))):
            path = data.draw(st.sampled_from(_places(document)))
            value = data.draw(st.sampled_from(HOSTILE))
            match data.draw(st.sampled_from(["replace", "remove", "add"])):
                case "remove":
                    document = removed(document, path)
                case "add" if isinstance(at(document, path), dict):
                    document = replaced(document, (*path, "added"), value)
                case _:
                    document = replaced(document, path, value)
        document = parse_json(compact_json(document).encode(), "x")
        findings = check_certificate(document)
        assert all(isinstance(finding, str) and len(finding) <= 400 for finding in findings)
        forged(document)

    def test_findings_are_bounded(self) -> None:
        document = certificate()
        document["resolved_policy"]["spectral"] |= {f"limit_{number}": "x" * 10_000 for number in range(500)}
        document["edit_name"] = "y" * 200
        findings = forged(document)
        assert len(findings) == 100
        assert max(map(len, findings)) <= 400

    def test_more_resampling_than_a_verifier_can_hold_is_refused(self) -> None:
        document = certificate()
        stats = document["dataset"]["windows"]["stats"]
        stats["bootstrap"]["replicates"] = 100_000
        document["dataset"]["windows"]["available"] = 10**6
        final = document["evaluation_windows"]["final"]
        for key, column in final.items():
            final[key] = [f"{i}" for i in range(2000)] if key == "window_ids" else [column[0]] * 2000
        assert any("100000 resamples of 2000 windows are more than" in finding for finding in forged(document))


def certificate_of_many_findings() -> JsonObject:
    """Return a certificate in which every guard has something to report, so that none of its lists is empty."""
    return copy.deepcopy(_with_findings())


@cache
def _with_findings() -> JsonObject:
    base = evidence("shape_mismatch", 0.01)
    guards = copy.deepcopy(dict(base.guards))
    weights = guards["spectral"]["matrices"]
    for column, value in {"sigma": 80.0, "frobenius": 240.0, "row_max": 22.0, "column_max": 21.0}.items():
        weights[column][1] = value
    table = guards["spectral"]["vectors"]
    gain = {
        "name": "norm.weight", "family": "norm", "state": "measured", "gain": True, "norm_base": 4.0, "norm": 60.0,
        "change": 14.0, "ratio_min": 0.9, "ratio_max": 15.0,
    }  # fmt: skip
    for column, entry in gain.items():
        table[column].append(entry)
    guards["rmt"]["branches"]["block.0.mlp"]["cur"] = 25.0
    guards["rmt"]["null_log_ratios"] = {"attn": [0.02 + 0.001 * draw for draw in range(24)]}
    guards["variance"]["branches"]["block.0.mlp"]["cur"] = 6.0
    guards["variance"]["calibration"] = {"logloss": [3.0, 3.1, 3.2], "scaled_logloss": [3.1, 3.15, 3.1]}
    router = {"experts": 2, "top_k": 1, "shape": [2, 8], "usage": [10, 30]}
    guards["moe"]["routers"] = {
        "block.0.router": {"base": router, "cur": {**router, "usage": [20, 20]}},
        "block.1.router": {"base": router, "cur": {**router, "top_k": 2}},
    }
    touched = (*base.touched, "norm.weight")
    return build_certificate(replace(base, guards=guards, structures=_with_a_norm(*base.structures), touched=touched))


def _with_a_norm(baseline: StructureMeasure, subject: StructureMeasure) -> tuple[StructureMeasure, StructureMeasure]:
    """Add the norm's gains to both models."""
    ours, theirs = (
        replace(own, tensors={**own.tensors, "norm.weight": TensorFacts((8,), "float32")})
        for own in (baseline, subject)
    )
    listed = (*baseline.inventory.tensors, ListedTensor("norm.weight", "norm"))
    return replace(ours, inventory=replace(baseline.inventory, tensors=listed)), theirs


def _objects(tree: object, path: Path = ()) -> list[Path]:
    """List the paths of all objects."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    below = [found for key, value in children for found in _objects(value, (*path, key))]
    return [path, *below] if isinstance(tree, dict) else below


def _places(tree: object, path: Path = ()) -> list[Path]:
    """List the paths of every key and of the first elements of every list."""
    children = tree.items() if isinstance(tree, dict) else list(enumerate(tree))[:2] if isinstance(tree, list) else []
    found: list[Path] = []
    for key, value in children:
        found += [(*path, key), *_places(value, (*path, key))]
    return found
