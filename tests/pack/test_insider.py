"""Who has the key alters one certificate, with all that follows from it, and seals anew: others contradict it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.presets import preset_document
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.strict_json import JsonObject, pretty_json, read_json
from pytest_proofpack.pack.verify import verify_pack
from tests.support.certificates import make_run_directory
from tests.support.forgery import Change, change_document, forge_evidence, load, reseal
from tests.support.packs import copy_of, pack_of

FOLDER = "certs/acme__tiny-1m"
QUANT = f"{FOLDER}/quant_4bit_clean/run_1/evaluation.cert.json"
SECOND = f"{FOLDER}/quant_4bit_clean/run_2/evaluation.cert.json"
NOOP = f"{FOLDER}/calibration/run_1/evaluation.cert.json"
PRUNED = f"{FOLDER}/prune_12pct_clean/run_1/evaluation.cert.json"
LOWRANK = f"{FOLDER}/svd_rank32_l31_clean/run_1/evaluation.cert.json"
FLOAT8 = f"{FOLDER}/fp8_e5m2_clean/run_1/evaluation.cert.json"
PRESET = "state/presets/calibrated_preset_acme__tiny-1m.json"
SUBLAYER, MATRIX = "block.0.mlp", "block.0.mlp.weight"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An honest pack with two runs of every clean edit, and a preset."""
    folder = tmp_path_factory.mktemp("insider")
    run = make_run_directory(folder / "run", runs={"calibration": 2, "clean": 2, "stress": 1, "error": 1}).directory
    calibration = [read_json(path) for path in sorted(run.glob("*/certificates/calibration/*/evaluation.cert.json"))]
    preset = pretty_json(preset_document(calibration, resolve_policy("balanced")))
    atomic_write(run / "presets/calibrated_preset_acme__tiny-1m.json", preset)
    return pack_of(run, folder / "pack")


def setting(path: str, value: Any) -> Change:
    """Return a change that sets one field, by its dotted path; a number in it is a position."""

    def change(certificate: JsonObject) -> None:
        *folders, last = (int(part) if part.isdigit() else part.replace("|", ".") for part in path.split("."))
        place: Any = certificate
        for part in folders:
            place = place[part]
        place[last] = value(place[last]) if callable(value) else value

    return change


def both(*changes: Change) -> Change:
    def change(certificate: JsonObject) -> None:
        for one in changes:
            one(certificate)

    return change


def swap(side: str, key: str, first: int = 0, second: int = 1) -> Change:
    def change(certificate: JsonObject) -> None:
        values = certificate["evaluation_windows"][side][key]
        values[first], values[second] = values[second], values[first]

    return change


def every(side: str, key: str, value: Callable[[Any], Any]) -> Change:
    return setting(f"evaluation_windows.{side}.{key}", lambda values: [value(own) for own in values])


def another_tier(certificate: JsonObject) -> None:
    policy = resolve_policy("conservative")
    certificate["resolved_policy"] = policy.thresholds
    certificate["policy_provenance"].update(tier="conservative", policy_digest=policy.digest)


def another_profile(certificate: JsonObject) -> None:
    policy = resolve_policy("balanced", "ci")
    certificate["meta"]["profile"] = "ci"
    certificate["resolved_policy"] = policy.thresholds
    certificate["policy_provenance"].update(policy_digest=policy.digest, overrides=policy.overrides)


def better(certificate: JsonObject) -> None:
    """Make the edit cost nothing, and say that no token's probability moved."""
    sides = certificate["evaluation_windows"]
    for side in ("preview", "final"):
        sides[side]["baseline_logloss"] = list(sides[side]["logloss"])


def without_divergence(certificate: JsonObject) -> None:
    final = certificate["distribution"]["final"]
    windows = len(final["kl_mean"])
    tokens = certificate["evaluation_windows"]["final"]["token_counts"]
    final.update(kl_mean=[0.0] * windows, agreed=list(tokens), right_to_wrong=[0] * windows)
    final["wrong_to_right"] = [0] * windows
    certificate["distribution"].update(kl_q99=0.0, kl_max=0.0)


