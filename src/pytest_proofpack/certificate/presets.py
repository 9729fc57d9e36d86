"""Calibration: what the guards read off a model that nobody edited, kept as a preset.

The null statistics are the RMT guard's, between draws of windows of the unedited model: how much an edge risk moves for
no other reason than the text. A preset keeps them with the model, text length and measurement contract that they
belong to; the tolerances follow from them by the policy's quantile, held between its floor and its ceiling, so that a
calibration can tighten a gate, widen it within that bound, and never switch it off. The metric and drift gates compare
with the baseline on the same windows, where an unedited model reads exactly 1: there is nothing to calibrate, and
what the null runs read is recorded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_proofpack.certificate.derive import differences, surplus
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.policy import Policy
from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import shown
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.guards.contract import contract_hash
from pytest_proofpack.guards.registry import GUARDS
from pytest_proofpack.guards.rmt import log_epsilon

SCHEMA = "proof_pack_preset_v1"
NullRatios = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Preset:
    """The null statistics of one model.

    Attributes:
        model_digest: root digest of the model's directory.
        tokenizer_hash: fingerprint of how its tokenizer splits text.
        seq_len: length of the windows.
        contract_hash: hash of the RMT guard's measurement contract.
        null_log_ratios: the guard's statistic by group, one number per draw.
    """

    model_digest: str
    tokenizer_hash: str
    seq_len: int
    contract_hash: str
    null_log_ratios: NullRatios

    def require_fit(self, model_id: str, other: Preset) -> None:
        """Make sure that the preset belongs to what is about to be measured.

        Args:
            model_id: how the message names the model.
            other: the same facts about the model at hand; its statistics are not looked at.

        Raises:
            ConfigurationError: it is of another model, tokenizer, window length or contract.
        """
        for what in ("model_digest", "tokenizer_hash", "seq_len", "contract_hash"):
            if getattr(self, what) != getattr(other, what):
                raise ConfigurationError(
                    f"the calibration preset of {model_id} has {what} {getattr(self, what)}, but the model at hand has "
                    f"{getattr(other, what)}. Calibrate anew: leave --proofpack-preset-dir out, or use "
                    "--proofpack-mode=calibrate-only."
                )


def preset_name(folder: str) -> str:
    """Return the file name of a model's preset, from the model's folder name."""
    return f"calibrated_preset_{folder}.json"


def preset_document(certificates: Sequence[JsonObject], policy: Policy) -> JsonObject:
    """Return the preset of one model as it is written, from its calibration certificates.

    Raises:
        FormatError: the certificates do not share one set of null statistics, or their losses are not finite.
    """
    return _document(certificates, policy.thresholds, policy.tier, policy.digest)


def _document(certificates: Sequence[JsonObject], policy: JsonObject, tier: str, digest: str) -> JsonObject:
    """Return a preset that follows from certificates and a resolved policy."""
    first = certificates[0]
    null: dict[str, list[float]] = first["rmt"]["null_log_ratios"]
    if any(certificate["rmt"]["null_log_ratios"] != null for certificate in certificates):
        raise FormatError(f"{first['meta']['model_id']}: its calibration certificates differ in their null statistics")
    epsilons = {group: log_epsilon(values, policy["rmt"]) for group, values in null.items()}
    return {
        "schema": SCHEMA,
        "model_id": first["meta"]["model_id"],
        "model_digest": first["provenance"]["model_digest"]["baseline"],
        "tokenizer_hash": first["meta"]["tokenizer_hash"],
        "seq_len": first["dataset"]["seq_len"],
        "contract_hash": first["rmt"]["measurement_contract_hash"],
        "null": {"rmt_log_ratios": null, "runs": [_null_run(certificate) for certificate in certificates]},
        "derived": {
            "tier": tier,
            "policy_digest": digest,
            "log_epsilon_by_family": {group: epsilon for group, (epsilon, _) in epsilons.items()},
            "epsilon_source": {group: source for group, (_, source) in epsilons.items()},
            "drift_band": {key: policy["drift"][key] for key in ("min", "max")},
            "max_caps": policy["spectral"]["max_caps"],
        },
    }


def read_preset(path: Path) -> Preset:
    """Read a preset.

    Raises:
        ConfigurationError: it cannot be read or does not fit its format.
    """
    try:
        document = read_json(path, shown(path))
    except FormatError as error:
        raise ConfigurationError(
            f"calibration preset {error}. Name a directory of presets of an earlier run."
        ) from error
    require_schema("preset", document, shown(path))
    return Preset(
        model_digest=document["model_digest"],
        tokenizer_hash=document["tokenizer_hash"],
        seq_len=document["seq_len"],
        contract_hash=document["contract_hash"],
        null_log_ratios=document["null"]["rmt_log_ratios"],
    )


def preset_facts(model_digest: str, tokenizer_hash: str, seq_len: int, contract: Mapping[str, Any]) -> Preset:
    """Return a preset without statistics: what identifies the measurement at hand."""
    return Preset(model_digest, tokenizer_hash, seq_len, contract_hash(contract), {})


def preset_findings(document: JsonObject, certificates: Sequence[JsonObject]) -> list[str]:
    """Make a preset again, and name what it says otherwise than the calibration certificates of its model.

    Args:
        document: the preset, valid against its schema.
        certificates: those of its model, valid against theirs.
    """
    if not certificates:
        return [f"model_id: there is no calibration certificate of {document['model_id']!r}"]
    ordered = sorted(certificates, key=lambda certificate: int(certificate["scenario"]["run"]))
    provenance = ordered[0]["policy_provenance"]
    try:
        made = _document(ordered, ordered[0]["resolved_policy"], provenance["tier"], provenance["policy_digest"])
    except FormatError as error:
        return [f"null: {error}"]
    null = document["null"]
    runs = sorted(null.get("runs", []), key=lambda run: int(run["run"]))
    recorded = {**document, "null": {**null, "runs": runs}}
    return differences(recorded, made) + surplus(recorded, made)


def _null_run(certificate: JsonObject) -> JsonObject:
    metric, own = certificate["primary_metric"], format_of(certificate).guards
    run = certificate["scenario"]["run"]
    if "ratio_vs_baseline" not in metric:
        raise FormatError(f"{certificate['meta']['model_id']}: calibration {run} has losses that are not finite")
    return {
        "run": run,
        "seed": certificate["dataset"]["windows"]["seed"],
        "ratio_vs_baseline": metric["ratio_vs_baseline"],
        "drift": metric["final"] / metric["preview"],
        "relative_drift": metric["relative_drift"],
        **{
            name: certificate[guard.block][key]
            for block, guard in GUARDS.builtin.items()
            if own is None or block in own
            for name, key in guard.null_numbers.items()
        },
    }
