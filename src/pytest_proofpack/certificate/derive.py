"""From a certificate's evidence to everything that follows from it: metrics, gates, outcome.

The same function runs when a certificate is made and when a stranger verifies it. What it returns is compared field
by field there, so no number in a certificate stands on its maker's word if it can be derived from the evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.foreign import FOREIGN, ForeignOutcome, judge_foreign
from pytest_proofpack.certificate.formats import FORMAT_1, Format, format_of
from pytest_proofpack.certificate.kept_text import check_kept_text
from pytest_proofpack.certificate.limits import KEY, OwnLimit
from pytest_proofpack.certificate.metric import derive_metric, derive_tail, read_windows
from pytest_proofpack.certificate.policy import limits_beside, policy_digest
from pytest_proofpack.common.nonsense import NONSENSE
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.guards.answers import ANSWERS_GUARD, function_changed
from pytest_proofpack.guards.changes import SAME, derive_changes
from pytest_proofpack.guards.guard import SIGNALS, Case, Criterion
from pytest_proofpack.guards.inventory import read_inventory
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.plan.edit_kinds import NOOP
from pytest_proofpack.plan.tool_edits import TOOL

Digest = Callable[[object], str]

INPUTS = "inputs"
"""The warning that ``meta.inputs`` holds some: something is odd about the files, though nothing was judged by it."""

OWN_LIMITS = "own_limits"
"""The warning that a threshold of the maker's own is looser than the tier's."""

STRUCTURE_EVIDENCE = frozenset({"parameters_changed", "edit_details", "changes"})
"""The keys of ``structure`` that hold evidence; every other key is derived."""


def derive(evidence: JsonObject) -> JsonObject:
    """Compute every derived block of a certificate from its evidence blocks, in the certificate's own format.

    Args:
        evidence: a certificate, or its evidence alone: ``certificate_format``, ``scenario``, ``meta``,
            ``evaluation_windows``, ``dataset``, the guards' blocks, ``foreign_guards``, ``structure``,
            ``resolved_policy``, ``policy_provenance`` and ``provenance`` are read.

    Returns:
        The derived blocks; of blocks that mix evidence and derived values, only the derived keys.

    Raises:
        FormatError: the evidence is incomplete or contradicts itself, or its format is not known.
    """
    form = format_of(evidence)
    try:
        return form.adapted(_derived(evidence, form))
    except NONSENSE as error:
        raise FormatError(f"the evidence is incomplete or malformed ({type(error).__name__}: {error})") from error


def _derived(evidence: JsonObject, form: Format) -> JsonObject:
    policy = evidence["resolved_policy"]
    case = _case(evidence, form)
    metric = derive_metric(case.preview, case.final, evidence["dataset"]["windows"]["stats"], policy)
    tail = derive_tail(case.final, policy["primary_metric_tail"])
    guards = _guards(evidence, policy, case, form)
    foreign = judge_foreign(evidence, case)
    facts = _facts(evidence, case)
    judged = {"primary_metric": {**metric.block, **metric.verdicts}, "primary_metric_tail": tail, **guards}
    validation, outcome = _judgement(criteria(form.guards), judged, foreign)
    if evidence["meta"].get("inputs", {}).get("warnings"):
        outcome["warnings"].append(INPUTS)
    if form is not FORMAT_1 and any(limit.looser for limit in _own_limits(evidence)):
        outcome["warnings"].append(OWN_LIMITS)
    return {
        "primary_metric": metric.block,
        "primary_metric_tail": tail,
        "baseline_ref": {**facts.pop("baseline_ref"), "primary_metric": metric.baseline},
        **guards,
        **({FOREIGN: foreign.derived} if foreign.derived else {}),
        "validation": validation,
        "policy_digest": _policy_digest(evidence, form.sha256),
        "outcome": outcome,
        "structure": _structure(evidence, form.sha256),
        **facts,
    }


def _own_limits(evidence: JsonObject) -> tuple[OwnLimit, ...]:
    """Return the maker's own limits.

    Raises:
        FormatError: they are none.
    """
    provenance = evidence["policy_provenance"]
    if KEY not in provenance["overrides"]:
        return ()
    try:
        return limits_beside(provenance["tier"], evidence["meta"]["profile"], provenance["overrides"])
    except ConfigurationError as error:
        raise FormatError(f"policy_provenance.overrides.{error}") from error


def _case(evidence: JsonObject, form: Format) -> Case:
    """Return what every guard may look at besides its own evidence."""
    return Case(
        read_windows(evidence, "preview"),
        read_windows(evidence, "final"),
        form.sha256,
        read_inventory(evidence["invariants"]) if form.inventory else None,
        frozenset(evidence["structure"]["parameters_changed"]),
        evidence["provenance"]["edit"],
        evidence["structure"].get("changes", {}).get("tensors"),
        evidence["dataset"]["hash"],
        evidence["invariants"]["baseline"]["vocabulary"],
        evidence,
        evidence["resolved_policy"],
    )


def _guards(evidence: JsonObject, policy: JsonObject, case: Case, form: Format) -> JsonObject:
    """Return the derived keys of every guard's block. All guards are needed: one that is left out fails here."""
    if form.guards is None or ANSWERS_GUARD.name in form.guards:
        changed = function_changed(evidence, policy[ANSWERS_GUARD.name], case.final.counts)
        case = replace(case, function_changed=tuple(changed))
    return {
        name: guard.derive(
            evidence[name] if guard.evidence else {}, policy[guard.section] if guard.section else {}, case
        )
        for name, guard in GUARDS.builtin.items()
        if form.guards is None or name in form.guards
    }


