"""What a guard is: one record, from which judge, policy, schema, reports, repeats and documentation read all they need.

A certificate is judged by criteria. Most are guards, which bring a block of evidence of their own; the paired metric,
its tail and its drift (:mod:`pytest_proofpack.certificate.metric`) are read off the evaluation windows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.inventory import Inventory

Words = tuple[str, str]
"""What was measured, and what was demanded, for people."""
Block = Mapping[str, Any]
Rules = Mapping[str, Any]

NAMES_SHOWN = 8
"""How many names a list in a guard's block holds; the count beside it is always exact."""

LOADED_SOURCES = ("byoe", "tool")
"""Sources of edits that leave a checkpoint of its own: somebody else's, or a tool's that the run has called."""

_NAME = re.compile("[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True)
class Signal:
    """A way of seeing an edit that does not depend on the other ways; several gates may speak for one.

    Attributes:
        name: as in ``outcome.signals``.
        letter: one capital, for the verdict's table.
        legend: what it looks at, for the line below that table.
    """

    name: str
    letter: str
    legend: str


METRIC = Signal("metric", "M", "metric")
SPECTRAL = Signal("spectral", "S", "spectral")
RMT = Signal("rmt", "R", "rmt and variance")
INVARIANTS = Signal("invariants", "I", "invariants")
DISTRIBUTION = Signal("distribution", "D", "distribution")
DIRECTION = Signal("direction", "W", "direction of weights")
ANSWERS = Signal("answers", "A", "answers of sublayers")
SIGNALS = (METRIC, SPECTRAL, RMT, INVARIANTS, DISTRIBUTION, DIRECTION, ANSWERS)
"""The package's own signals, in the order in which they are shown."""


@dataclass(frozen=True)
class EvaluatedWindows:
    """One side, ``preview`` or ``final``, of a certificate's windows.

    Attributes:
        ids: hashes of the windows' tokens, shape (windows,).
        counts: scored tokens per window, shape (windows,).
        subject, baseline: mean negative log-likelihood per window in nats per token, shape (windows,); those that were
            not finite are NaN.
    """

    ids: list[str]
    counts: list[int]
    subject: list[float]
    baseline: list[float]


@dataclass(frozen=True)
class Case:
    """What a guard may look at besides its own evidence.

    Attributes:
        preview, final: the certificate's windows.
        sha256: the digest of a JSON value, in the certificate's format.
        inventory: the structure's own list of what there is to be judged; None in certificates of format 1.
        changed: names of the parameters that the edit changed.
        edit: the block ``provenance.edit``: what the edit is called, and where it was made.
        compared: of a subject that was loaded, the table of its tensors in ``structure.changes``; else None.
        text: how large the whole text is, ``dataset.hash``: ``total_tokens``, ``total_bytes``.
        vocabulary: sizes of the baseline's, by place: ``invariants.baseline.vocabulary``.
        blocks: all blocks of the certificate, for guards that look at one another's evidence. Nothing in them has been
            checked.
        rules: the whole policy.
        function_changed: in what the model differs from its baseline as a function, empty where the edit kept it; None
            in certificates of format 1. See :mod:`pytest_proofpack.guards.answers`.
    """

    preview: EvaluatedWindows
    final: EvaluatedWindows
    sha256: Callable[[object], str] = sha256_of
    inventory: Inventory | None = None
    changed: frozenset[str] = frozenset()
    edit: Mapping[str, Any] = field(default_factory=dict)
    compared: Mapping[str, Any] | None = None
    text: Block = field(default_factory=dict)
    vocabulary: Mapping[str, int] = field(default_factory=dict)
    blocks: Block = field(default_factory=dict)
    rules: Rules = field(default_factory=dict)
    function_changed: tuple[str, ...] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the subject was a checkpoint of its own, made elsewhere or by a tool, and not edited in memory."""
        return self.edit.get("source") in LOADED_SOURCES

    @property
    def explained_down_to(self) -> float | None:
        """Where the edit kept the model's function, so that weights may read differently, the least quotient.

        Subject over baseline: below it something vanished, which nothing explains. None where the function changed.
        """
        return float(self.rules["answers"]["kept_ratio_min"]) if self.function_changed == () else None


@dataclass(frozen=True)
class Gate:
    """A validation flag that has to be true for a certificate to pass.

    Attributes:
        flag: its name under ``validation``.
        holds: reads it off the derived block.
        words: what was measured and demanded, from the block and its section of the policy; None where the block speaks
            for itself.
        title: what it looks at, in a few words for people, which may follow "of"; by default its flag without "_".
        used: from the block and its section of the policy, how much of what is allowed was used: 0 where nothing
            changed, 1 at the limit, None where that is no question of more or less. By default the criterion's strain.
        applies: tells from the block whether there was anything to judge.
    """

    flag: str
    holds: Callable[[Block], bool]
    words: Callable[[Block, Rules], Words] | None = None
    title: str = ""
    used: Callable[[Block, Rules], float | None] | None = None
    applies: Callable[[Block], bool] = field(default=lambda block: bool(block.get("evaluated", True)))

    def __post_init__(self) -> None:
        """Let the title be the flag in words where none is given."""
        object.__setattr__(self, "title", self.title or self.flag.replace("_", " "))


def share_below_one(value: float | None, limit: float) -> float | None:
    """Return what a number that is 1 where nothing changed takes of the room down to ``limit``."""
    return None if value is None else max(0.0, (1.0 - value) / (1.0 - limit))


@dataclass(frozen=True, kw_only=True)
class Criterion:
    """Something that a certificate is judged by.

    Attributes:
        name: unique.
        judges: what it judges, in a few words that follow "judges".
        block: the block of the certificate that it is read off; by default its name.
        gates: what has to hold.
        facts: further validation flags by name, which gate nothing.
        signal: the independent signal that its gates speak for; None if they speak for none.
        warnings: what it may raise under ``outcome.warnings``, and when.
        section: its section of the policy; None if it has no thresholds.
        tightens: by threshold, the direction in which a value is stricter: ``"max"`` may be lower, ``"min"`` higher.
            Every other value of the section must be the tier's.
        followed: numbers of the block whose drift between repeats is followed, as paths.
        strain: from the block and its section of the policy, how near the windows brought it to its limit: 0 where
            nothing changed, 1 at the limit, infinite where nothing can be said. For tuning, which keeps a distance from
            limits. None if its gates do not depend on which windows were drawn.
    """

    name: str
    judges: str
    block: str = ""
    gates: tuple[Gate, ...]
    facts: Mapping[str, Callable[[Block], bool]] = field(default_factory=dict)
    signal: Signal | None = None
    warnings: Mapping[str, Callable[[Block], bool]] = field(default_factory=dict)
    section: str | None = None
    tightens: Mapping[str, str] = field(default_factory=dict)
    followed: tuple[str, ...] = ()
    strain: Callable[[Block, Rules], float] | None = None

    def __post_init__(self) -> None:
        """Let the block have the criterion's name where none is given."""
        object.__setattr__(self, "block", self.block or self.name)

    def flags(self, block: Block) -> dict[str, bool]:
        """Read every flag, gates first, off the derived block."""
        return {
            **{gate.flag: bool(gate.holds(block)) for gate in self.gates},
            **{name: bool(holds(block)) for name, holds in self.facts.items()},
        }

    def raised(self, block: Block) -> list[str]:
        """Return the names of the warnings that the derived block raises."""
        return [name for name, is_raised in self.warnings.items() if is_raised(block)]


Facts = Callable[[Block], Mapping[str, object]]


def _nothing(_block: Block) -> Mapping[str, object]:
    return {}


@dataclass(frozen=True)
class Shared:
    """What a guard's evidence says of things that other certificates of a pack speak of too, so they have to agree.

    Each function picks facts out of the block, by names for people: values, or lists and objects of them.

    Attributes:
        model: of the unedited model, whatever the windows.
        sample: of the unedited model on one draw of windows.
        edited: of the edited weights, whatever the windows: equal in all runs of a scenario.
    """

    model: Facts = _nothing
    sample: Facts = _nothing
    edited: Facts = _nothing


@dataclass(frozen=True)
class MeasureContext:
    """What a guard of an extension measures: one of the two models. Typed loosely, because guards know no torch.

    An edit is applied to the baseline's own weights, so the two models need not be there at the same time: a guard
    measures each of them by itself, and compares in ``derive``.

    Attributes:
        model: the model, a ``transformers`` ``PreTrainedModel`` in evaluation mode; it must be left as it is.
        is_baseline: whether it is the unedited one.
        layout: which of its modules and parameters are what, a :class:`pytest_proofpack.models.layout.ModelLayout`.
        windows: the tokens, a :class:`pytest_proofpack.text.windows.DrawnWindows`: ``preview`` and ``final``, shape
            (windows, tokens).
        request: what is certified, a :class:`pytest_proofpack.plan.records.CertificateRequest`; None while the
            unedited model is measured, once for all certificates on the same windows.
        policy: the guard's thresholds.
    """

    model: Any
    is_baseline: bool
    layout: Any
    windows: Any
    request: Any
    policy: JsonObject


@dataclass(frozen=True, kw_only=True)
class Guard(Criterion):
    """A criterion with evidence of its own.

    Attributes:
        evidence: keys of the block that hold evidence; every other key is derived. Empty for a guard that judges what
            others measured.
        derive: evidence, section of the policy ({} without one) and windows -> the derived keys. Raises FormatError for
            evidence that is not what is measured, or contradicts itself.
        schema: JSON Schema of the block, checked before ``derive`` sees it.
        contract: from the guard's section of the policy, how its numbers are measured; becomes the section's
            ``measurement_contract``.
        shared: what other certificates of a pack have to agree with.
        null_numbers: numbers of the block that a calibration preset records of its null runs, by their name there.
        thresholds: of a guard of an extension, its section of the policy.
        measure: of a guard of an extension, what it reads off one model: a JSON object. Its evidence is the pair
            ``{"baseline": ..., "subject": ...}``. The package's own guards are measured by the engine.
    """

    evidence: frozenset[str] = frozenset({"baseline", "subject"})
    derive: Callable[[Block, Rules, Case], JsonObject]
    schema: JsonObject = field(
        default_factory=lambda: {
            "type": "object",
            "required": ["evaluated"],
            "properties": {"evaluated": {"type": "boolean"}},
            "additionalProperties": True,
        }
    )
    contract: Callable[[Rules], JsonObject] | None = None
    shared: Shared = Shared()
    null_numbers: Mapping[str, str] = field(default_factory=dict)
    thresholds: JsonObject = field(default_factory=dict)
    measure: Callable[[MeasureContext], JsonObject] | None = None


class GuardRegistry(Registry[Guard]):
    """The guards: the package's own, whose blocks stand in every certificate, and those of extensions."""

    @property
    def builtin(self) -> Mapping[str, Guard]:
        """The package's own."""
        added = self.added
        return {name: guard for name, guard in self.items() if name not in added}

    def register(self, record: Guard) -> None:
        """Add a guard of an extension.

        Raises:
            ConfigurationError: its name, or that of a gate, is taken or no name, or it measures nothing.
        """
        where = f"guard {record.name!r}"
        if record.measure is None:
            raise ConfigurationError(f"{where} has no measure(context), so nothing would be judged.")
        if record.facts:
            raise ConfigurationError(f"{where}: flags that gate nothing are for the package's own guards.")
        flags = flags_of(record)
        for name in (record.name, *flags, *record.warnings):
            if not _NAME.fullmatch(name):
                raise ConfigurationError(f"{where}: {name!r} is no name; use small letters, digits and underscores.")
        taken = {*RESERVED_FLAGS, *(flag for guard in self.values() for flag in flags_of(guard))}
        if twice := [flag for flag in flags if flag in taken or flags.count(flag) > 1]:
            raise ConfigurationError(f"{where}: the flag {twice[0]!r} is taken; give yours another name.")
        super().register(record)


RESERVED_FLAGS = (
    "primary_metric_acceptable",
    "primary_metric_tail_acceptable",
    "preview_final_drift_acceptable",
    "hysteresis_applied",
)
"""The flags of the metric's criteria, which no guard may use."""


def flags_of(criterion: Criterion) -> Sequence[str]:
    """Return the names of a criterion's flags, gates first."""
    return [*(gate.flag for gate in criterion.gates), *criterion.facts]
