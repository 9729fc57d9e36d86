"""Repeats: one certificate of a run made again, and how far the results differ.

The summary holds an entry per certificate and what follows from the entries. Verification derives the latter again with
the same function, and compares the first entry with the certificate in the pack; of the repeats nothing else is kept.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pytest_proofpack.certificate.formats import OUTSIDE_DIGEST, format_of
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.plan.expected import Key
from pytest_proofpack.plan.records import Category, CertificateRequest

SCHEMA = "proof_pack_repeats_v1"
FILE = "determinism_repeats.json"
_INPUTS = {"weights": "provenance", "text": "dataset", "tokenizer": "meta"}
"""What a certificate is made of besides the edit, and the block that names each by its digest."""
RATIO = "primary_metric.ratio_vs_baseline"

_STEP = re.compile(r"[^.\[\]]+")
_LARGEST = 1e300
"""Numbers beyond this are treated as absent, so that no difference between two of them overflows."""


@cache
def followed_numbers() -> tuple[str, ...]:
    """Return the numbers of a certificate that are followed, as paths: of each criterion what reacts first."""
    from pytest_proofpack.certificate.criteria import criteria  # who only describes a summary needs no guard

    return tuple(f"{judge.block}.{path}" for judge in criteria() for path in judge.followed)


@dataclass(frozen=True)
class MadeCertificate:
    """What is kept of one certificate: its entry in the summary, and the digest of each of its blocks, by name."""

    entry: JsonObject
    blocks: Mapping[str, str]


@dataclass(frozen=True)
class RepeatRequest:
    """What was asked for: how many repeats of which certificate, in which determinism mode."""

    request: CertificateRequest
    repeats: int
    determinism: str


def repeated_request(requests: Sequence[CertificateRequest]) -> CertificateRequest:
    """Return the certificate of a plan that is made again.

    It is the first of a clean edit or of a model edited elsewhere, else that of any edit or fault, else a calibration.
    """
    wanted = (
        {Category.CLEAN, Category.BYOE},
        {Category.STRESS, Category.ERROR},
        {Category.CALIBRATION},
    )
    found = (request for kind in wanted for request in requests if request.scenario.category in kind)
    return next(found)


def with_repeats(requests: Sequence[CertificateRequest], count: int) -> tuple[CertificateRequest, ...]:
    """Return a plan's requests with ``count`` repeats of one of them behind it, while its model is loaded."""
    if not count:
        return tuple(requests)
    chosen = repeated_request(requests)
    at = requests.index(chosen) + 1
    repeats = (replace(chosen, id=f"{chosen.id}-repeat_{n}", repeat=n) for n in range(1, count + 1))
    return (*requests[:at], *repeats, *requests[at:])


def sample_of(certificate: JsonObject, repeat: int, worker: str | None = None) -> MadeCertificate:
    """Return what the summary needs of a certificate.

    Args:
        certificate: valid against its schema.
        repeat: which repeat it is; 0 for the certificate that is repeated.
        worker: name of the worker that made it; None where there were none.
    """
    meta = certificate["meta"]
    entry = {
        "repeat": repeat,
        "worker": worker,
        "certificate_digest": certificate["certificate_digest"],
        "device": meta["device"],
        "determinism": meta["determinism"].get("reached"),
        "batch": _batch(certificate["volatile"].get("batch")),
        "inputs": dict(zip(_INPUTS, _input_digests(certificate), strict=True)),
        "metrics": {path: _number(certificate, path) for path in followed_numbers()},
    }
    sha256 = format_of(certificate).sha256
    blocks = {name: sha256(block) for name, block in certificate.items() if name not in OUTSIDE_DIGEST}
    return MadeCertificate(entry, blocks)


def summarize(asked: RepeatRequest, samples: Sequence[MadeCertificate]) -> JsonObject:
    """Return the drift summary of the certificates that came, in any order; all are compared with the first of them.

    Args:
        asked: what was asked for.
        samples: the certificate that is repeated, if it is there, and its repeats.
    """
    ordered = sorted(samples, key=lambda sample: int(sample.entry["repeat"]))
    entries = [{**sample.entry, "differs_in": _differing(ordered[0].blocks, sample.blocks)} for sample in ordered]
    request = asked.request
    return {
        "schema": SCHEMA,
        "certificate": {"model": request.model.id, "scenario": request.scenario.id, "run": request.run},
        "requested": asked.repeats,
        "determinism_requested": asked.determinism,
        "certificates": entries,
        **_derive(entries),
    }


