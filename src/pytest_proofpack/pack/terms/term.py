"""What a term is: one thing that whoever verifies can demand of a pack, beyond that what it claims holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import Verified


_DIGEST = re.compile("[0-9a-fA-F]{64}")


def digest_in(text: str) -> str | None:
    """Return the digest, as certificates write it, if a text has the form of one: no name is then what is meant.

    A name may be anything, and so the digest of what was never seen.
    """
    return text.lower() if _DIGEST.fullmatch(text) else None


@dataclass(frozen=True)
class Judgement:
    """Whether a demand is met, and what was found."""

    met: bool
    why: str


@dataclass(frozen=True)
class Term:
    """One thing that can be demanded.

    Attributes:
        name: as it is written: the option ``--NAME``, the key ``NAME`` of a policy file.
        help: one line for ``--help``.
        metavar: placeholder of the value; None for a switch.
        read: makes of the text what is compared; raises ConfigurationError, or ValueError with what was expected.
        judge: compares it with a verified pack; None if the step ``signature`` does, before anything is parsed.
        repeatable: may be given several times; every one is demanded.
        by_gates: rests on what gates said, so a pack whose format lacks some does not meet it; see ``min-format``.
        whole_number: what is written is one, and stands in a policy file as one.
    """

    name: str
    help: str
    metavar: str | None
    read: Callable[[str], Any]
    judge: Callable[[Any, Verified], Judgement] | None
    repeatable: bool = False
    by_gates: bool = False
    whole_number: bool = False

    @property
    def dest(self) -> str:
        """Its name as an attribute."""
        return self.name.replace("-", "_")


@dataclass(frozen=True)
class Stated:
    """A term as somebody stated it: what was written, and what was read from it."""

    term: Term
    text: str
    value: Any

    @property
    def demand(self) -> str:
        """The demand as one writes it: ``require-verdict=PASS``."""
        return self.term.name if self.term.metavar is None else f"{self.term.name}={self.text}"


@dataclass(frozen=True)
class DemandResult:
    """A demand, and whether it is met. All text is printable."""

    term: str
    demand: str
    met: bool
    why: str

    def to_json(self) -> JsonObject:
        """Return the JSON form."""
        return {"term": self.term, "demand": self.demand, "met": self.met, "why": self.why}
