"""Measure where the weights of a subject point, compared with its baseline's: whole matrices, their rows and columns.

Exact, over one pass of both, in slabs of rows; only what was changed is looked at. Embedding and head are looked at row
by row besides: how far each token's row moved, and whether it became the row of another token.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.direction import has_turned
from pytest_proofpack.guards.direction_evidence import (
    MatrixDirection,
    RowQuantiles,
    TableDirection,
    TableRow,
    shortened_token,
)
from pytest_proofpack.measures.changes import Reference, common_rows
from pytest_proofpack.measures.places import Fingerprints, rearranged
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup
from pytest_proofpack.models.matrices import MatrixView, matrices_and_vectors
from pytest_proofpack.models.slabs import row_slabs

_TABLES = (ParameterGroup.EMBED, ParameterGroup.HEAD)
_SIGNIFICANT_DIGITS = 6
_QUERIES_TOGETHER = 32
_SAMPLED_ROWS = 4
_FEWEST_TO_FIT = 32
"""Of rows, for columns to be scaled to fit: of n rows with nothing in common, fitting makes a cosine of 1 / sqrt(n)."""


@dataclass(frozen=True)
class WeightDirections:
    """What was measured.

    Attributes:
        matrices: every changed matrix that could be compared.
        tables: every changed embedding and head among them, row by row.
        not_compared: changed parameters that hold no values to compare: absent, reshaped, packed, replaced.
        rearranged: see :func:`pytest_proofpack.measures.places.rearranged`.
        lost_in_text: by table of tokens, how many lost rows are those of tokens that the text holds.
    """

    matrices: tuple[MatrixDirection, ...] = ()
    tables: tuple[TableDirection, ...] = ()
    not_compared: tuple[str, ...] = ()
    rearranged: Mapping[str, str] = field(default_factory=dict)
    lost_in_text: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sums:
    """Of one matrix: inner products of the two models' rows and columns, and their squared norms; float32."""

    rows: Tensor
    """Shape (4, rows): inner product, baseline's square, subject's square, square of the difference."""
    columns: Tensor
    """Shape (3, columns): the first three of them."""


def measure_direction(
    model: PreTrainedModel,
    layout: ModelLayout,
    reference: Reference,
    changed: Collection[str],
    *,
    rules: JsonObject,
    tokens: Mapping[str, Mapping[int, str]],
    grown: Collection[str] = (),
    in_text: Sequence[int] = (),
) -> WeightDirections:
    """Compare the changed parameters of an edited model with the baseline's.

    Args:
        model: the edited model.
        layout: the BASELINE's.
        reference: gives the baseline's values.
        changed: parameters that may differ; all others are known to be equal.
        rules: the guard's section of the policy.
        tokens: by table, the tokenizer's own text of every row's token.
        grown: tables to which rows were added; those that both have are compared.
        in_text: the tokens that the windows hold, each once.
    """
    ours: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    matrices: list[MatrixDirection] = []
    samples: dict[str, tuple[Tensor, Tensor]] = {}
    prints: dict[str, tuple[Fingerprints, Fingerprints]] = {}
    tables: list[TableDirection] = []
    lost_in_text: dict[str, int] = {}
    skipped: list[str] = []
    wanted = set(changed)
    with torch.inference_mode():
        for name in (name for name in layout.groups if name in wanted):
            base = reference(name) if name in ours and _has_values(ours[name]) else None
            if base is not None and name in grown:
                ours[name] = common_rows(ours[name], base.shape)
            if base is None or base.shape != ours[name].shape or not _has_values(base):
                skipped.append(name)
                continue
            pairs = list(_pairs(model, layout, name, (base, ours[name])))
            found = []
            for view, before in pairs:
                sums = _sums(before, view.tensor)
                found.append(_matrix(view, before, sums, rules))
                if view.group in _TABLES:
                    tables.append(_table(view, before, sums, rules=rules, tokens=tokens.get(name, {})))
                    if name in tokens:
                        rows = _lost(sums.rows, rules)
                        lost_in_text[name] = int(rows[torch.tensor(in_text, dtype=torch.long).to(rows.device)].sum())
            if any(has_turned(own, rules) for own in found):
                samples |= {view.label: (_sample(before), _sample(view.tensor)) for view, before in pairs}
            if any(own.rows_lost or own.columns_lost or own.group in _TABLES for own in found):
                prints |= {
                    view.label: (Fingerprints.of(before), Fingerprints.of(view.tensor)) for view, before in pairs
                }
            matrices += found
        likes = _likes([own.name for own in matrices if has_turned(own, rules)], samples, rules)
    matrices = [replace(own, like=likes.get(own.name)) for own in matrices]
    moved = rearranged(*({name: both[side] for name, both in prints.items()} for side in (0, 1)))
    return WeightDirections(tuple(matrices), tuple(tables), tuple(skipped), moved, lost_in_text)


