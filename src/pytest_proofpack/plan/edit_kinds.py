"""The kinds of edits and of faults: one record each, which says everything that anybody needs to know about it.

A record is made in the module of the thing, in :mod:`pytest_proofpack.edits`, or by an extension, and found here by its
name. Whoever only plans or verifies reads parameters and words; what computes is imported when it is applied.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.ladders import Ladder

if TYPE_CHECKING:
    from pytest_proofpack.edits.target import Target
    from pytest_proofpack.models.matrices import MatrixView

NOOP = "noop"
"""The edit that changes nothing."""
UNTOUCHED = 1.3
"""Cost of a certificate for which no weight is computed: measured on a 7B model on one GPU (docs/performance.md)."""
ENTRY_KEYS = frozenset({"status", "reason", "edit_dir_name", "scope"})
"""What an entry of a tuned-parameters file holds besides the edit's parameters."""
_NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")
_KINDS: Mapping[type, tuple[type, ...]] = {int: (int,), float: (int, float), str: (str,)}


@dataclass(frozen=True)
class Parameter:
    """One parameter of an edit, and its rule.

    Attributes:
        name: as certificates and tuned-parameters files call it.
        kind: ``int``, ``float`` or ``str``: how the text in a spec is read. There are no others, so that whoever has
            not got the edit can still compare a certificate's values with a spec.
        expects: what is expected, in words.
        accepts: tells whether a value of that kind can be used.
    """

    name: str
    kind: type[int] | type[float] | type[str]
    expects: str
    accepts: Callable[[Any], bool] = lambda _value: True

    def read(self, text: str) -> int | float | str:
        """Read the value that a spec gives.

        Raises:
            ValueError: it is not of the parameter's kind.
        """
        return self.kind(text)

    def fits(self, value: object) -> bool:
        """Tell whether a value can be used: it is of the kind, finite, and accepted."""
        if isinstance(value, bool) or not isinstance(value, _KINDS[self.kind]):
            return False
        return not (isinstance(value, float) and not math.isfinite(value)) and self.accepts(value)


@dataclass(frozen=True)
class Edit:
    """A kind of edit: it changes weight matrices in place.

    Attributes:
        name: as specs and certificates call it: lower case, digits, ``_``.
        apply: given the matrices in the scope, the parameters by name and a seed, changes the matrices and returns
            facts for the certificate, JSON-able. Every matrix has been kept, and is put back by whoever calls.
        words: what it does, in a few words, for reports and documentation.
        parameters: in the order in which a spec gives them.
        cost: time of a certificate over that of the bare forward pass: a guess, corrected by the first one made.
        told_by: words that tell it where they stand in the name of a model that was edited elsewhere.
        clean: the entry that the packaged tuned-parameters file has for models that it does not name: ``status``,
            ``scope`` and parameters, or why there is none. None if everybody has to tune it.
        possible: tells, given what ``apply`` returned and the parameters, whether the one can come of the other; who
            verifies asks it. Facts that lack a key, or hold something else than ``apply`` returns, may raise
            LookupError, TypeError or ValueError.
        scoped: whether specs name a scope and there are matrices to change; only ``noop`` has none.
        ladder: its parameters from the gentlest to the strongest, so that ``--proofpack-mode=tune`` can find those
            that a model bears. None if it cannot be tuned.
        phrase: ``words`` as a noun with its parameters in braces, ``{bits}-bit rounding``; a sentence goes on with the
            scope. Empty where ``words`` has to do.

    Raises:
        ConfigurationError: name, parameters or cost cannot be used.
    """

    name: str
    apply: Callable[[list[MatrixView], Mapping[str, Any], int], dict[str, Any]]
    words: str
    parameters: tuple[Parameter, ...] = ()
    cost: float = 2.0
    told_by: frozenset[str] = frozenset()
    clean: Mapping[str, Any] | None = field(default=None, hash=False)
    scoped: bool = True
    ladder: Ladder | None = field(default=None, hash=False)
    possible: Callable[[Mapping[str, Any], Mapping[str, Any]], bool] = field(
        default=lambda _facts, _parameters: True, hash=False
    )
    phrase: str = ""

    def __post_init__(self) -> None:
        _check("edit", self.name, self.cost)
        names = [parameter.name for parameter in self.parameters]
        wrong = [name for name in names if name in ENTRY_KEYS or names.count(name) > 1 or not _NAME.fullmatch(name)]
        if wrong:
            raise ConfigurationError(
                f"edit {self.name!r}: the parameter {wrong[0]!r} stands there twice, is called like a key of the "
                f"tuned-parameters file ({', '.join(sorted(ENTRY_KEYS))}), or is no lower-case name."
            )

    @property
    def form(self) -> str:
        """How a spec of it looks: ``quant_rtn:BITS:GROUP_SIZE:SCOPE``."""
        names = [parameter.name.upper() for parameter in self.parameters]
        return ":".join([self.name, *names, *(["SCOPE"] if self.scoped else [])])


@dataclass(frozen=True)
class Fault:
    """A kind of error injection: it damages a model as a broken edit or a broken file would.

    Attributes:
        name: as scenarios and certificates call it.
        apply: given the model under edit and a seed, damages it and returns facts for the certificate, JSON-able. What
            it touches it keeps first, by the target's methods, and whoever calls puts it back.
        words: what it does, in a few words, for reports and documentation.
        cost: as an edit's.

    Raises:
        ConfigurationError: name or cost cannot be used.
    """

    name: str
    apply: Callable[[Target, int], dict[str, Any]]
    words: str
    cost: float = UNTOUCHED

    def __post_init__(self) -> None:
        _check("fault", self.name, self.cost)


EDITS: Registry[Edit] = Registry("edit", "pytest_proofpack.edits:BUILTIN_EDITS")
"""Every kind of edit by its name."""
FAULTS: Registry[Fault] = Registry("fault", "pytest_proofpack.edits:BUILTIN_FAULTS")
"""Every kind of error injection by its name."""


def words_of(name: str) -> str:
    """Return what an edit or fault does, in words; empty if it is known by its name alone."""
    record = EDITS.get(name) or FAULTS.get(name)
    return record.words if record is not None else ""


def _check(kind: str, name: str, cost: float) -> None:
    if not _NAME.fullmatch(name):
        raise ConfigurationError(
            f"{kind} {name!r}: call it by 1 to 100 lower-case letters, digits and '_', a letter first."
        )
    if kind == "edit" and name == "tool":
        raise ConfigurationError("edit 'tool': specs that begin so are of edits by tools; give yours another name.")
    if not (cost > 0 and math.isfinite(cost)):
        raise ConfigurationError(f"{kind} {name!r}: cost is {cost!r}; expected a number above 0, in forward passes.")