def _judgement(
    judges: Sequence[Criterion], judged: Mapping[str, JsonObject], foreign: ForeignOutcome
) -> tuple[JsonObject, JsonObject]:
    """Return ``validation`` and ``outcome``."""
    validation: dict[str, bool] = {}
    failed: list[str] = []
    warnings: list[str] = []
    signals = set(foreign.signals)
    for criterion in judges:
        block = judged[criterion.block]
        validation |= criterion.flags(block)
        down = [gate.flag for gate in criterion.gates if not validation[gate.flag]]
        failed += down
        warnings += criterion.raised(block)
        if down and criterion.signal is not None:
            signals.add(criterion.signal.name)
    validation |= foreign.flags
    failed += [flag for flag, holds in foreign.flags.items() if not holds]
    order = list(dict.fromkeys([*(signal.name for signal in SIGNALS), *foreign.signals]))
    outcome = {
        "passed": not failed,
        "failed_gates": failed,
        "warnings": [*warnings, *foreign.warnings],
        "signals": [name for name in order if name in signals],
    }
    return validation, outcome


def _facts(evidence: JsonObject, case: Case) -> JsonObject:
    """Return what follows about windows, seeds, edit and tokenizer; no seed is free to be chosen for its outcome."""
    preview, final, sha256 = case.preview, case.final, case.sha256
    ids = [*preview.ids, *final.ids]
    if len(set(ids)) != len(ids):
        raise FormatError("evaluation_windows: a window stands there twice, so there is less evidence than it seems")
    if len(ids) > evidence["dataset"]["windows"]["available"]:
        raise FormatError("evaluation_windows: more windows than dataset.windows.available")
    check_kept_text(evidence["dataset"], final)
    meta, edit = evidence["meta"], evidence["provenance"]["edit"]
    edit_digest = sha256({key: value for key, value in edit.items() if key != "sha256"})
    seed = meta["seeds"]["edit"] + evidence["scenario"]["run"]
    rules = evidence["resolved_policy"]["primary_metric"]
    return {
        "run_id": _run_id(evidence, sha256),
        "dataset": {
            "stride": evidence["dataset"]["seq_len"],
            "windows": {
                "preview": len(preview.ids),
                "final": len(final.ids),
                "seed": seed,
                "stats": {
                    "paired_windows": len(preview.ids),
                    "window_match_fraction": 1.0,
                    "window_overlap_fraction": 0.0,
                    "window_pairing_reason": None,
                    "coverage": {"preview": {"used": len(preview.ids)}, "final": {"used": len(final.ids)}},
                    "bootstrap": {
                        "replicates": rules["replicates"],
                        "alpha": rules["alpha"],
                        "seed": seed,
                        "method": "bca",
                    },
                },
            },
            "hash": {"preview": sha256(preview.ids), "final": sha256(final.ids)},
        },
        "meta": {"seeds": {"windows": seed, "bootstrap": seed}},
        "edit_name": edit["type"],
        "baseline_ref": {"model_id": meta["model_id"], "tokenizer_hash": meta["tokenizer_hash"]},
        "provenance": {
            "provider_digest": {"ids_sha256": sha256(ids)},
            "edit": {"sha256": edit_digest},
            "model_digest": {"subject": _subject_digest(evidence, edit_digest, case)},
        },
    }


def _run_id(evidence: JsonObject, sha256: Digest) -> str:
    """Return the id of what was certified: suite, model, scenario, run and policy."""
    meta, scenario = evidence["meta"], evidence["scenario"]
    digests = evidence["provenance"]["model_digest"]["baseline"], evidence["policy_provenance"]["policy_digest"]
    return sha256([meta["suite"], meta["model_id"], scenario["id"], scenario["run"], *digests])[:16]


def _subject_digest(evidence: JsonObject, edit_digest: str, case: Case) -> str:
    """Return the subject's digest: of a model edited in memory over its baseline's, the edit, and the edit's seed.

    Such a model is never a directory, and hashing its weights would take longer than measuring them. A subject that
    was loaded has a directory, whose digest is evidence.

    Raises:
        FormatError: a loaded subject is called ``noop`` though neither its files nor its values are the baseline's, or
            something else though its files are. In format 1 only files counted.
    """
    digests, edit = evidence["provenance"]["model_digest"], evidence["provenance"]["edit"]
    baseline: str = digests["baseline"]
    if is_loaded(evidence):
        subject: str = digests["subject"]
        equal = subject == baseline or (edit["type"] == NOOP and _is_saved_anew(evidence, case))
        if equal != (edit["type"] == NOOP):
            raise FormatError(f"provenance.edit.type: {edit['type']!r} contradicts the digests of the models")
        return subject
    if edit["type"] == NOOP:
        return baseline
    return case.sha256({"baseline": baseline, "edit": edit_digest, "seed": evidence["meta"]["seeds"]["edit"]})


