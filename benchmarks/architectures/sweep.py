"""One architecture, small, through everything that certifies a model, held against what a person expects of it."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from benchmarks.architectures.configs import VARIANTS, build, small_config
from benchmarks.architectures.expected import NOT_TOLD_APART, OTHER_SENSES, expected_role, is_edited
from benchmarks.certificate_time import DEFAULTS
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits.apply import edited
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.errors import ConfigurationError, ProofPackError
from pytest_proofpack.models.layout import ModelLayout, analyze_layout
from pytest_proofpack.models.suited import require_suited
from pytest_proofpack.plan.records import CertificateRequest, EditSpec, FaultSpec, SubjectEdit, ToolEdit
from pytest_proofpack.runs.run import Run, resolve_run

TOKENIZER = Path("suites/tiny_model")
NOOP = "calibration"
CHIEF = frozenset({NOOP, "quant_4bit_clean", "missing_tensors", "extreme_quant"})
"""What is certified of architectures that are not popular, and in bfloat16; in the other scenarios these are edited and
put back."""
SEEN_BY = {
    **dict.fromkeys(
        ("nan_injection", "inf_injection", "shape_mismatch", "missing_tensors", "weight_tying_break"), "invariants"
    ),
    **dict.fromkeys(("extreme_quant", "scale_explosion", "rank_collapse", "norm_collapse"), "spectral"),
}
"""The guard that has to see a fault, whatever others say: with random weights the metric says little."""

_UNDONE = 1e-3
"""A norm right behind a matrix undoes its scale, but for the constant that it adds to the variance: nothing to see."""

_SUITE = """
schema = "proof_pack_suite_v1"
name = "architectures"
tuned_edit_params = "tuned.json"
[[models]]
id = "architecture"
path = "model"
[text]
provider = "synthetic"
split = "evaluation"
seed = 1
documents = 40
[windows]
seq_len = 32
preview = 8
final = 8
seed = 42
[runs]
calibration = 1
clean = 1
stress = 1
error = 1
"""
_TUNED = """
{"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}, "defaults": {
"quant_rtn": {"status": "selected", "edit_dir_name": "quant_4bit_clean", "scope": "ffn", "bits": 4, "group_size": 32},
"fp8_quant": {"status": "selected", "edit_dir_name": "fp8_e5m2_clean", "scope": "ffn", "format": "e5m2"},
"magnitude_prune": {"status": "selected", "edit_dir_name": "prune_12pct_clean", "scope": "ffn", "sparsity": 0.12},
"lowrank_svd": {"status": "selected", "edit_dir_name": "svd_rank32_l31_clean", "scope": "ffn", "rank": 8}}}
"""


@dataclass
class Finding:
    """What was found of one architecture.

    Attributes:
        name: of the architecture or variant.
        model: name of the class that transformers builds.
        refused: the sentence with which it is refused; "" if it is certified.
        not_built: why transformers could not build it from the small configuration; "" if it did.
        counts: parameters that hold weight matrices, per group.
        wrong: parameters in another group than a person expects, matrices that are edited and should not be, or the
            other way round, and false fused matrices.
        warnings: what the layout could not settle, or left out.
        edits, faults: by scenario, "" if it did what it should, else what went wrong.
        certified: how many scenarios were certified; the others were applied and undone.
        noop: what the unedited model was found guilty of.
        restored: scenarios after which the model was not as before, bit for bit.
    """

    name: str
    model: str = ""
    refused: str = ""
    not_built: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    edits: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    noop: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    certified: int = 0

    @property
    def whole(self) -> bool:
        """Whether everything works: groups, edits, faults, a noop of 1.0, and restoring."""
        broken = [*self.wrong, *self.noop, *self.restored, *filter(None, (*self.edits.values(), *self.faults.values()))]
        return not (broken or self.refused or self.not_built)


def examine(name: str, *, dtype: torch.dtype = torch.float32, certified: frozenset[str] | None = None) -> Finding:
    """Build an architecture, take it through every scenario, and return what was found.

    Args:
        name: of the architecture or variant.
        dtype: of its weights.
        certified: the scenarios to certify, all unless told. In the others the model is edited and put back.
    """
    try:
        require_suited(name, {"model_type": VARIANTS.get(name, (name,))[0]})
        model = build(small_config(name), dtype)
    except ConfigurationError as error:
        return Finding(name, refused=str(error))
    except Exception as error:  # noqa: BLE001 - whatever it is belongs into the table
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Finding(name, not_built=f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})")
    finding = Finding(name, type(model).__name__)
    folder = Path(tempfile.mkdtemp())
    try:
        _examine(model, folder, finding, certified)
    finally:
        shutil.rmtree(folder)
    for problems in (finding.edits, finding.faults):
        problems |= {scenario: problem.replace(f"{folder}/", "") for scenario, problem in problems.items()}
    finding.noop = [problem.replace(f"{folder}/", "") for problem in finding.noop]
    return finding


def misplaced(model: PreTrainedModel, layout: ModelLayout) -> list[str]:
    """Return the parameters that a person would have put elsewhere, and those that edits wrongly take or leave."""
    found = []
    for name, group in layout.groups.items():
        parameter = model.get_parameter(name)
        wanted = expected_role(model, name)
        if OTHER_SENSES.search(name) and layout.block_of[name] is None:
            continue  # no scope reaches it
        if group != wanted:
            found.append(f"{name} {list(parameter.shape)}: {group}, expected {wanted}")
        elif layout.block_of[name] is not None and (name in layout.weights) != is_edited(model, name, wanted):
            found.append(f"{name} {list(parameter.shape)}: {'a' if name in layout.weights else 'no'} weight matrix")
    fused = ("c_attn", "query_key_value", "qkv_proj", "Wqkv")
    wide = {name for name in layout.groups if name.rpartition(".")[0].endswith(fused) and name.endswith("weight")}
    found += [f"{name}: taken for queries, keys and values" for name in layout.qkv.keys() - wide]
    if model.config.get_text_config().model_type in NOT_TOLD_APART:
        return found
    return [*found, *(f"{name}: not told apart" for name in sorted(wide - layout.qkv.keys()))]


def _examine(model: PreTrainedModel, folder: Path, finding: Finding, certified: frozenset[str] | None) -> None:
    layout = analyze_layout(model)
    finding.warnings = list(layout.warnings)
    for name in layout.weights:
        group = str(layout.groups[name])
        finding.counts[group] = finding.counts.get(group, 0) + 1
    if layout.refusal:
        finding.refused = layout.refusal
        return
    finding.wrong = misplaced(model, layout)
    run = _run(model, folder)
    try:
        baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
    except ProofPackError as error:
        finding.refused = str(error).replace(f"{folder}/", "")
        return
    before = state_of(baseline.model)
    for request in run.requests:
        scenario = request.scenario.id
        kind = finding.faults if isinstance(request.edit, FaultSpec) else finding.edits
        if certified is not None and scenario not in certified:
            kind[scenario] = _applied(baseline, request)
        else:
            finding.certified += 1
            problem, certificate = _certified(run, baseline, request)
            if scenario == NOOP:
                finding.noop += [problem] if problem else list(_noop_problems(certificate))
            else:
                kind[scenario] = problem or _effect_problem(baseline, request, certificate)
        if not same_state(before, state_of(baseline.model)):
            finding.restored.append(scenario)
            before = state_of(baseline.model)


def _run(model: PreTrainedModel, folder: Path) -> Run:
    model.save_pretrained(folder / "model")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TOKENIZER / file, folder / "model" / file)
    (folder / "suite.toml").write_text(_SUITE)
    (folder / "tuned.json").write_text(_TUNED)
    return resolve_run(replace(DEFAULTS, suite=str(folder / "suite.toml"), out=str(folder / "run"), runs={}))


def _certified(run: Run, baseline: Baseline, request: CertificateRequest) -> tuple[str, JsonObject]:
    try:
        with edited_subject(run, baseline, request) as subject:
            certificate = certify(run, subject)
    except Exception as error:  # noqa: BLE001 - likewise
        return f"{type(error).__name__}: {error}", {}
    problems = check_certificate(certificate)
    return (f"does not verify: {problems[0]}" if problems else ""), certificate


def _applied(baseline: Baseline, request: CertificateRequest) -> str:
    """Edit the model and put it back; return what went wrong."""
    assert not isinstance(request.edit, SubjectEdit | ToolEdit)
    try:
        with edited(baseline.model, baseline.layout, request.edit, seed=0) as report:
            touched = set(report.parameters)
    except Exception as error:  # noqa: BLE001 - likewise
        return f"{type(error).__name__}: {error}"
    return _scope_problem(baseline, request.edit, touched) if isinstance(request.edit, EditSpec) else ""


def _noop_problems(certificate: JsonObject) -> Iterator[str]:
    ratio = certificate["primary_metric"].get("ratio_vs_baseline")
    if ratio != 1.0:
        yield f"the ratio is {ratio}"
    for gate in ("invariants_pass", "spectral_stable", "rmt_stable", "variance_stable", "distribution_acceptable"):
        if certificate["validation"].get(gate) is False:
            yield f"{gate} is false"
    # Random weights predict nothing, so the baseline's quality fails, which is the metric's signal.
    if others := [signal for signal in certificate["outcome"]["signals"] if signal != "metric"]:
        yield f"signals: {others}"


def _effect_problem(baseline: Baseline, request: CertificateRequest, certificate: JsonObject) -> str:
    """Return what an edit or a fault did not do: change what it should, and be seen where it has to be."""
    if not isinstance(request.edit, EditSpec):
        seen, expected = certificate["outcome"]["signals"], SEEN_BY[request.scenario.id]
        ratio = certificate["primary_metric"].get("ratio_vs_baseline")
        undone = request.scenario.id == "scale_explosion" and ratio and abs(ratio - 1) < _UNDONE
        return "" if expected in seen or undone else f"{expected} did not see it, only {seen}"
    return _scope_problem(baseline, request.edit, set(certificate["structure"]["parameters_changed"]))


def _scope_problem(baseline: Baseline, edit: EditSpec, changed: set[str]) -> str:
    """Return which weights of its scope an edit missed, and which others it took."""
    groups = {"ffn": {"ffn"}, "all": {"ffn", "attn"}}[edit.scope]
    model, layout = baseline.model, baseline.layout
    wanted = _edited(model, layout, groups) or _edited(model, layout, {"ffn", "attn"})
    if changed != wanted:
        missed, extra = sorted(wanted - changed)[:2], sorted(changed - wanted)[:2]
        return f"missed {missed}, took {extra}"
    return ""


def _edited(model: PreTrainedModel, layout: ModelLayout, groups: set[str]) -> set[str]:
    roles = {name: expected_role(model, name) for name in layout.groups}
    return {
        name
        for name, role in roles.items()
        if role in groups and layout.block_of[name] is not None and is_edited(model, name, role)
    }


def state_of(model: PreTrainedModel) -> Mapping[str, Any]:
    """Return a copy of everything that an edit could leave changed: tensors with identities, modules, configuration."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {
        "tensors": {name: (id(own), own.data_ptr(), own.dtype, own.detach().clone()) for name, own in tensors.items()},
        "modules": {name: (id(own), sorted(vars(own))) for name, own in model.named_modules()},
        "config": model.config.to_dict(),
    }


def same_state(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Tell whether two states are equal, bit for bit."""
    if before["modules"] != now["modules"] or before["config"] != now["config"]:
        return False
    first, second = before["tensors"], now["tensors"]
    return first.keys() == second.keys() and all(
        ours[:3] == second[name][:3]
        and torch.equal(ours[3].reshape(-1).view(torch.uint8), second[name][3].reshape(-1).view(torch.uint8))
        for name, ours in first.items()
    )
