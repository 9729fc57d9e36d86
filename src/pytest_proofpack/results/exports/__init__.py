"""The forms in which a result leaves for other tools, one record each.

A new one is an :class:`Export` in a module here, and a name below.
"""

from __future__ import annotations

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.results.exports.export import Export
from pytest_proofpack.results.exports.lm_eval import LM_EVAL
from pytest_proofpack.results.exports.model_card import EVAL_RESULTS, MODEL_CARD
from pytest_proofpack.results.exports.rows import CSV, JSON

__all__ = ["EXPORTS", "Export"]

BUILTIN: tuple[Export, ...] = (JSON, CSV, LM_EVAL, MODEL_CARD, EVAL_RESULTS)

EXPORTS: Registry[Export] = Registry("export", "pytest_proofpack.results.exports:BUILTIN")
