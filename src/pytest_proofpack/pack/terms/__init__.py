"""What can be demanded of a pack, one record each. A new one is a :class:`Term` in a module here, and a name below."""

from __future__ import annotations

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.pack.terms.age import MAX_AGE, NOT_BEFORE
from pytest_proofpack.pack.terms.directories import BASELINE, SUBJECT
from pytest_proofpack.pack.terms.format import MIN_FORMAT
from pytest_proofpack.pack.terms.models import EXPECT_MODEL
from pytest_proofpack.pack.terms.signature import REQUIRE_SIGNATURE, TRUSTED_KEY, TRUSTED_KEY_FILE
from pytest_proofpack.pack.terms.suite import EXPECT_SUITE
from pytest_proofpack.pack.terms.term import Judgement, Stated, Term
from pytest_proofpack.pack.terms.text import EXPECT_TEXT
from pytest_proofpack.pack.terms.tier import MIN_TIER
from pytest_proofpack.pack.terms.verdict import REQUIRE_VERDICT

__all__ = ["TERMS", "Judgement", "Stated", "Term"]

BUILTIN: tuple[Term, ...] = (
    TRUSTED_KEY,
    TRUSTED_KEY_FILE,
    REQUIRE_SIGNATURE,
    REQUIRE_VERDICT,
    EXPECT_SUITE,
    EXPECT_MODEL,
    MIN_TIER,
    MIN_FORMAT,
    EXPECT_TEXT,
    MAX_AGE,
    NOT_BEFORE,
    SUBJECT,
    BASELINE,
)

TERMS: Registry[Term] = Registry("demand", "pytest_proofpack.pack.terms:BUILTIN")