def summary_key(summary: JsonObject) -> Key:
    """Return model id, scenario id and run of the certificate that was repeated."""
    certificate = summary["certificate"]
    return certificate["model"], certificate["scenario"], certificate["run"]


def repeats_findings(summary: JsonObject, certificates: Iterable[JsonObject]) -> list[str]:
    """Return in what a summary contradicts itself or the certificate that was repeated, if that is there.

    Args:
        summary: valid against its schema.
        certificates: those of the run, valid against theirs.
    """
    key = summary_key(summary)
    certificate = next((found for found in certificates if certificate_key(found) == key), None)
    entries = summary["certificates"]
    numbers = [entry["repeat"] for entry in entries]
    findings = []
    if numbers != sorted(set(numbers)) or (numbers and numbers[-1] > summary["requested"]):
        findings.append("certificates: the repeats are not numbered in order, from 1 to at most requested")
    findings += [
        f"{name}: recorded {summary[name]!r}, the entries give {value!r}"
        for name, value in _derive(entries).items()
        if compact_json(summary[name]) != compact_json(value)
    ]
    findings += _entry_findings(entries)
    if (0 in numbers) != (certificate is not None):
        findings.append("certificates: the certificate that was repeated is in only one of summary and pack")
    elif certificate is not None:
        expected = {**sample_of(certificate, 0).entry, "differs_in": []}
        findings += [
            f"certificates[0].{name}: recorded {entries[0][name]!r}, the certificate gives {value!r}"
            for name, value in expected.items()
            if name in entries[0] and compact_json(entries[0][name]) != compact_json(value)
        ]
    return findings


def describe(summary: JsonObject) -> str:
    """Return the summary in one line."""
    model, scenario, _ = summary_key(summary)
    made, requested = summary["made"], summary["requested"]
    count = str(made) if made == requested else f"{made} ({requested - made} missing)"
    return f"repeats: {count} of {scenario} on {model}: {_finding(summary)}"


def drift_problem(summary: JsonObject) -> str | None:
    """Return why the repeats are not as they should be: some are missing, or differ though determinism is strict."""
    model, scenario, run = summary_key(summary)
    missing = summary["requested"] - summary["made"]
    lines, changed = [], changed_inputs(summary)
    if changed:
        lines.append(f"other {' and '.join(changed)} than the first had: it changed while the run was under way")
    if missing:
        lines.append(f"{missing} of {summary['requested']} repeats are missing")
    if summary["determinism_requested"] == "strict" and summary["bit_identical"] is not True and not changed:
        lines.append("strict determinism promises the same bits every time, and that is not what the repeats show")
    if not lines:
        return None
    batches = ", ".join(map(str, summary["batch_windows"])) or "unknown"
    return "\n".join(
        [
            f"{model}, scenario {scenario}, run {run}: {'; '.join(lines)}.",
            f"  found       {_finding(summary)}",
            f"  made on     {', '.join(summary['devices']) or 'nothing'}, batches of {batches} windows",
            *_drift_lines(summary),
            f"  see         analysis/{FILE}",
        ]
    )


def changed_inputs(summary: JsonObject) -> list[str]:
    """Return what some repeats were made of that the first certificate was not: that is no drift.

    Summaries of version 0.1.0 do not tell.
    """
    entries = summary["certificates"]
    return [name for name in _INPUTS if any(_input(entry, name) != _input(entries[0], name) for entry in entries)]


def _finding(summary: JsonObject) -> str:
    if summary["bit_identical"] is None:
        return "nothing to compare"
    if changed := changed_inputs(summary):
        first = summary["certificates"][0].get("inputs")
        others = sum(entry.get("inputs") != first for entry in summary["certificates"])
        return f"{others} of {len(summary['certificates'])} certificates were made of other {' and '.join(changed)}"
    if summary["bit_identical"]:
        return "bit-identical"
    differing = [entry for entry in summary["certificates"] if entry["differs_in"]]
    text = f"{len(differing)} of {len(summary['certificates'])} certificates differ from the first"
    drift = summary["metrics"].get(RATIO, {}).get("largest_relative_difference")
    return text if drift is None else f"{text}, largest difference of the ratio {drift:.2g}"


