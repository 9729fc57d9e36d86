"""What the parts of the package hand to each other: small frozen records without behaviour of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Category(StrEnum):
    """What a scenario is for."""

    CALIBRATION = "calibration"
    CLEAN = "clean"
    STRESS = "stress"
    ERROR = "error_injection"


class Strictness(StrEnum):
    """What the verdict demands of a scenario's certificates."""

    MUST_PASS = "must_pass"
    MUST_FAIL = "must_fail"
    MUST_DETECT = "must_detect"
    INFORMATIONAL = "informational"


@dataclass(frozen=True)
class EditSpec:
    """One edit, fully resolved: the algorithm, where it acts, and its parameters.

    ``parameters`` holds ``bits`` and ``group_size`` for quant_rtn, ``format`` for fp8_quant, ``sparsity`` for
    magnitude_prune, ``rank`` for lowrank_svd, and is empty for noop.
    """

    type: str
    scope: str
    parameters: Mapping[str, int | float | str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that certificates record and digest."""
        return {"type": self.type, "scope": self.scope, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class Scenario:
    """One entry of ``scenarios.json``.

    Exactly one of ``edit_spec`` (``type:parameters:scope``, see :mod:`pytest_proofpack.scenarios`) and
    ``error_type`` is set.
    """

    id: str
    category: Category
    strictness: Strictness
    edit_spec: str | None = None
    error_type: str | None = None
    detectors: tuple[Mapping[str, Any], ...] = ()
    catastrophic_required: bool = False
    primary_guard: str = "primary_metric"


@dataclass(frozen=True)
class ModelSpec:
    """A model to certify edits of.

    ``path`` is the local directory with config, tokenizer and safetensors; None means that it has to be resolved
    through the hub cache first. ``sha256`` pins files of an embedded model by name.
    """

    id: str
    path: Path | None = None
    revision: str | None = None
    license: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class TextSpec:
    """Where the evaluation text comes from: ``synthetic``, ``local_text`` or ``local_jsonl``."""

    provider: str
    path: Path | None = None
    field: str = "text"
    seed: int = 0
    documents: int = 0
    split: str = "evaluation"


@dataclass(frozen=True)
class WindowPlan:
    """How text is cut: windows of ``seq_len`` tokens, ``preview`` and ``final`` of them, drawn with ``seed`` + run."""

    seq_len: int
    preview: int
    final: int
    seed: int


@dataclass(frozen=True)
class CertificateRequest:
    """One certificate to be made: model x scenario x run, with the edit or the fault that it takes.

    ``id`` is the part of the pytest item's id in brackets; ``folder`` is the certificate's folder below the run
    directory, with forward slashes.
    """

    model: ModelSpec
    scenario: Scenario
    run: int
    id: str
    folder: str
    edit: EditSpec | None = None

    @property
    def edit_name(self) -> str:
        """The label that the certificate carries: the edit's type, or the fault's name."""
        if self.edit is not None:
            return self.edit.type
        return self.scenario.error_type or "noop"


@dataclass(frozen=True)
class WindowLosses:
    """Losses of one model on one draw of windows.

    Attributes:
        ids: one hash of the token ids per window (hexadecimal).
        losses: mean negative log-likelihood per scored token, in nats; may hold NaN or infinities.
        token_counts: scored tokens per window, ``seq_len - 1``.
    """

    ids: tuple[str, ...]
    losses: tuple[float, ...]
    token_counts: tuple[int, ...]


@dataclass(frozen=True)
class Draw:
    """The losses of one model on the preview and the final windows of one draw."""

    preview: WindowLosses
    final: WindowLosses


@dataclass(frozen=True)
class TextFacts:
    """What a certificate records about the text: ``text_sha256`` does not depend on the tokenizer."""

    provider: str
    split: str
    documents: int
    text_sha256: str
    total_tokens: int
    available_windows: int
