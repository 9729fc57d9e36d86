"""Sample certificates and verdicts for the report tests: synthetic losses, everything else as a run makes it."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from typing import Any

from pytest_proofpack.certificate.build import Evidence, ModelFacts, build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.guards.structure import StructureMeasure, TensorFacts
from pytest_proofpack.plan.records import (
    Category,
    CertificateRequest,
    EditSpec,
    FaultSpec,
    ModelSpec,
    RequestedEdit,
    Scenario,
    Strictness,
    TextFacts,
    WindowLosses,
    WindowPlan,
    WindowSample,
)
from pytest_proofpack.plan.scenarios import parse_scenarios
from tests.support.certificates import INPUTS
from tests.support.guard_evidence import INVENTORY, mild_guards

SEQ_LEN, WINDOWS = 257, 100
METRIC_DETECTORS: tuple[Mapping[str, Any], ...] = (
    {"kind": "validation_flag", "flag": "primary_metric_acceptable", "expected": False},
    {"kind": "primary_metric", "field": "invalid", "expected": True},
    {"kind": "invariants_status", "allowed": ["fail"]},
)
CLEAN = Scenario("quant_4bit_clean", Category.CLEAN, Strictness.MUST_PASS, edit_spec="quant_rtn:clean:ffn")
RTN4 = EditSpec("quant_rtn", "ffn", {"bits": 4, "group_size": 32})


def losses(name: str, shift: float, spread: float, seed: int) -> WindowLosses:
    """Baseline losses around 3 nats plus a difference of ``shift`` and ``spread`` per window."""
    base, noise = random.Random(f"{name} base"), random.Random(f"{name} {seed}")
    values = tuple(base.gauss(3.0, 0.2) + noise.gauss(shift, spread) for _ in range(WINDOWS))
    ids = tuple(f"{name}{index:032x}" for index in range(WINDOWS))
    return WindowLosses(ids, values, (SEQ_LEN - 1,) * WINDOWS)


def structure(**changes: Any) -> StructureMeasure:
    """The structure of a small tied model."""
    facts: dict[str, Any] = {
        "tensors": {f"model.layers.{i}.mlp.up_proj.weight": TensorFacts((352, 128), "float32") for i in range(4)},
        "norm_modules": {"model.norm": "LlamaRMSNorm"},
        "tied": (("lm_head.weight", "model.embed_tokens.weight"),),
        "config_tied": True,
        "vocabulary": {"config": 2048, "embedding": 2048, "head": 2048, "tokenizer": 2048},
        "config": {"hidden_size": 128, "rms_norm_eps": 1e-6},
        "inventory": INVENTORY,
    }
    return StructureMeasure(**(facts | changes))


def certificate(
    *,
    shift: float = 0.015,
    spread: float = 0.01,
    model: str = "proofpack/tiny",
    scenario: Scenario = CLEAN,
    run: int = 1,
    subject_structure: StructureMeasure | None = None,
    edit: RequestedEdit | None = None,
) -> JsonObject:
    """A certificate whose subject's losses lie ``shift`` above the baseline's; NaN makes them not finite."""
    policy = resolve_policy("balanced")
    baseline, subject = structure(), subject_structure or structure()
    asked = edit or (RTN4 if scenario.error_type is None else FaultSpec(scenario.error_type))
    request = CertificateRequest(ModelSpec(model), scenario, run, f"{model}-{scenario.id}-run_{run}", "folder", asked)
    return build_certificate(
        Evidence(
            request=request,
            suite="tiny",
            profile="dev",
            policy=policy,
            plan=WindowPlan(SEQ_LEN, WINDOWS, WINDOWS, 42),
            text=TextFacts("synthetic", "evaluation", 400, "ab" * 32, 120_000, 480_000, 466),
            baseline=WindowSample(losses("a", 0.0, 0.0, run), losses("b", 0.0, 0.0, run)),
            subject=WindowSample(losses("a", shift, spread, run), losses("b", shift, spread, run)),
            structures=(baseline, subject),
            violations=compare_structure(baseline, subject, policy.section("invariants")),
            guards=mild_guards(policy, WindowSample(losses("a", shift, spread, run), losses("b", shift, spread, run))),
            model=ModelFacts(
                None, "cpu", "float32", "cd" * 32, {"requested": "strict", "reached": "strict"}, "01" * 32, INPUTS
            ),
            touched=tuple(subject.tensors),
            details={"matrices": 12, "error_relative": {"mean": 0.0712345, "max": 0.0912345}},
            volatile={"seconds": 1.25, "libraries": {"torch": "2.13.0"}},
        )
    )


def a_verdict() -> JsonObject:
    """A FAIL, see :func:`verdict_and_certificates`."""
    return verdict_and_certificates()[1]


def verdict_and_certificates() -> tuple[list[JsonObject], JsonObject]:
    """Certificates, and the verdict over them, a FAIL.

    On two models one clean edit that fails, one caught stress edit, one caught and one missing error. The stress edit
    of the second model is left out on purpose.
    """
    scenarios = [
        {
            "id": "quant_4bit_clean",
            "category": "clean",
            "strictness": "must_pass",
            "generation": {"kind": "edit", "edit_spec": "quant_rtn:clean:ffn"},
        },
        {
            "id": "prune_50pct_stress",
            "category": "stress",
            "strictness": "must_fail",
            "generation": {"kind": "edit", "edit_spec": "magnitude_prune:0.5:all"},
            "requirements": {"detectors_any_of": list(METRIC_DETECTORS)},
        },
        {
            "id": "nan_injection",
            "category": "error_injection",
            "strictness": "must_detect",
            "generation": {"kind": "error", "error_type": "nan_injection"},
            "requirements": {"detectors_any_of": list(METRIC_DETECTORS)},
        },
    ]
    models = ["proofpack/tiny", "org/other"]
    document = {
        "schema": "proof_pack_scenarios_v1",
        "schema_version": 1,
        "scenarios": scenarios,
        "plan": {
            "suite": "tiny",
            "models": models,
            "runs": {"calibration": 0, "clean": 1, "stress": 1, "error": 1},
            "skipped": [{"model": models[1], "scenario": "prune_50pct_stress", "reason": "too small"}],
        },
    }
    clean, stress, error = parse_scenarios(document)
    certificates = [
        certificate(shift=0.2, scenario=clean, model=models[0]),
        certificate(shift=0.4, scenario=stress, model=models[0]),
        certificate(shift=math.nan, scenario=error, model=models[0]),
        certificate(scenario=clean, model=models[1]),
    ]
    return certificates, compute_verdict(document, certificates)
