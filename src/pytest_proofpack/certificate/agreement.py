"""Whether the certificates of one pack agree with each other: whoever forges one has to forge them all.

What is compared: in all certificates, what belongs to the run; in those of one model, what was measured on the unedited
model, and how; on one draw of windows, what was measured there; in the runs of one scenario, the edited weights. The
draws themselves are made again from the seeds: which windows a run has follows from the run's number.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pytest_proofpack.certificate.derive import is_loaded
from pytest_proofpack.certificate.foreign import FOREIGN
from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.tool_products import is_made_by_tool
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.guards.guard import Facts, Guard
from pytest_proofpack.guards.registry import GUARDS

SAME_KIND = 1e-4
"""Relative difference between float32 numbers that processors of one kind may compute from the same weights."""
ROUNDED = 2e-2
"""The same on accelerators and in shorter types, where the size of a batch changes roundings."""
MAX_CAMPS = 3
"""Camps that are told apart in what certificates say of one fact; a fourth opinion contradicts the largest of them."""
MAX_DRAWN = 2**25
"""Windows that are permuted again for one pack, over all its draws."""

Certificates = Mapping[str, JsonObject]


def disagreements(certificates: Certificates) -> Iterator[str]:
    """Name what certificates of one pack contradict in each other.

    Args:
        certificates: by path; each has been recomputed by itself.

    Yields:
        one line for every fact in which a certificate is not what the others, or most of them, say.
    """
    yield from _compare(certificates, lambda _: "run", "the run", _of_run)
    yield from _compare(certificates, _model, "the same model", _of_model)
    yield from _compare(certificates, _sample, "the same windows", _of_sample)
    yield from _compare(certificates, _scenario, "the same edit", _of_edited)
    yield from _draw_findings(certificates)


def _model(certificate: JsonObject) -> str:
    return str(certificate["meta"]["model_id"])


def _sample(certificate: JsonObject) -> tuple[str, int]:
    return _model(certificate), certificate["scenario"]["run"]


def _scenario(certificate: JsonObject) -> tuple[str, str]:
    return _model(certificate), certificate["scenario"]["id"]


def _of_run(certificate: JsonObject) -> JsonObject:
    """Return what all certificates say of the run, as texts: of what nobody measured, no number may differ at all."""
    meta, dataset, provenance = certificate["meta"], certificate["dataset"], certificate["provenance"]
    policy = certificate["policy_provenance"]
    facts = {
        "meta.suite": meta["suite"],
        "meta.profile": meta["profile"],
        "meta.determinism.requested": meta["determinism"].get("requested"),
        "meta.seeds.edit": meta["seeds"]["edit"],
        "policy_provenance.tier": policy["tier"],
        "policy_provenance.policy_digest": policy["policy_digest"],
        "policy_provenance.overrides": policy["overrides"],
        "resolved_policy": certificate["resolved_policy"],
        **{f"{FOREIGN}.{name}.policy": block["policy"] for name, block in certificate.get(FOREIGN, {}).items()},
        "dataset.provider": dataset["provider"],
        "dataset.split": dataset["split"],
        "dataset.documents": dataset["documents"],
        "dataset.hash.text": dataset["hash"]["text"],
        "dataset.options": dataset.get("options", {}),
        "provenance.tool": provenance["tool"],
        "provenance.extensions": provenance.get("extensions", []),
    }
    return {name: compact_json(value) for name, value in facts.items()}


def _of_model(certificate: JsonObject) -> JsonObject:
    meta, dataset = certificate["meta"], certificate["dataset"]
    windows = dataset["windows"]
    return {
        "meta.revision": meta["revision"],
        "meta.tokenizer_hash": meta["tokenizer_hash"],
        "meta.trust_remote_code": meta.get("trust_remote_code", False),
        "meta.device": meta["device"],
        "meta.determinism.reached": meta["determinism"].get("reached"),
        **({} if is_loaded(certificate) else {"meta.dtype": meta["dtype"], "meta.adapter": meta["adapter"]}),
        "provenance.model_digest.baseline": certificate["provenance"]["model_digest"]["baseline"],
        "meta.inputs.weight_bytes.baseline": meta.get("inputs", {}).get("weight_bytes", {}).get("baseline"),
        "dataset.seq_len": dataset["seq_len"],
        "dataset.hash.total_tokens": dataset["hash"]["total_tokens"],
        "dataset.windows.available": windows["available"],
        "dataset.windows.preview": windows["preview"],
        "dataset.windows.final": windows["final"],
        **_guards_say(certificate, lambda guard: guard.shared.model),
    }


def _of_sample(certificate: JsonObject) -> JsonObject:
    sides = certificate["evaluation_windows"]
    measured = {
        f"evaluation_windows.{side}.{key}": sides[side][key]
        for side in ("preview", "final")
        for key in ("window_ids", "token_counts", "baseline_logloss")
    }
    foreign = {
        f"{FOREIGN}.{name}: the baseline": block["evidence"]["baseline"]
        for name, block in certificate.get(FOREIGN, {}).items()
        if isinstance(block.get("evidence"), Mapping)
    }
    return {**measured, **_guards_say(certificate, lambda guard: guard.shared.sample), **foreign}


def _of_edited(certificate: JsonObject) -> JsonObject:
    digest = certificate["provenance"]["model_digest"]["subject"]
    return {
        "structure": certificate["structure"],
        **({"provenance.model_digest.subject": digest} if is_made_by_tool(certificate) else {}),
        **_guards_say(certificate, lambda guard: guard.shared.edited),
    }


def _guards_say(certificate: JsonObject, what: Callable[[Guard], Facts]) -> JsonObject:
    own = format_of(certificate).guards
    return {
        f"{guard.block}: {name}": value
        for key, guard in GUARDS.builtin.items()
        if own is None or key in own
        for name, value in what(guard)(certificate[guard.block]).items()
    }


def _compare(
    certificates: Certificates,
    group: Callable[[JsonObject], Hashable],
    whose: str,
    facts: Callable[[JsonObject], JsonObject],
) -> Iterator[str]:
    """Compare certificates within groups, fact by fact: those that are fewer contradict those that are more."""
    groups: dict[Hashable, list[str]] = defaultdict(list)
    for path, certificate in certificates.items():
        groups[group(certificate)].append(path)
    for paths in groups.values():
        slack = {path: _slack(certificates[path]) for path in paths}
        said: dict[str, dict[str, object]] = defaultdict(dict)
        for path in paths:
            for name, value in facts(certificates[path]).items():
                said[name][path] = value
        for name, values in said.items():
            first, *others = _camps(values, slack)
            for path in chain.from_iterable(others):
                yield f"{path}: {name}: contradicts what {first[0]} says of {whose}"


def _camps(said: Mapping[str, object], slack: Mapping[str, float]) -> list[list[str]]:
    """Return the paths in camps that agree on a fact, the largest first; those that agree with none make up the last.

    Equal values are known by their digest, and are held against others once. Of the others each is compared with the
    first of every camp, and there are few of those: it takes time in proportion to the values, whatever they are.
    """
    equal: dict[tuple[bytes, float], list[str]] = defaultdict(list)
    for path, value in said.items():
        equal[_digest(value) if len(said) > 1 else b"", slack[path]].append(path)
    camps: list[list[str]] = []
    rest: list[str] = []
    for (_, own), paths in equal.items():
        value = said[paths[0]]
        camp = next((camp for camp in camps if _agree(value, said[camp[0]], max(own, slack[camp[0]]))), None)
        if camp is not None:
            camp += paths
        elif len(camps) < MAX_CAMPS:
            camps.append(list(paths))
        else:
            rest += paths
    return [*sorted(camps, key=len, reverse=True), rest]


def _digest(value: object) -> bytes:
    return hashlib.sha256(compact_json(value).encode()).digest()


def _slack(certificate: JsonObject) -> float:
    """Return how far numbers that were measured twice may differ, relative to the larger."""
    meta = certificate["meta"]
    return SAME_KIND if meta["device"] == "cpu" and meta["dtype"] == "float32" else ROUNDED


def _agree(one: object, other: object, slack: float) -> bool:
    """Tell whether two values are equal, numbers that are no whole ones within the slack."""
    if one is other:
        return True
    if isinstance(one, float) or isinstance(other, float):  # first: most values are
        for value in (one, other):
            if not isinstance(value, int | float) or isinstance(value, bool):
                return False
        return math.isclose(one, other, rel_tol=slack, abs_tol=slack * 1e-3)  # type: ignore[arg-type]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_agree(one[key], other[key], slack) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_agree(a, b, slack) for a, b in zip(one, other, strict=True))
    return type(one) is type(other) and one == other


def _draw_findings(certificates: Certificates) -> Iterator[str]:
    """Draw every run's windows again: the same place in the text is the same window, with the same loss.

    Which window of the text a run has at which place follows from the seed; what it holds, only who has the text knows.
    So the ids of all runs are laid over each other, and the losses of the unedited model with them.
    """
    seen: dict[tuple[str, int], tuple[str, float | None, str]] = {}
    places: dict[tuple[str, str], int] = {}
    drawn: set[tuple[int, int]] = set()
    total = 0
    order = np.empty(0, dtype=np.int64)
    for path, certificate in sorted(certificates.items(), key=lambda item: _draw(item[1])):
        seed, available = _draw(certificate)
        if (seed, available) not in drawn:
            drawn.add((seed, available))
            total += available
            if total > MAX_DRAWN:
                yield f"{path}: dataset.windows.available: more windows than verification draws again"
                return
            order = np.random.default_rng(seed).permutation(available)
        finding = _total_finding(certificate) or _place_finding(path, certificate, order, seen, places)
        if finding is not None:
            yield f"{path}: {finding}"


def _draw(certificate: JsonObject) -> tuple[int, int]:
    windows = certificate["dataset"]["windows"]
    return windows["seed"], windows["available"]


def _total_finding(certificate: JsonObject) -> str | None:
    dataset, counts = certificate["dataset"], certificate["evaluation_windows"]
    length, total, available = dataset["seq_len"], dataset["hash"]["total_tokens"], dataset["windows"]["available"]
    if available * length > total:
        return f"dataset.windows.available: {available} windows of {length} tokens are more than the text's {total}"
    if any(count != length - 1 for side in ("preview", "final") for count in counts[side]["token_counts"]):
        return f"evaluation_windows: a window of {length} tokens has {length - 1} scored ones, and one says otherwise"
    return None


def _place_finding(
    path: str,
    certificate: JsonObject,
    order: NDArray[np.int64],
    seen: dict[tuple[str, int], tuple[str, float | None, str]],
    places: dict[tuple[str, str], int],
) -> str | None:
    model, slack = _model(certificate), _slack(certificate)
    sides = certificate["evaluation_windows"]
    ids = chain(*(sides[side]["window_ids"] for side in ("preview", "final")))
    losses = chain(*(sides[side]["baseline_logloss"] for side in ("preview", "final")))
    needed = certificate["dataset"]["windows"]["preview"] + certificate["dataset"]["windows"]["final"]
    for place, window, loss in zip(order[:needed].tolist(), ids, losses, strict=True):
        known, measured, first = seen.setdefault((model, place), (window, loss, path))
        if known != window or places.setdefault((model, window), place) != place:
            return f"evaluation_windows: window {window} is none that its seed draws, by {first}"
        if not _agree(loss, measured, slack):
            return f"evaluation_windows: the baseline's loss on window {window} contradicts what {first} says"
    return None
