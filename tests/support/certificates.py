"""Certificates, and whole run directories, from made-up losses: real in every other respect, and small."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pytest_proofpack.certificate.build import Evidence, ModelFacts, build_certificate
from pytest_proofpack.certificate.policy import Policy, resolve_policy
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import JsonObject, compact_json, pretty_json
from pytest_proofpack.guards.invariants import compare_structure
from pytest_proofpack.guards.structure import StructureMeasure, TensorFacts
from pytest_proofpack.plan.edit_kinds import NOOP
from pytest_proofpack.plan.records import (
    Category,
    CertificateRequest,
    ModelSpec,
    Strictness,
    TextFacts,
    TextSpec,
    WindowLosses,
    WindowPlan,
    WindowSample,
)
from pytest_proofpack.plan.scenarios import read_scenarios
from pytest_proofpack.plan.suites import Plan, Suite, WindowChoice, plan_certificates, suites_directory
from pytest_proofpack.report import verdict_text
from tests.support.guard_evidence import INVENTORY, mild_guards

MODEL = "acme/Tiny-1M"
BASELINE_DIGEST = "c" * 64
ONE_RUN_EACH: Mapping[str, int] = {"calibration": 1, "clean": 1, "stress": 1, "error": 1}
TUNED: JsonObject = {
    "_meta": {"schema": "tuned_edit_params_v1"},
    "models": {},
    "defaults": {
        "quant_rtn": {"status": "selected", "scope": "ffn", "bits": 4, "group_size": 32},
        "fp8_quant": {"status": "selected", "scope": "ffn", "format": "e5m2"},
        "magnitude_prune": {"status": "selected", "scope": "ffn", "sparsity": 0.12},
        "lowrank_svd": {"status": "selected", "scope": "ffn@layer=1", "rank": 32},
    },
}
SEED = 42
TOKENS_PER_WINDOW = 375
WINDOWS = 80
"""80 + 80 windows of 375 scored tokens: enough for the tokens and the final windows that every tier demands."""

INPUTS: JsonObject = {
    "attention": {"baseline": "sdpa", "subject": "sdpa"},
    "tokenizer": "tokenizer.json",
    "warnings": [],
}
"""``meta.inputs`` of a certificate on which there is nothing to remark."""

_BASELINE = StructureMeasure(
    tensors={own.name: TensorFacts((8, 8), "float32") for own in INVENTORY.tensors},
    norm_modules={"norm": "RMSNorm"},
    tied=(("embed.weight", "head.weight"),),
    config_tied=True,
    vocabulary={"embedding": 64, "head": 64, "config": 64, "tokenizer": 64},
    config={"hidden_size": 8, "vocab_size": 64},
    inventory=INVENTORY,
)
_MLP = "block.0.mlp.weight"
_DETAILS: Mapping[str, JsonObject] = {
    "quant_rtn": {"matrices": 1, "groups": 8},
    "fp8_quant": {"matrices": 1, "clipped": 0, "flushed": 0},
    "magnitude_prune": {"matrices": 1, "elements": 64, "zeros": 32},
    "lowrank_svd": {"matrices": 1, "randomized": 0, "energy_min": 0.9, "energy_mean": 0.9},
}
"""What edits leave of the one matrix of 8 x 8 that they change here."""
_DAMAGED: Mapping[str, StructureMeasure] = {
    "nan_injection": replace(
        _BASELINE, tensors={**_BASELINE.tensors, _MLP: TensorFacts((8, 8), "float32", non_finite=1)}
    ),
    "inf_injection": replace(
        _BASELINE, tensors={**_BASELINE.tensors, _MLP: TensorFacts((8, 8), "float32", non_finite=2)}
    ),
    "shape_mismatch": replace(_BASELINE, vocabulary={**_BASELINE.vocabulary, "embedding": 72}),
    "missing_tensors": replace(_BASELINE, tensors={_MLP: _BASELINE.tensors[_MLP]}),
    "weight_tying_break": replace(_BASELINE, tied=(), config_tied=False),
}


@dataclass(frozen=True)
class RunFiles:
    """What :func:`make_run_directory` wrote."""

    directory: Path
    scenarios: JsonObject
    verdict: JsonObject
    certificates: Mapping[str, JsonObject]


def make_plan(
    model_ids: Sequence[str] = (MODEL,),
    runs: Mapping[str, int] = ONE_RUN_EACH,
    name: str = "small",
    *,
    scenarios: JsonObject | None = None,
    tuned: JsonObject = TUNED,
) -> tuple[Suite, Plan]:
    """Return a suite of the repository's own scenarios, or of others, for these models, and its plan."""
    suite = Suite(
        name=name,
        models=tuple(ModelSpec(id=model_id) for model_id in model_ids),
        text=TextSpec("synthetic"),
        windows=WindowChoice(),
        runs=runs,
        scenarios=scenarios or read_scenarios(suites_directory() / "scenarios.json"),
        tuned=tuned,
    )
    return suite, plan_certificates(suite)


