"""What two certificates of one edit say of each other: whether they can be compared, and by how much they differ."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pytest_proofpack.certificate.bootstrap import bca_interval
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.metric import read_windows, resamples
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.common.words import printable, shortened

MIN_WINDOWS = 64
"""Windows that two certificates need in common: as many as a policy demands for a ratio."""
_MAX_EXPONENT = 700.0
_LONGEST = 60

Windows = dict[str, tuple[float, int]]
"""By id: what the edit added to the loss of a window, in nats per token, and the window's scored tokens."""


@dataclass(frozen=True)
class Difference:
    """How two edits of one model differ on the windows that both were measured on.

    Attributes:
        ratio: perplexity after over perplexity before, each relative to its own measurement of the unedited model.
        interval: its paired 95 % interval.
        windows: how many windows that is from.
    """

    ratio: float
    interval: tuple[float, float]
    windows: int


def obstacles(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Say why the numbers of two certificates cannot be compared; nothing if they can."""
    one, other = before["dataset"], after["dataset"]
    if one["hash"]["text"] != other["hash"]["text"]:
        yield f"another text: {_text(one)}, then {_text(other)}"
    formats = [format_of(certificate).number for certificate in (before, after)]
    hashes = [certificate["meta"]["tokenizer_hash"] for certificate in (before, after)]
    # Format 1's hash is over less. Between formats, the unedited model's files and the ids of windows tell it.
    if formats[0] == formats[1] and hashes[0] != hashes[1]:
        yield "another tokenizer"
    if one["seq_len"] != other["seq_len"]:
        yield f"other windows: of {one['seq_len']} tokens, then of {other['seq_len']}"
    digests = [certificate["provenance"]["model_digest"]["baseline"] for certificate in (before, after)]
    revisions = [certificate["meta"]["revision"] for certificate in (before, after)]
    if revisions[0] != revisions[1]:
        yield f"another revision of the unedited model: {_shown(revisions[0])}, then {_shown(revisions[1])}"
    elif digests[0] != digests[1]:
        yield f"other files of the unedited model: {digests[0][:12]}, then {digests[1][:12]}"


def other_judges(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Say why the gates of two certificates mean different things, though numbers may be compared."""
    formats = [format_of(certificate).number for certificate in (before, after)]
    if formats[0] != formats[1]:
        yield f"other gates: certificates of format {formats[0]}, then {formats[1]}"
    policies = [
        compact_json([certificate["resolved_policy"], certificate["policy_provenance"]["overrides"]])
        for certificate in (before, after)
    ]
    if policies[0] != policies[1] and formats[0] == formats[1]:
        yield f"other limits: {_policy(before)}, then {_policy(after)}"


def remarks(before: JsonObject, after: JsonObject) -> Iterator[str]:
    """Say what else is not the same, and may be why numbers differ."""
    edits = [_edit(certificate) for certificate in (before, after)]
    if edits[0] != edits[1]:
        keys = [key for key in sorted(edits[0].keys() | edits[1].keys()) if edits[0].get(key) != edits[1].get(key)]
        changes = [f"{key} {_shown(edits[0].get(key))}, then {_shown(edits[1].get(key))}" for key in keys]
        yield printable(f"another edit: {'; '.join(changes)}")
    elif before["structure"].get("changes") != after["structure"].get("changes"):
        yield "the edited weights are not the same"
    machines = [f"{one['meta']['device']} in {one['meta']['dtype']}" for one in (before, after)]
    if machines[0] != machines[1]:
        yield printable(f"computed on {machines[0]}, then on {machines[1]}")


def edit_windows(certificates: Sequence[JsonObject]) -> Windows:
    """Return what an edit added to the loss of every final window of its runs.

    An edit does not depend on the run, so all runs together are one measurement, on more text. A loss that is not
    finite is NaN.

    Raises:
        FormatError: a list is not what it should be.
    """
    found: Windows = {}
    for certificate in certificates:
        windows = read_windows(certificate, "final")
        columns = zip(windows.ids, windows.counts, windows.subject, windows.baseline, strict=True)
        found.update({window: (edited - plain, count) for window, count, edited, plain in columns})
    return found


def paired_difference(before: Windows, after: Windows, bootstrap: JsonObject) -> Difference | str:
    """Return by how much two edits differ, or why that cannot be said.

    On every window that both were measured on, D_i is what the one edit added to the loss less what the other did, so
    what the unedited model does on another machine drops out. exp of the token-weighted mean of D is the ratio, its
    interval that of the primary metric: resampling windows, bias-corrected and accelerated.

    Args:
        before: as :func:`edit_windows` returns it.
        after: likewise.
        bootstrap: ``replicates``, ``alpha`` and ``seed``, as a certificate records them.
    """
    common = [window for window in before if window in after and before[window][1] == after[window][1]]
    if len(common) < min(MIN_WINDOWS, len(before), len(after)) or not common:
        return f"{len(common)} windows in common, of {len(before)} and {len(after)}: too few"
    if resamples(len(common), bootstrap["replicates"]) > BUDGETS.resamples:
        return f"{len(common)} windows in common are more than are resampled"
    differences = np.array([after[window][0] - before[window][0] for window in common])
    counts = np.array([before[window][1] for window in common], dtype=np.float64)
    if not np.isfinite(differences).all():
        return _not_finite(before, after)
    bounds = bca_interval(
        differences, counts, replicates=bootstrap["replicates"], alpha=bootstrap["alpha"], seed=bootstrap["seed"]
    )
    mean = math.fsum((differences * counts).tolist()) / math.fsum(counts.tolist())
    return Difference(_ratio(mean), (_ratio(bounds.low), _ratio(bounds.high)), len(common))


def _ratio(logarithm: float) -> float:
    return math.exp(min(logarithm, _MAX_EXPONENT))


def _not_finite(before: Windows, after: Windows) -> str:
    finite = [all(math.isfinite(added) for added, _ in side.values()) for side in (before, after)]
    which = "before and after" if not any(finite) else "before" if not finite[0] else "after"
    return f"a loss is not finite {which}"


def is_finite(windows: Windows) -> bool:
    """Tell whether every loss is finite."""
    return all(math.isfinite(added) for added, _ in windows.values())


def _edit(certificate: JsonObject) -> JsonObject:
    """Return the edit's own words, the parameters in a line each."""
    edit = {key: value for key, value in certificate["provenance"]["edit"].items() if key != "sha256"}
    parameters = edit.pop("parameters", None)
    return {**edit, **parameters} if isinstance(parameters, dict) else edit


def _text(dataset: JsonObject) -> str:
    source = dataset.get("source") or {}
    name = source.get("dataset") or dataset["provider"]
    return f"{_shown(name)} {_shown(dataset['split'])} ({dataset['hash']['text'][:12]})"


def _policy(certificate: JsonObject) -> str:
    provenance = certificate["policy_provenance"]
    own = " with limits of its own" if "limits" in provenance["overrides"] else ""
    return printable(f"tier {provenance['tier']}, profile {certificate['meta']['profile']}{own}")


def _shown(value: object) -> str:
    if value is None:
        return "none"
    text = value if isinstance(value, str) else compact_json(value)
    return printable(shortened(text, _LONGEST))