def costly(certificate: JsonObject) -> None:
    sides = certificate["evaluation_windows"]
    for side in ("preview", "final"):
        sides[side]["logloss"] = [loss + 0.05 for loss in sides[side]["baseline_logloss"]]


def sublayer(guard: str, key: str, factor: float) -> Change:
    return setting(f"{guard}.branches.{SUBLAYER.replace('.', '|')}.{key}", lambda value: value * factor)


def spectrum(column: str, row: int, factor: float) -> Change:
    return setting(f"spectral.matrices.{column}.{row}", lambda value: value * factor)


THE_RUN, THE_MODEL = "says of the run", "says of the same model"
THE_WINDOWS, THE_EDIT = "says of the same windows", "says of the same edit"

ATTACKS: dict[str, tuple[str, Change, str]] = {
    # What belongs to the run.
    "another profile": (QUANT, another_profile, "meta.profile: contradicts"),
    "another tier": (QUANT, another_tier, "policy_provenance.tier"),
    "another seed": (QUANT, setting("meta.seeds.edit", 7), "meta.seeds.edit: contradicts what"),
    "another text": (QUANT, setting("dataset.hash.text", "d" * 64), "dataset.hash.text: contradicts what"),
    "more documents": (QUANT, setting("dataset.documents", 900), "dataset.documents: contradicts what"),
    "another provider": (QUANT, setting("dataset.provider", "wikitext2"), "dataset.provider: contradicts what"),
    "another split": (QUANT, setting("dataset.split", "test"), "dataset.split: contradicts what"),
    "another version": (QUANT, setting("provenance.tool.version", "9.9"), "provenance.tool: contradicts what"),
    "determinism": (QUANT, setting("meta.determinism.requested", "strict"), "meta.determinism.requested: contradicts"),
    # What was measured on the unedited model, and how.
    "another baseline": (QUANT, setting("provenance.model_digest.baseline", "1" * 64), "model_digest.baseline: contra"),
    "another tokenizer": (QUANT, setting("meta.tokenizer_hash", "9" * 64), "meta.tokenizer_hash: contradicts"),
    "another device": (QUANT, setting("meta.device", "cuda"), "meta.device: contradicts"),
    "another dtype": (QUANT, setting("meta.dtype", "bfloat16"), "meta.dtype: contradicts"),
    "another adapter": (QUANT, setting("meta.adapter", "other"), "meta.adapter: contradicts"),
    "more tokens": (QUANT, setting("dataset.hash.total_tokens", 2 * 10**6), "dataset.hash.total_tokens: contradicts"),
    "more windows": (QUANT, setting("dataset.windows.available", 321), "dataset.windows.available: contradicts"),
    "spectrum of the baseline": (QUANT, spectrum("sigma_base", 1, 1.01), "spectra of the baseline: contradicts"),
    "norm of the baseline": (QUANT, spectrum("frobenius_base", 0, 1.01), "spectra of the baseline: contradicts"),
    "structure of the baseline": (
        QUANT, both(setting("invariants.baseline.sha256", "7" * 64), setting("invariants.subject.sha256", "7" * 64)),
        "structure of the baseline: contradicts",
    ),
    "null statistics": (QUANT, setting("rmt.null_log_ratios", {"attn": [0.2] * 30}), "null statistics: contradicts"),
    "null statistics of a null run": (NOOP, setting("rmt.null_log_ratios", {"ffn": [0.2] * 30}), "null statistics"),
    # What was measured on one draw of windows.
    "a loss of the baseline": (QUANT, setting("evaluation_windows.final.baseline_logloss.3", 3.4), "baseline_logloss"),
    "a loss of the preview": (QUANT, setting("evaluation_windows.preview.baseline_logloss.3", 3.4), "baseline_logloss"),
    "all losses of the baseline": (QUANT, better, "evaluation_windows.final.baseline_logloss: contradicts"),
    "windows in another order": (QUANT, swap("final", "window_ids"), "final.window_ids: contradicts"),
    "losses in another order": (QUANT, swap("final", "baseline_logloss"), "baseline_logloss: contradicts"),
    "an unknown window": (QUANT, setting("evaluation_windows.final.window_ids.5", "e" * 64), "window_ids: contradicts"),
    "sublayers of the baseline": (QUANT, sublayer("rmt", "base", 1.05), "sublayer outputs of the baseline: contra"),
    "variances of the baseline": (QUANT, sublayer("variance", "base", 1.05), "variances of the baseline: contradicts"),
    "calibration windows": (QUANT, setting("rmt.windows_sha256", "f" * 64), "calibration windows: contradicts"),
    "right tokens": (QUANT, setting("distribution.final.baseline_right.0", 100), "tokens that the baseline gets right"),
    "the cache": (QUANT, setting("distribution.measurement.cache_bytes_limit", 2**30), "plan of the distributions"),
    "counts of tokens": (
        QUANT, setting("baseline_quality", lambda own: {**own, "occurrences": [300, 900], "tokens": [25, 25]}),
        "counts of tokens: contradicts",
    ),
    # What was measured on the edited weights, in all runs.
    "spectrum of the edited": (SECOND, spectrum("sigma", 1, 1.02), "spectra: contradicts"),
    "rows of the edited": (SECOND, spectrum("row_min", 1, 1.02), "spectra: contradicts"),
    "direction of the edited": (SECOND, setting("direction.matrices.cosine.0", 0.97), "matrices and tables: contra"),
    "facts of the edit": (SECOND, setting("structure.edit_details.groups", 80), "structure: contradicts"),
    # The draws, made again.
    "windows of another run": (
        SECOND, both(every("final", "window_ids", lambda own: own[:-1] + "1")), "window_ids: contradicts",
    ),
    "a short window": (QUANT, setting("evaluation_windows.preview.token_counts.0", 374), "token_counts: contradicts"),
    "more windows than tokens": (QUANT, setting("dataset.hash.total_tokens", 1000), "total_tokens"),
    # Contradictions within the certificate.
    "an unedited model that loses": (NOOP, costly, "the subject is the baseline, and yet their losses differ"),
    "an unedited model that diverges": (
        NOOP, both(setting("distribution.final.kl_mean.0", 0.01), setting("distribution.kl_max", 0.5),
                   setting("distribution.kl_q99", 0.1)),
        "the subject is the baseline, and yet their distributions differ",
    ),
    "an unedited model's sublayers": (NOOP, sublayer("rmt", "cur", 1.01), "and yet their sublayers differ"),
    "an unedited model's variances": (NOOP, sublayer("variance", "cur", 1.01), "and yet their sublayers differ"),
    "no divergence beside a ratio": (QUANT, both(without_divergence, costly), "distribution.kl_mean: 0.0 beside"),
    "losses below what choices allow": (
        QUANT, every("final", "logloss", lambda _: 0.2), "tokens are not the most probable ones, so it is at least",
    ),
    "a changed tensor unnamed": (QUANT, setting("structure.parameters_changed", []), "parameters_changed"),
    "a changed tensor called the same": (QUANT, setting("spectral.matrices.state.1", "same"), MATRIX),
    "zeros that pruning leaves": (PRUNED, setting("structure.edit_details.zeros", 3), "cannot come of magnitude_prune"),
    "groups of rounding": (QUANT, setting("structure.edit_details.groups", 0), "cannot come of quant_rtn"),
    "energy above all": (LOWRANK, setting("structure.edit_details.energy_mean", 1.2), "cannot come of lowrank_svd"),
    "clipped below none": (FLOAT8, setting("structure.edit_details.clipped", -1), "cannot come of fp8_quant"),
    "facts that are none": (QUANT, setting("structure.edit_details", {}), "cannot come of quant_rtn"),
    "a scope that stands for more": (QUANT, setting("structure.edit_details.scope_taken", "all"), "can stand for"),
    "facts of a noop": (NOOP, setting("structure.edit_details", {"matrices": 1}), "cannot come of noop"),
    "matrices of the edit": (QUANT, setting("structure.edit_details.matrices", 3), "structure.edit_details"),
    "a tensor gone": (
        QUANT,
        lambda certificate: [certificate["spectral"]["matrices"][key].__setitem__(1, value) for key, value in {
            "state": "missing", "sigma": None, "frobenius": None, "row_min": None, "row_max": None,
            "column_min": None, "column_max": None,
        }.items()],
        "missing",
    ),
    "a tensor added": (QUANT, setting("spectral.added", ["other.weight"]), "invariants.violations has no unexpected"),
    "a tensor reshaped": (QUANT, setting("spectral.reshaped", [MATRIX]), "invariants.violations has no shape"),
}  # fmt: skip