def _drift_lines(summary: JsonObject) -> Iterator[str]:
    if summary["differs_in"]:
        yield f"  blocks      {', '.join(summary['differs_in'])}"
    for path, spread in summary["metrics"].items():
        drift = spread["largest_relative_difference"]
        if drift is None or drift > 0:
            yield f"  differs     {path}: {'from 0' if drift is None else f'{drift:.2g}'}"


def _derive(entries: Sequence[JsonObject]) -> JsonObject:
    """Return everything in a summary that follows from its entries, the first of which the others are compared with."""
    spreads = {path: _spread([entry["metrics"][path] for entry in entries]) for path in followed_numbers()}
    batches = (entry["batch"]["windows"] for entry in entries if entry["batch"] is not None)
    digests = {entry["certificate_digest"] for entry in entries}
    return {
        "made": sum(entry["repeat"] > 0 for entry in entries),
        "determinism_reached": sorted({entry["determinism"] for entry in entries} - {None}),
        "devices": sorted({entry["device"] for entry in entries}),
        "batch_windows": sorted(set(batches)),
        "bit_identical": len(digests) == 1 if len(entries) > 1 else None,
        "differs_in": sorted({block for entry in entries for block in entry["differs_in"]}),
        "metrics": {path: spread for path, spread in spreads.items() if spread is not None},
    }


def _spread(values: Sequence[float | None]) -> JsonObject | None:
    """Return how far the values that are there differ; None if there is none.

    ``standard_deviation`` is that of a sample (n - 1), None for one value. ``largest_relative_difference`` is the
    largest ``abs(value - first) / abs(first)``, None where that is not defined.
    """
    present = [float(value) for value in values if value is not None]
    if not present:
        return None
    first = values[0]
    return {
        "count": len(present),
        "min": min(present),
        "max": max(present),
        "mean": statistics.mean(present),
        "standard_deviation": statistics.stdev(present) if len(present) > 1 else None,
        "largest_relative_difference": None if first is None else _largest_difference(present, float(first)),
    }


def _largest_difference(values: Sequence[float], first: float) -> float | None:
    largest = max(abs(value - first) for value in values)
    if largest == 0.0:
        return 0.0
    relative = largest / abs(first) if first else math.inf
    return relative if math.isfinite(relative) else None


def _entry_findings(entries: Sequence[JsonObject]) -> list[str]:
    """Compare every entry with the first: with the same digest it has the same numbers, with another one it differs."""
    findings = []
    for index, entry in enumerate(entries):
        same = entry["certificate_digest"] == entries[0]["certificate_digest"]
        facts = ("metrics", "device", "determinism")
        equal = all(compact_json(entry[key]) == compact_json(entries[0][key]) for key in facts)
        others = {_INPUTS[name] for name in _INPUTS if _input(entry, name) != _input(entries[0], name)}
        if same == bool(entry["differs_in"]) or (same and not equal) or not others <= set(entry["differs_in"]):
            findings.append(f"certificates[{index}]: contradicts what its digest says about equality with the first")
    return findings


def _differing(first: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    return sorted(name for name in first.keys() | other.keys() if first.get(name) != other.get(name))


def _input(entry: JsonObject, name: str) -> str | None:
    digest: str | None = entry.get("inputs", {}).get(name)
    return digest


def _input_digests(certificate: JsonObject) -> tuple[str | None, ...]:
    digests = certificate["provenance"]["model_digest"]
    return digests["baseline"], certificate["dataset"]["hash"].get("text"), certificate["meta"]["tokenizer_hash"]


def _batch(recorded: object) -> JsonObject | None:
    """Return windows per forward pass and how often they were halved, if ``volatile`` says it."""
    if not isinstance(recorded, Mapping):
        return None
    batch = {key: recorded.get(key) for key in ("windows", "halvings")}
    return batch if all(type(value) is int and value >= 0 for value in batch.values()) else None


def _number(certificate: JsonObject, path: str) -> float | None:
    """Return the number at a path; None if there is none that can be compared."""
    value: Any = certificate
    for step in _STEP.findall(path):
        if isinstance(value, Mapping):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) <= _LARGEST else None