def _is_saved_anew(evidence: JsonObject, case: Case) -> bool:
    """Tell whether a loaded subject holds the baseline's values, every one of them; not asked in format 1."""
    changes = evidence["structure"].get("changes")
    if case.inventory is None or changes is None:
        return False
    return set(changes["tensors"]["state"]) == {SAME} and not any(
        changes[key] for key in ("added", "removed", "reshaped")
    )


def is_loaded(certificate: JsonObject) -> bool:
    """Tell whether the subject was a checkpoint of its own, made elsewhere or by a tool, and not edited in memory.

    Raises:
        FormatError: category of the scenario and source of the edit contradict each other.
    """
    source = certificate["provenance"]["edit"].get("source")
    by_scenario: bool = certificate["scenario"]["category"] == "byoe"
    if by_scenario != (source == "byoe"):
        raise FormatError("provenance.edit.source: contradicts the category of the scenario")
    return by_scenario or (source == TOOL and format_of(certificate) is not FORMAT_1)


def _structure(evidence: JsonObject, sha256: Digest) -> JsonObject:
    """Return what follows about what changed; of a model edited in memory, the edit itself says it.

    Raises:
        FormatError: changes that were never measured, or not recorded; or see :func:`derive_changes`.
    """
    recorded = evidence["structure"].get("changes")
    if is_loaded(evidence) != (recorded is not None):
        raise FormatError("structure.changes: belongs to a subject that was loaded, and to no other")
    if recorded is None:
        return {}
    meta, baseline = evidence["meta"], evidence["invariants"]["baseline"]
    if baseline.get("tokenizer") != meta["tokenizer_hash"]:
        raise FormatError("invariants.baseline.tokenizer: is not meta.tokenizer_hash")
    return derive_changes(recorded, evidence["invariants"], evidence["spectral"], sha256)


def _policy_digest(evidence: JsonObject, sha256: Digest) -> JsonObject:
    policy, provenance = evidence["resolved_policy"], evidence["policy_provenance"]
    return {
        "policy_version": provenance["policy_version"],
        "tier_policy_name": provenance["tier"],
        "thresholds_hash": policy_digest(policy, provenance["overrides"], sha256),
        "hysteresis": {"ratio": policy["primary_metric"]["hysteresis"]},
        "min_effective": policy["primary_metric"]["min_tokens"],
        "changed": bool(provenance["overrides"]),
    }


def differences(recorded: object, derived: object, path: str = "") -> list[str]:
    """Name every field in which ``recorded`` does not hold what was derived, as dotted paths.

    ``recorded`` may hold more than ``derived`` (its evidence). Numbers agree within 1e-6 relative: a resampling
    interval may differ in its last digits between numerical libraries, a gate may not.
    """
    if isinstance(derived, Mapping):
        if not isinstance(recorded, Mapping):
            return [f"{path or 'certificate'}: expected an object"]
        return [
            finding
            for key, value in derived.items()
            for finding in (
                differences(recorded[key], value, f"{path}.{key}" if path else key)
                if key in recorded
                else [f"{path}.{key}: missing, recomputed {value!r}".lstrip(".")]
            )
        ]
    if isinstance(derived, list) and isinstance(recorded, Sequence) and not isinstance(recorded, str):
        if len(derived) != len(recorded):
            return [f"{path}: recorded {recorded!r}, recomputed {derived!r}"]
        pairs = enumerate(zip(recorded, derived, strict=True))
        return [finding for index, (ours, theirs) in pairs for finding in differences(ours, theirs, f"{path}[{index}]")]
    return [] if _equal(recorded, derived) else [f"{path}: recorded {recorded!r}, recomputed {derived!r}"]


def surplus(recorded: object, derived: object, path: str = "") -> list[str]:
    """Name every key of ``recorded`` that was not derived, as dotted paths."""
    if isinstance(recorded, list) and isinstance(derived, list):
        pairs = enumerate(zip(recorded, derived, strict=False))  # another length is a difference already
        return [finding for index, (ours, theirs) in pairs for finding in surplus(ours, theirs, f"{path}[{index}]")]
    if not (isinstance(recorded, Mapping) and isinstance(derived, Mapping)):
        return []
    before = f"{path}." if path else ""
    findings = [
        f"{before}{key}: nothing in the evidence supports it" for key in sorted(recorded.keys() - derived.keys())
    ]
    common = sorted(recorded.keys() & derived.keys())
    return findings + [finding for key in common for finding in surplus(recorded[key], derived[key], before + key)]


def _equal(recorded: object, derived: object) -> bool:
    if isinstance(recorded, bool) or isinstance(derived, bool):
        return recorded is derived
    if isinstance(recorded, int | float) and isinstance(derived, int | float):
        return math.isclose(recorded, derived, rel_tol=1e-6, abs_tol=1e-9)
    return recorded == derived
