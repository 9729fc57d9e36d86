"""The edit that is none: whatever is measured after it is what the measurement itself shows."""

from __future__ import annotations

from pytest_proofpack.plan.edit_kinds import NOOP, UNTOUCHED, Edit

NO_EDIT = Edit(
    name=NOOP,
    apply=lambda _views, _parameters, _seed: {},
    words="nothing is changed",
    cost=UNTOUCHED,
    scoped=False,
    possible=lambda facts, _parameters: not facts,
)