def found_in(pack: Path) -> str:
    return "\n".join(finding for step in verify_pack(pack).steps for finding in step.findings)


def test_the_honest_pack_holds(original: Path) -> None:
    report = verify_pack(original)
    assert (report.ok, found_in(original)) == (True, "")


@pytest.mark.parametrize("attack", ATTACKS)
def test_one_forged_certificate_contradicts_the_rest(attack: str, original: Path, tmp_path: Path) -> None:
    path, change, reason = ATTACKS[attack]
    pack = copy_of(original, tmp_path / "pack")
    forge_evidence(pack, path, change)
    reseal(pack)
    assert reason in found_in(pack)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_digest", "0" * 64),
        ("seq_len", 64),
        ("null", lambda null: {**null, "rmt_log_ratios": {"attn": [0.5] * 30, "ffn": [0.1]}}),
        ("null", lambda null: {**null, "runs": null["runs"][:1]}),
        ("null", lambda null: {**null, "runs": "x"}),
        ("null", lambda null: {**null, "runs": [{"seed": 1}]}),
        ("null", lambda null: {**null, "note": 1}),
        ("derived", lambda derived: {**derived, "max_caps": 10**6}),
        ("note", 1),
    ],
)
def test_a_preset_says_what_its_calibration_says(key: str, value: Any, original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    change_document(pack / PRESET, setting(key, value))
    reseal(pack)
    assert f"{PRESET}: {key}" in found_in(pack)


def test_a_model_has_one_preset(original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    shutil.copy(pack / PRESET, second := pack / f"{Path(PRESET).parent}/calibrated_preset_second.json")
    reseal(pack)
    assert f"{second.relative_to(pack)}: model_id: {PRESET} is of the same model" in found_in(pack)


def test_the_smaller_camp_is_named(original: Path, tmp_path: Path) -> None:
    """Even if what is altered is the first certificate of all."""
    pack = copy_of(original, tmp_path / "pack")
    first = sorted(path.relative_to(pack).as_posix() for path in pack.glob("certs/**/evaluation.cert.json"))[0]
    assert first == NOOP
    forge_evidence(pack, first, setting("dataset.documents", 900))
    reseal(pack)
    findings = [line for line in found_in(pack).splitlines() if "dataset.documents" in line]
    assert [line.partition(":")[0] for line in findings] == [first]


def test_who_forges_all_alike_is_not_seen(original: Path, tmp_path: Path) -> None:
    """What remains, as the threat model says: a lie that is told everywhere."""
    pack = Path(shutil.copytree(original, tmp_path / "pack"))
    for file in sorted(pack.glob("certs/**/evaluation.cert.json")):
        forge_evidence(pack, file.relative_to(pack).as_posix(), setting("dataset.documents", 900))
    reseal(pack)
    assert load(pack / QUANT)["dataset"]["documents"] == 900
    assert verify_pack(pack).ok
