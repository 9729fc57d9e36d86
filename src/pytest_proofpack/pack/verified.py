"""What a verified pack says, in the terms of whoever wants to rely on it. Nothing here is judged: it has been before.

The texts are the maker's; whoever shows them makes them printable and cuts them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from pytest_proofpack.certificate.derive import is_loaded
from pytest_proofpack.certificate.formats import CURRENT, format_of
from pytest_proofpack.certificate.limits import OwnLimit
from pytest_proofpack.certificate.policy import limits_beside
from pytest_proofpack.certificate.tool_products import is_made_by_tool
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.clean_edits import CleanEditFacts, clean_edits_of
from pytest_proofpack.pack.manifest import Manifest
from pytest_proofpack.pack.steps import Structure
from pytest_proofpack.plan.packaged import provenance, scenarios_digest
from pytest_proofpack.plan.records import Strictness


@dataclass(frozen=True)
class ModelIdentity:
    """A model, as certificates name it.

    Attributes:
        id: its id.
        revision: the commit; None for a local directory.
        digests: OpenSSF root digest of its files, hexadecimal; one, unless certificates contradict each other.
    """

    id: str
    revision: str | None
    digests: tuple[str, ...]

    @property
    def told(self) -> str:
        """One line."""
        return f"{self.id}, {self.revision or 'a local directory'}, files {' and '.join(self.digests)}"


@dataclass(frozen=True)
class TextIdentity:
    """An evaluation text.

    Attributes:
        provider: name of the text source.
        split: its part.
        sha256: digest of the text, hexadecimal.
        dataset: id of the data set, and its commit; None for other texts.
        revision: see ``dataset``.
    """

    provider: str
    split: str
    sha256: str
    dataset: str | None
    revision: str | None

    @property
    def told(self) -> str:
        """One line."""
        source = f", {self.dataset}@{self.revision}" if self.dataset is not None else ""
        return f"{self.provider} {self.split}{source}, text {self.sha256}"


@dataclass(frozen=True)
class EditFacts:
    """One scenario of one model, by its worst run.

    Attributes:
        model: id of the model.
        scenario: id of the scenario.
        strictness: what the verdict demands of it.
        runs: how many certificates it has.
        run: the worst one: one that is not as expected, else the one nearest to not being so, by its ratio.
        as_expected: whether all runs are what the verdict demands.
        passed: whether that run passed every gate.
        ratio: perplexity, edited over unedited; None if a loss is not finite.
        interval: of the ratio, 95 %; None if there is none.
        limit: the policy's, on the ratio and on the interval's upper end.
        margin: what is left to it from the larger of the two, negative beyond it; None without a ratio.
        kl: mean Kullback-Leibler divergence of the next token's distributions, nats; None if not evaluated.
        warnings: what any of its runs warns of.
    """

    model: str
    scenario: str
    strictness: str
    runs: int
    run: int
    as_expected: bool
    passed: bool
    ratio: float | None
    interval: tuple[float, float] | None
    limit: float
    margin: float | None
    kl: float | None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verified:
    """What a pack says that holds.

    Attributes:
        verdict: ``PASS`` or ``FAIL``, recomputed.
        format: of its certificates; older ones lack gates.
        suite: its name.
        scenarios_sha256: digest of its scenarios, without the plan.
        scenarios: whose these are, in words.
        runs: how often each kind was to run.
        skipped: ``MODEL: SCENARIO`` of the edits that were left out.
        models: the unedited models.
        subjects: the edited ones that were loaded from directories of their own.
        texts: the evaluation texts; one, unless certificates contradict each other.
        tiers: the policy's tiers, likewise.
        profiles: likewise.
        limits: the policy's own limits, beside its tier's.
        meta: facts that the maker states of the run.
        counts: certificates by what the verdict demands of them.
        edits: every scenario of every model, in the order of the plan.
        clean_edits: the clean edits, whose parameters their scenarios do not say.
        times: when the pack was made, by who says so: ``made`` (the manifest), ``signed`` (the signature).
    """

    verdict: str
    format: int
    suite: str
    scenarios_sha256: str
    scenarios: str
    runs: Mapping[str, int]
    skipped: tuple[str, ...]
    models: tuple[ModelIdentity, ...]
    subjects: tuple[ModelIdentity, ...]
    texts: tuple[TextIdentity, ...]
    tiers: tuple[str, ...]
    profiles: tuple[str, ...]
    counts: Mapping[str, int]
    edits: tuple[EditFacts, ...]
    times: Mapping[str, datetime] = field(default_factory=dict)
    limits: tuple[OwnLimit, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    clean_edits: tuple[CleanEditFacts, ...] = ()

    def to_json(self) -> JsonObject:
        """Return the JSON form; its strings are as the pack has them."""
        times = {what: f"{time:%Y-%m-%dT%H:%M:%SZ}" for what, time in self.times.items()}
        return {**asdict(self), "times": times}


def verified_facts(
    structure: Structure, manifest: Manifest, verdict: str, signed_at: datetime | None = None
) -> Verified:
    """Return what a pack says whose every step has passed.

    Args:
        structure: the pack.
        manifest: its manifest.
        verdict: as it was recomputed.
        signed_at: when it was signed, as the signature says; None if nothing says it.
    """
    certificates = structure.certificate_documents.values()
    plan, digest = structure.scenarios["plan"], _digest_of(structure.scenarios, structure)
    edits = tuple(edits_of(structure.documents[structure.layout.verdict]["certificates"], certificates))
    return Verified(
        verdict=verdict,
        format=structure.format.number,
        suite=manifest.suite,
        scenarios_sha256=digest,
        scenarios=provenance(manifest.suite, digest, [one["category"] for one in structure.scenarios["scenarios"]]),
        runs=plan["runs"],
        skipped=tuple(f"{entry['model']}: {entry['scenario']}" for entry in plan["skipped"]),
        models=_models(certificates, manifest),
        subjects=_subjects(certificates),
        texts=tuple(dict.fromkeys(_text(certificate["dataset"]) for certificate in certificates)),
        tiers=_unique(certificate["policy_provenance"]["tier"] for certificate in certificates),
        profiles=_unique(certificate["meta"]["profile"] for certificate in certificates),
        counts={kind.value: sum(edit.runs for edit in edits if edit.strictness == kind) for kind in Strictness},
        edits=edits,
        times=_times(manifest, signed_at),
        limits=_limits(certificates),
        meta=manifest.meta,
        clean_edits=tuple(clean_edits_of(structure)),
    )


def _digest_of(document: JsonObject, structure: Structure) -> str:
    try:
        return scenarios_digest(document)
    except FormatError:  # only format 1 has room for such an integer
        return structure.sha256({key: value for key, value in document.items() if key != "plan"})


def _models(certificates: Iterable[JsonObject], manifest: Manifest) -> tuple[ModelIdentity, ...]:
    digests: dict[str, dict[str, None]] = {model: {} for model in manifest.model_list}
    for certificate in certificates:
        digests[certificate["meta"]["model_id"]][certificate["provenance"]["model_digest"]["baseline"]] = None
    return tuple(ModelIdentity(model, manifest.revisions.get(model), tuple(found)) for model, found in digests.items())


def _subjects(certificates: Iterable[JsonObject]) -> tuple[ModelIdentity, ...]:
    found: dict[tuple[str, str | None], dict[str, None]] = {}
    for certificate in certificates:
        if is_loaded(certificate) and not is_made_by_tool(certificate):
            edit, provenance_of = certificate["provenance"]["edit"], certificate["provenance"]
            digests = found.setdefault((edit["subject"], edit["revision"]), {})
            digests[provenance_of["model_digest"]["subject"]] = None
    return tuple(ModelIdentity(model, revision, tuple(digests)) for (model, revision), digests in found.items())


def _text(dataset: Mapping[str, Any]) -> TextIdentity:
    source = dataset.get("source") or {}
    return TextIdentity(
        dataset["provider"], dataset["split"], dataset["hash"]["text"], source.get("dataset"), source.get("revision")
    )


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(values)))


def _limits(certificates: Iterable[JsonObject]) -> tuple[OwnLimit, ...]:
    """Return the own limits that any certificate has: one set, unless certificates contradict each other."""
    policies = {
        compact_json([own["tier"], certificate["meta"]["profile"], own["overrides"]]): (own, certificate)
        for certificate in certificates
        if format_of(certificate) is CURRENT
        for own in [certificate["policy_provenance"]]
    }
    found = (
        limit
        for own, certificate in policies.values()
        for limit in limits_beside(own["tier"], certificate["meta"]["profile"], own["overrides"])
    )
    return tuple(dict.fromkeys(found))


def _times(manifest: Manifest, signed_at: datetime | None) -> dict[str, datetime]:
    times = {} if signed_at is None else {"signed": signed_at}
    try:
        return {"made": datetime.fromisoformat(manifest.generated_at), **times}
    except ValueError:  # 31 February has the form of a day
        return times


def edits_of(rows: Iterable[JsonObject], certificates: Iterable[JsonObject]) -> Iterable[EditFacts]:
    """Yield each edit's worst run, by the rows of the verdict, which hold what was judged.

    Args:
        rows: as under ``certificates`` in a verdict.
        certificates: those of the rows, valid against their schema.
    """
    by_key = {certificate_key(certificate): certificate for certificate in certificates}
    groups: dict[tuple[str, str], list[JsonObject]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["scenario"]), []).append(row)
    for group in groups.values():
        worst = max(group, key=_badness)
        yield _edit_facts(worst, group, by_key[worst["model"], worst["scenario"], worst["run"]])


def _badness(row: JsonObject) -> tuple[bool, float]:
    wants_loss = row["strictness"] in {Strictness.MUST_FAIL, Strictness.MUST_DETECT}
    return not row["as_expected"], -_upper(row) if wants_loss else _upper(row)


def _edit_facts(worst: JsonObject, runs: Sequence[JsonObject], certificate: JsonObject) -> EditFacts:
    limit = certificate["resolved_policy"]["primary_metric"]["ratio_limit"]
    bounds = worst.get("interval")
    return EditFacts(
        model=worst["model"],
        scenario=worst["scenario"],
        strictness=worst["strictness"],
        runs=len(runs),
        run=worst["run"],
        as_expected=worst["as_expected"],
        passed=worst["passed"],
        ratio=worst.get("ratio"),
        interval=(bounds[0], bounds[1]) if bounds is not None else None,
        limit=limit,
        margin=limit - _upper(worst) if "ratio" in worst else None,
        kl=certificate.get("distribution", {}).get("kl_mean"),
        warnings=tuple(dict.fromkeys(name for row in runs for name in row["warnings"])),
    )


def _upper(row: JsonObject) -> float:
    """Return the larger of the ratio and its interval's upper end; without a finite loss it is infinite."""
    return max(row["ratio"], row["interval"][1]) if "ratio" in row else math.inf