def make_evidence(
    request: CertificateRequest,
    *,
    shift: float | None = None,
    windows: int = WINDOWS,
    suite: str = "small",
    baseline_digest: str = BASELINE_DIGEST,
    policy: Policy | None = None,
) -> Evidence:
    """Return evidence for a request, such that its scenario behaves as it should.

    Args:
        request: what is certified.
        shift: by how much the edit raises the loss, in nats per token; by default what fits the scenario.
        windows: preview windows, and as many final ones.
        suite: name of the suite.
        baseline_digest: of the unedited model's files.
        policy: what it is judged by; None for the balanced tier.
    """
    rng, available = np.random.default_rng(request.run), 4 * windows
    order = np.random.default_rng(SEED + request.run).permutation(available)
    known = np.random.default_rng(0).normal(3.0, 0.1, available)
    plan = WindowPlan(seq_len=TOKENS_PER_WINDOW + 1, preview=windows, final=windows, seed=SEED)
    subject_structure = _DAMAGED.get(request.scenario.id, _BASELINE)
    policy = policy or resolve_policy("balanced")
    mean = _shift(request) if shift is None else shift
    draws = []
    for places in (order[:windows], order[windows : 2 * windows]):
        baseline = known[places]
        edited = baseline + mean + (rng.normal(0.0, 0.005, windows) if mean else 0.0)
        draws.append((_losses(places, baseline), _losses(places, edited)))
    return Evidence(
        request=request,
        suite=suite,
        profile="dev",
        policy=policy,
        plan=plan,
        text=TextFacts("synthetic", "evaluation", 100, "a" * 64, 10**6, 4 * 10**6, available),
        baseline=WindowSample(draws[0][0], draws[1][0]),
        subject=WindowSample(draws[0][1], draws[1][1]),
        structures=(_BASELINE, subject_structure),
        violations=compare_structure(_BASELINE, subject_structure, policy.section("invariants")),
        guards=mild_guards(policy, WindowSample(draws[0][1], draws[1][1]), edited=request.edit_name != NOOP),
        model=ModelFacts(
            revision=None,
            device="cpu",
            dtype="float32",
            tokenizer_hash="b" * 64,
            determinism={"requested": "throughput"},
            baseline_digest=baseline_digest,
            inputs=INPUTS,
        ),
        touched=(_MLP,) if request.edit_name != NOOP else (),
        details=_DETAILS.get(request.edit_name, {}),
        volatile={"seconds": 0.1},
    )


def make_run_directory(
    directory: Path,
    *,
    model_ids: Sequence[str] = (MODEL,),
    runs: Mapping[str, int] = ONE_RUN_EACH,
    windows: int = WINDOWS,
    shifts: Mapping[str, float] | None = None,
    scenarios: JsonObject | None = None,
    tuned: JsonObject = TUNED,
    name: str = "small",
    baseline_digest: str = BASELINE_DIGEST,
    policy: Policy | None = None,
) -> RunFiles:
    """Write a complete run directory; its verdict is PASS.

    Args:
        directory: is made.
        model_ids: the models.
        runs: how often each kind of scenario runs.
        windows: preview windows per certificate, and as many final ones.
        shifts: loss shift by scenario id, where a scenario is to misbehave; the verdict follows.
        scenarios: a scenarios document of one's own.
        tuned: a tuned-parameters document of one's own.
        name: name of the suite.
        baseline_digest: of every model's files.
        policy: what all are judged by; None for the balanced tier.
    """
    suite, plan = make_plan(model_ids, runs, name, scenarios=scenarios, tuned=tuned)
    certificates = {
        f"{request.folder}/evaluation.cert.json": build_certificate(
            make_evidence(
                request,
                shift=(shifts or {}).get(request.scenario.id),
                windows=windows,
                suite=name,
                baseline_digest=baseline_digest,
                policy=policy,
            )
        )
        for request in plan.requests
    }
    document = plan.document(suite)
    verdict = compute_verdict(document, certificates.values())
    revisions = {
        "model_list": list(model_ids),
        "models": {model_id: {"revision": None, "license": "apache-2.0"} for model_id in model_ids},
    }
    for path, certificate in certificates.items():
        atomic_write(directory / path, compact_json(certificate))
    atomic_write(directory / "reports/final_verdict.json", pretty_json(verdict))
    atomic_write(directory / "reports/final_verdict.txt", verdict_text(verdict))
    atomic_write(directory / "state/scenarios.json", pretty_json(document))
    atomic_write(directory / "state/tuned_edit_params.json", pretty_json(suite.tuned))
    atomic_write(directory / "state/model_revisions.json", pretty_json(revisions))
    atomic_write(directory / "state/run.json", pretty_json({"suite": suite.name}))
    return RunFiles(directory, document, verdict, certificates)


def _shift(request: CertificateRequest) -> float:
    """Return a loss shift with which a scenario behaves as it should."""
    scenario = request.scenario
    if scenario.category is Category.CALIBRATION:
        return 0.0
    if scenario.strictness in {Strictness.MUST_PASS, Strictness.INFORMATIONAL} or scenario.id in _DAMAGED:
        return 0.01
    return 1.0


@cache
def _window_ids(places: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(f"window-{place}".encode().hex().ljust(64, "0") for place in places)


def _losses(places: NDArray[np.int64], values: NDArray[np.float64]) -> WindowLosses:
    ids = _window_ids(tuple(map(int, places)))
    return WindowLosses(ids, tuple(map(float, values)), (TOKENS_PER_WINDOW,) * len(ids))
