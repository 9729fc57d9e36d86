"""What the parts of the package hand to each other: small frozen records without behaviour of their own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar

from pytest_proofpack.plan.installed_files import InstalledFile


class Category(StrEnum):
    """What a scenario is for."""

    CALIBRATION = "calibration"
    CLEAN = "clean"
    STRESS = "stress"
    ERROR = "error_injection"
    BYOE = "byoe"


class Strictness(StrEnum):
    """What the verdict demands of a scenario's certificates."""

    MUST_PASS = "must_pass"
    MUST_FAIL = "must_fail"
    MUST_DETECT = "must_detect"
    INFORMATIONAL = "informational"


@dataclass(frozen=True)
class EditSpec:
    """One edit, fully resolved: the algorithm, where it acts, and its parameters.

    ``parameters`` are those of its kind (:mod:`pytest_proofpack.plan.edit_kinds`); an edit that changes nothing has
    none, and no scope.
    """

    type: str
    scope: str
    parameters: Mapping[str, int | float | str]

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that certificates record and digest."""
        return {"type": self.type, "scope": self.scope, "parameters": dict(self.parameters)}


@dataclass(frozen=True)
class FaultSpec:
    """One error injection, by the name of its kind."""

    type: str

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that certificates record and digest."""
        return {"type": self.type}


@dataclass(frozen=True)
class SubjectEdit:
    """An edit that was made elsewhere ("bring your own edit"), and the checkpoint that it left.

    Attributes:
        label: what the edit is called: ``quant_rtn``, ``custom``, ``noop`` ...
        origin: who says so: ``given`` (the user), ``inferred`` (from the name), ``default``, or ``digest`` (the files
            are the baseline's), or ``files`` (they say it of themselves).
        model_id: the subject's id.
        revision: the subject's revision; None for a local directory.
        digest: the OpenSSF root of the subject's directory; None as long as it has not been read.
    """

    label: str
    origin: str
    model_id: str
    revision: str | None = None
    digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that certificates record and digest."""
        return {"type": self.label, "source": "byoe", "subject": self.model_id, "revision": self.revision}


@dataclass(frozen=True)
class ToolEdit:
    """An edit that a quantization tool makes of the baseline's files when its certificate is made.

    Attributes:
        tool: name of the tool; see :mod:`pytest_proofpack.plan.tool_edits`.
        recipe: the tool's own name of what it does.
        group: how many weights share a scale; None where that is nothing of a group.
        label: what the files that the tool leaves say that their edit is called.
        origin: who says so, as of a :class:`SubjectEdit`.
    """

    tool: str
    recipe: str
    group: int | None
    label: str
    origin: ClassVar[str] = "files"

    def to_json(self) -> dict[str, Any]:
        """Return the JSON form that certificates record and digest."""
        facts = {"tool": self.tool, "recipe": self.recipe, "group": self.group}
        return {"type": self.label, "source": "tool", **facts}


RequestedEdit = EditSpec | FaultSpec | SubjectEdit | ToolEdit
"""What is done to a model: an edit or an error injection in memory, or one that leaves a checkpoint of its own."""


@dataclass(frozen=True)
class Scenario:
    """One entry of ``scenarios.json``.

    Exactly one of ``edit_spec`` (``type:parameters:scope``, see :mod:`pytest_proofpack.plan.edit_specs`),
    ``error_type`` and ``subject`` is set.
    """

    id: str
    category: Category
    strictness: Strictness
    edit_spec: str | None = None
    error_type: str | None = None
    detectors: tuple[Mapping[str, Any], ...] = ()
    subject: SubjectEdit | None = None


@dataclass(frozen=True)
class ModelSpec:
    """A model to certify edits of.

    ``path`` is the local directory with config, tokenizer and safetensors; None means that it has to be resolved
    through the hub cache first, at ``revision``. ``sha256`` pins files of an embedded model by name. ``parameters`` is
    the published number of parameters, for planning before anything is downloaded. ``trust_remote_code`` allows
    transformers to run code that comes with the model. ``installed`` names the file of an installed package that is the
    model, whose place is its path once that has been looked up. ``files`` are those of a snapshot in the hub's cache
    that the model consists of; a local directory is the model with all that it holds.
    """

    id: str
    path: Path | None = None
    revision: str | None = None
    license: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)
    parameters: int | None = None
    trust_remote_code: bool = False
    files: tuple[str, ...] = ()
    installed: InstalledFile | None = None


@dataclass(frozen=True)
class TextSpec:
    """Where the evaluation text comes from.

    ``provider`` is the name of a text source, see :mod:`pytest_proofpack.plan.text_sources`. ``path`` is a local
    text's file, or the directory of a data set's snapshot on this machine; None means that it has to be resolved
    through the hub cache first. ``documents`` is how many the generator makes, or how many rows to draw of a data set,
    with ``seed``; 0 takes all of them. ``options`` are the keys that only the source itself knows.
    """

    provider: str
    path: Path | None = None
    field: str = "text"
    seed: int = 0
    documents: int = 0
    split: str = "evaluation"
    dataset: str | None = None
    config: str | None = None
    revision: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class WindowPlan:
    """How text is cut: windows of ``seq_len`` tokens, ``preview`` and ``final`` of them, drawn with ``seed`` + run."""

    seq_len: int
    preview: int
    final: int
    seed: int


@dataclass(frozen=True)
class CertificateRequest:
    """One certificate to be made: model x scenario x run, with the edit that it takes.

    ``id`` is the part of the pytest item's id in brackets; ``folder`` is the certificate's folder below the run
    directory, with forward slashes. ``subject`` is the edited model where the scenario has one. ``repeat`` counts from
    1 where the certificate is made again, only to be compared; see :mod:`pytest_proofpack.certificate.repeats`.
    """

    model: ModelSpec
    scenario: Scenario
    run: int
    id: str
    folder: str
    edit: RequestedEdit
    subject: ModelSpec | None = None
    repeat: int = 0

    @property
    def loads_its_own(self) -> bool:
        """Whether the edited model is a checkpoint that is loaded beside the model, and not the model itself."""
        return isinstance(self.edit, SubjectEdit | ToolEdit)

    @property
    def edit_name(self) -> str:
        """The label that the certificate carries: the edit's type or label, or the fault's name."""
        name: str = self.edit_facts["type"]
        return name

    @property
    def edit_facts(self) -> dict[str, Any]:
        """What the certificate records about the edit, and digests."""
        return self.edit.to_json()


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

    def joined(self, other: WindowLosses) -> WindowLosses:
        """Return the losses on these windows and then on others."""
        return WindowLosses(self.ids + other.ids, self.losses + other.losses, self.token_counts + other.token_counts)


@dataclass(frozen=True)
class WindowSample:
    """The losses of one model on the preview and the final windows of one draw."""

    preview: WindowLosses
    final: WindowLosses


@dataclass(frozen=True)
class TextFacts:
    """What a certificate records about the text: ``text_sha256`` does not depend on the tokenizer.

    ``source`` says which data set of the hub it is from: ``dataset``, ``config``, ``revision``, ``field``, and
    ``sample`` (``documents``, ``seed``) where only so many rows were drawn. None for other texts. ``options`` are the
    keys of the suite's ``[text]`` that only the text source itself knows.
    """

    provider: str
    split: str
    documents: int
    text_sha256: str
    total_tokens: int
    total_bytes: int
    available_windows: int
    source: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
