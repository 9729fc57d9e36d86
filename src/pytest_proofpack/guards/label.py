"""The label guard: are the weights of a checkpoint that was edited elsewhere what the label of its edit says?

A label is a claim. ``quant_rtn`` says that the values of a group lie on a grid of at most 256 levels, and that none
moved by more than a step; ``fp8_quant`` the same of the grid of an 8-bit float, up to a scale, and so does ``fp8``,
which files say of themselves; ``magnitude_prune`` that what changed is zero; ``lowrank_svd`` that matrices have lost
rank. All of them say that something changed. ``custom``, ``noop``, other forms of files and names of one's own claim
nothing here. A value that is the baseline's, rounded to bfloat16 or float16, has not changed to this guard: that is how
checkpoints are stored.

A label that the user gave, that the files say of themselves, or that stands whole in the subject's name, has to hold.
One that a mere word of the name suggested is a guess, which warns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import INVARIANTS, NAMES_SHOWN, Block, Case, Gate, Guard, Rules, Shared, Words
from pytest_proofpack.guards.tables import column_names, rows_of, table_of, with_columns

GROUP_LEVELS: Mapping[int, int] = {32: 255, 16: 63, 8: 15}
"""By how many neighbours are looked at, the most steps that their values may span to be called rounded: so few that
arbitrary values rarely do. Rounding in groups of 32 or more is told up to 8 bits, of 16 up to 6, of 8 up to 4."""
FLOAT8_MANTISSAS = 9
"""The most distinct mantissas of neighbours with one scale: eight of e4m3, and one more at the edge of a binade."""
FLOAT8_STEP = 0.25
"""The distance of neighbouring values of e5m2, relative to the smaller."""

_ORIGINS = ("given", "inferred", "default", "digest", "files")
_MAX_ROWS = 400_000
_MAX_NAME = 640
_MOST = 2**53


@dataclass(frozen=True)
class MatrixClaim:
    """What was counted in one changed matrix or vector.

    Attributes:
        name: its label: the parameter's name, or ``parameter[part]``.
        values: how many values were looked at.
        stray: how many of them are where the label does not let them be: moved by more than a step, or, of pruning and
            low rank, neither kept nor zero, or in no matrix.
        groups: how many groups of neighbours were looked at; of ``quant_rtn`` and ``fp8_quant`` only.
        off_grid: how many of them have more levels than the label lets them have.
        rank, full_rank: numeric rank, and the smaller dimension; of ``lowrank_svd`` only.
    """

    name: str
    values: int = 0
    stray: int = 0
    groups: int = 0
    off_grid: int = 0
    rank: int = 0
    full_rank: int = 0

    @property
    def parameter(self) -> str:
        """The parameter that holds it."""
        return self.name.partition("[")[0]


@dataclass(frozen=True)
class Rule:
    """One thing that a label says of every changed matrix.

    Attributes:
        finding: what is found where it does not hold, after a percentage.
        limit: the threshold, by its name in the policy.
        counts: how many of a matrix break it, of how many.
    """

    finding: str
    limit: str
    counts: Callable[[MatrixClaim], tuple[int, int]]


_STRAY = "stray_max"
_MOVED = Rule("of the values moved by more than a step", _STRAY, lambda own: (own.stray, own.values))
_LEVELS = Rule("of the groups have more than 256 levels", "off_grid_max", lambda own: (own.off_grid, own.groups))
_MANTISSAS = Rule(
    "of the groups are on no grid of an 8-bit float", "off_grid_max", lambda own: (own.off_grid, own.groups)
)
_KEPT = Rule("of the changed values are neither kept nor zero", "changed_max", lambda own: (own.stray, own.values))
_OUTSIDE = Rule("of the changed values are in no matrix", "changed_max", lambda own: (own.stray, own.values))
_RANK = Rule("of the full rank is left", "rank_share_max", lambda own: (own.rank, own.full_rank))

CLAIMS: Mapping[str, tuple[Rule, ...]] = {
    "quant_rtn": (_MOVED, _LEVELS),
    "fp8_quant": (_MOVED, _MANTISSAS),
    "fp8": (_MOVED, _MANTISSAS),
    "magnitude_prune": (_KEPT,),
    "lowrank_svd": (_OUTSIDE, _RANK),
}
"""What each label says; others claim nothing."""


def label_evidence(origin: str | None, matrices: tuple[MatrixClaim, ...] | None) -> JsonObject:
    """Return what a certificate records as evidence under ``label``.

    Args:
        origin: who says what the edit is called; None of a model edited in memory, whose edit is known.
        matrices: every changed matrix and vector; None where the label claims nothing.
    """
    if matrices is None:
        return {"origin": origin, "tensors": None}
    return {"origin": origin, "tensors": table_of(MatrixClaim, matrices)}


def derive_label(block: Block, rules: Rules, case: Case) -> JsonObject:
    """Hold a subject's label against what was counted in its weights.

    Raises:
        FormatError: the evidence is not what is measured, or leaves out a tensor that changed.
    """
    label, loaded = case.edit.get("type"), case.loaded
    origin, table = block["origin"], block["tensors"]
    if loaded != (origin in _ORIGINS) or not (loaded or origin is None):
        raise FormatError("label.origin: belongs to a subject that was loaded, and to no other")
    if not loaded or label not in CLAIMS:
        if table is not None:
            raise FormatError("label.tensors: the label claims nothing")
        reason = "no label says what the weights look like"
        return {"evaluated": False, "reason": reason, "holds": True, "label": None, "binding": False, "findings": []}
    matrices = tuple(_rows(table))
    _check_against(matrices, case)
    findings = list(_findings(str(label), matrices, rules, case))
    return {
        "evaluated": True,
        "holds": not findings,
        "label": label,
        "binding": is_binding(str(label), origin, str(case.edit.get("subject"))),
        "findings": findings,
    }


def is_binding(label: str, origin: str, subject: str) -> bool:
    """Tell whether a label is the user's or the maker's own word: given, told by the files, or whole in the name."""
    return origin in ("given", "files") or label in subject.rpartition("/")[2].lower().replace("-", "_")


def _findings(label: str, matrices: tuple[MatrixClaim, ...], rules: Rules, case: Case) -> Iterator[str]:
    said = f"labelled {label}, but "
    if not matrices:
        compared = set(case.compared["state"] if case.compared else ()) <= {"same"}
        yield said + ("no value differs from the baseline's" if compared else "no changed value could be looked at")
        return
    if not any(own.values for own in matrices):
        yield said + "no value differs from the baseline's but by the type that it is stored in"
    for rule in CLAIMS[label]:
        broken = [own for own in matrices if _share(*rule.counts(own)) > _limit(rules, rule.limit)]
        if broken:
            counts = [rule.counts(own) for own in broken]
            share = _share(sum(part for part, _ in counts), sum(whole for _, whole in counts))
            names = first_of([own.name for own in broken], NAMES_SHOWN)
            yield f"{said}{_percent(share)} {rule.finding} (in {names})"


def _limit(rules: Rules, key: str) -> float:
    limit = rules[key]
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 <= limit <= 1:
        raise FormatError(f"resolved_policy.label.{key}: expected a share from 0 to 1")
    return float(limit)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.1 else f"{100 * share:.0f} %"


def _check_against(matrices: tuple[MatrixClaim, ...], case: Case) -> None:
    """Make sure that every matrix that changed was looked at, and no other.

    Raises:
        FormatError: it was not.
    """
    if case.compared is None or case.inventory is None:
        raise FormatError("label: belongs beside structure.changes and invariants.tensors")
    table = case.compared
    changed = {name for name, state in zip(table["name"], table["state"], strict=True) if state == "changed"}
    seen = Counter(own.parameter for own in matrices)
    wanted = {own.name: max(1, own.matrices) for own in case.inventory.tensors if own.name in changed}
    if wanted != seen:
        name = min({*wanted, *seen}, key=lambda own: (wanted.get(own) == seen.get(own), own))
        raise FormatError(f"label.tensors: {name!r:.80} stands there {seen[name]} times, not {wanted.get(name, 0)}")


def _rows(table: object) -> Iterator[MatrixClaim]:
    where, columns, names = "label.tensors", column_names(MatrixClaim), set[Any]()
    for name, *counts in rows_of(with_columns(table, where, columns), where, columns, _MAX_ROWS):
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or name in names:
            raise FormatError(f"label.tensors: {name!r:.80} is no name, or stands there twice")
        names.add(name)
        row = MatrixClaim(name, *counts)
        if not all(type(count) is int and 0 <= count <= _MOST for count in counts) or not (
            row.stray <= row.values and row.off_grid <= row.groups and row.rank <= row.full_rank
        ):
            raise FormatError(f"label.tensors: {name:.80}: expected counts, parts of their wholes")
        yield row


def _words(block: Block, _: Rules) -> Words:
    if not block["evaluated"]:
        return "no claim", "weights are what the label says"
    return "; ".join(block["findings"]) or f"what {block['label']} says", "weights are what the label says"


LABEL_GUARD = Guard(
    name="label",
    judges="whether weights are what the label of an edit made elsewhere says",
    evidence=frozenset({"origin", "tensors"}),
    derive=derive_label,
    gates=(
        Gate(
            "label_holds",
            lambda block: block["holds"] or not block["binding"],
            _words,
            title="label of the edit",
        ),
    ),
    signal=INVARIANTS,
    warnings={"label": lambda block: not block["holds"] and not block["binding"]},
    section="label",
    schema={
        "type": "object",
        "required": ["evaluated", "origin", "tensors", "holds", "findings"],
        "properties": {
            "origin": {"enum": [None, *_ORIGINS]},
            "tensors": {"type": ["object", "null"]},
            "findings": {"type": "array", "items": {"type": "string"}},
        },
        "additionalProperties": True,
    },
    shared=Shared(edited=lambda block: {"what was counted": block["tensors"]}),
)