def _sample(matrix: Tensor) -> Tensor:
    """Return some rows of a matrix as one vector."""
    return matrix.detach()[:: max(1, len(matrix) // _SAMPLED_ROWS)][:_SAMPLED_ROWS].flatten().float()


def _likes(turned: Sequence[str], samples: Mapping[str, tuple[Tensor, Tensor]], rules: JsonObject) -> dict[str, str]:
    """Return, of the matrices that turned, those that became another one of the baseline's, and which."""
    found: dict[str, str] = {}
    for name in turned:
        now = samples[name][1]
        others = [other for other, (base, _) in samples.items() if other != name and base.shape == now.shape]
        if not others:
            continue
        known = torch.stack([samples[other][0].to(now.device) for other in others])
        cosines = (known @ now) / (known.norm(dim=1) * now.norm()).clamp(min=1e-30)
        value, index = cosines.max(dim=0)
        if float(value) >= rules["row_match_min"]:
            found[name] = others[int(index)]
    return found


def _has_values(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_meta and tensor.numel() > 0


def _pairs(
    model: PreTrainedModel, layout: ModelLayout, name: str, both: tuple[Tensor, Tensor]
) -> Iterator[tuple[MatrixView, Tensor]]:
    """Yield the matrices of a parameter, those that the spectral guard sees, with the baseline's."""
    if layout.groups[name] is ParameterGroup.NORM:
        return
    befores, views = (matrices_and_vectors(model, layout, [name], {name: own})[0] for own in both)
    for view, before in zip(views, befores, strict=True):
        yield view, before.tensor


def _sums(base: Tensor, now: Tensor) -> _Sums:
    """Return inner products and squares of rows and columns, reading both matrices once."""
    rows = []
    columns = torch.zeros(3, now.shape[-1], device=now.device)
    for before, after in _slabs(base, now):
        products = torch.stack((before * after, before.square(), after.square()))
        columns += products.sum(dim=1)
        difference = (after - before).square_().sum(dim=1)
        rows.append(torch.cat((products.sum(dim=2), difference[None])))
    return _Sums(torch.cat(rows, dim=1), columns)


def _slabs(base: Tensor, now: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield corresponding rows of two matrices of one shape, in float32 on the second's device."""
    slabs = row_slabs(now)
    for theirs, ours in zip(slabs, torch.split(base.detach(), len(slabs[0])), strict=True):
        after = theirs.float().reshape(-1, now.shape[-1])
        yield ours.to(now.device).float().reshape(after.shape), after


def _matrix(view: MatrixView, base: Tensor, sums: _Sums, rules: JsonObject) -> MatrixDirection:
    inner, before, after = sums.rows[:3].double().sum(dim=1)
    lost = torch.stack([_lost_share(own, rules) for own in (sums.rows, sums.columns)])
    if view.group not in _TABLES and bool((lost > 0).any()):
        lost = _lost_unscaled(base, view.tensor, sums, lost, rules=rules)
    numbers = torch.stack((inner / (before * after).sqrt(), inner / after, *lost)).tolist()
    finite = bool(torch.isfinite(sums.columns).all())
    cosine, kept, rows, columns = (_rounded(value) if finite else None for value in numbers)
    return MatrixDirection(view.label, view.group.value, cosine, kept, rows, columns)


def _lost_unscaled(base: Tensor, now: Tensor, sums: _Sums, lost: Tensor, *, rules: JsonObject) -> Tensor:
    """Return the shares of lost rows and columns, after columns (rows) have been scaled to fit the baseline's best.

    Whoever scales columns, as smoothing of activations does, turns rows and not one column. Too few rows would fit
    anything: then they are lost only if columns are.
    """
    if min(sums.rows.shape[1], sums.columns.shape[1]) < _FEWEST_TO_FIT:
        return torch.where((lost > rules["lost_share_max"]).all(), lost, torch.zeros_like(lost))
    by_row, by_column = (torch.where(own[0] > 0, own[0] / own[2], 1.0) for own in (sums.rows, sums.columns))
    rows, columns, start = torch.zeros_like(sums.rows[:3]), torch.zeros_like(sums.columns), 0
    for before, after in _slabs(base, now):
        part = slice(start, start + len(after))
        fitted, start = after * by_column, part.stop
        rows[:, part] = torch.stack((before * fitted, before.square(), fitted.square())).sum(dim=2)
        fitted = after * by_row[part, None]
        columns += torch.stack((before * fitted, before.square(), fitted.square())).sum(dim=1)
    return torch.stack([_lost_share(own, rules) for own in (rows, columns)])


def _lost_share(sums: Tensor, rules: JsonObject) -> Tensor:
    """Return the share of the baseline's square in rows or columns that point elsewhere."""
    squares = sums[1].double()
    return _lost(sums, rules) @ squares / squares.sum()


def _lost(sums: Tensor, rules: JsonObject) -> Tensor:
    """Return 1 where a row or column points elsewhere, else 0, float64: see :class:`MatrixDirection`."""
    inner, before, after = sums[:3].double()
    least = rules["cosine_min"]
    elsewhere: Tensor = (inner < least * (before * after).sqrt()) & (inner < least * after)
    return elsewhere.double()


def _table(
    view: MatrixView, base: Tensor, sums: _Sums, *, rules: JsonObject, tokens: Mapping[int, str]
) -> TableDirection:
    """Return how the rows of an embedding or head moved."""
    contract = rules["measurement_contract"]
    inner, before, after, difference = sums.rows.double()
    change = (difference / before.clamp(min=1e-60)).sqrt()
    cosine = torch.where((before > 0) & (after > 0), inner / (before * after).sqrt(), 1.0)
    lost = _lost(sums.rows, rules).nonzero().flatten()
    moved = change.nan_to_num(nan=torch.inf).argsort(descending=True, stable=True)[: int((difference > 0).sum())]
    asked = moved[: contract["rows_compared"]]
    like = _likeness((base, view.tensor), asked, moved, rules)
    reversed_rows = cosine <= -rules["row_match_min"]
    counts = torch.stack([(difference > 0).sum(), reversed_rows.sum()]).tolist()
    ordered = change.sort().values
    places = torch.tensor([0.5, 0.9, 0.99, 1.0], dtype=torch.float64).mul(len(ordered) - 1).ceil().long()
    median, q90, q99, largest = (_rounded(value) for value in ordered[places.to(ordered.device)].tolist())
    worst = _worst(moved, like, min(contract["worst_rows"], counts[0]))
    shown = torch.tensor(worst, dtype=torch.long).to(change.device)
    facts = torch.stack((change[shown], cosine[shown])).T.tolist()
    return TableDirection(
        name=view.parameter,
        rows=len(change),
        changed=counts[0],
        lost=len(lost),
        reversed=counts[1],
        compared=len(asked),
        exchanged=len(like),
        longest=_rounded(float((after.max() / before.max()).sqrt())),
        change=RowQuantiles(median, q90, q99, largest),
        worst=tuple(
            _row(row, like.get(row), distance, angle, tokens)
            for row, (distance, angle) in zip(worst, facts, strict=True)
        ),
    )


def _likeness(tables: tuple[Tensor, Tensor], asked: Tensor, moved: Tensor, rules: JsonObject) -> dict[int, int]:
    """Return, of the rows asked about, those that became the row of another one that moved too, and which.

    Rows of rare tokens are often nearly parallel, so an angle alone tells little: the other row has to be much nearer
    than the own one was.

    Args:
        tables: of baseline and subject, shape (rows, columns).
        asked: numbers of rows.
        moved: numbers of all rows that changed, those asked about among them.
        rules: the guard's section of the policy.
    """
    base, now = tables
    found: dict[int, int] = {}
    for some in torch.split(asked, _QUERIES_TOGETHER):
        wanted, own = now[some].float(), base[some.to(base.device)].to(now.device).float()
        least = torch.full((len(some),), torch.inf, device=now.device)
        place = torch.zeros_like(some)
        for candidates in torch.split(moved, max(1, 2**22 // base.shape[1])):
            known = base[candidates.to(base.device)].to(now.device).float()
            squares = wanted.square().sum(dim=1)[:, None] + known.square().sum(dim=1) - 2 * wanted @ known.mT
            value, index = squares.min(dim=1)
            place = torch.where(value < least, candidates[index], place)
            least = torch.minimum(value, least)
        like = base[place.to(base.device)].to(now.device).float()
        near = (wanted - like).norm(dim=1) <= rules["row_distance_max"] * (wanted - own).norm(dim=1)
        hits = near & (place != some) & (cosine_similarity(wanted, like) >= rules["row_match_min"])
        found |= dict(zip(some[hits].tolist(), place[hits].tolist(), strict=True))
    return found


def _worst(moved: Tensor, like: Mapping[int, int], count: int) -> Sequence[int]:
    """Return the rows to be shown: those that were exchanged first, then those that moved most, which come first."""
    first = moved[: count + len(like)].tolist()
    return [*sorted(like), *(row for row in first if row not in like)][:count]


def _row(row: int, like: int | None, change: float, cosine: float, tokens: Mapping[int, str]) -> TableRow:
    return TableRow(row, _text(tokens, row), _rounded(change), _rounded(cosine), like, _text(tokens, like))


def _text(tokens: Mapping[int, str], row: int | None) -> str | None:
    return None if row is None or row not in tokens else shortened_token(tokens[row])


def _rounded(value: float) -> float | None:
    return float(f"{value:.{_SIGNIFICANT_DIGITS}g}") if abs(value) < 1e30 else None
