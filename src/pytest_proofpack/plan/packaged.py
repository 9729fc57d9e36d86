"""The scenarios that come with the package, and those that came with its releases, by digest.

A suite's name says nothing of what it holds: anybody may call theirs ``full``.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

from pytest_proofpack import __version__
from pytest_proofpack.common.strict_json import JsonObject, read_json, sha256_of
from pytest_proofpack.plan.records import Category
from pytest_proofpack.plan.suites import EMBEDDED, suites_directory

RELEASED = {"cff769b01e2e82d9d89c4a352b2d6870fd189698d3e8c09e6bec4f9e7abcebe7": "0.1.0"}
"""Digest of the packaged scenarios to the release that they came with."""
_OWN = {"smollm2": "smollm2_scenarios.json"}
"""Packaged suites with scenarios of their own; all others have the same ones."""


@cache
def packaged_digest(suite: str = "") -> str:
    """Return the digest of the scenarios that come with this version, of a packaged suite or of most of them."""
    return sha256_of(read_json(suites_directory() / _OWN.get(suite, "scenarios.json")))


def scenarios_digest(document: JsonObject) -> str:
    """Return the digest of a run's scenarios, without the plan that says how often they run.

    Raises:
        FormatError: it holds an integer that the canonical form has no room for.
    """
    return sha256_of({key: value for key, value in document.items() if key != "plan"})


def provenance(suite: str, digest: str, categories: Collection[str] = ()) -> str:
    """Say whose scenarios these are; loudly, if a suite that is called like a packaged one has others.

    Args:
        suite: its name.
        digest: that of its scenarios.
        categories: what they are for. Checkpoints edited elsewhere are nobody's to package, so it is not said of them.
    """
    if digest == packaged_digest(suite):
        return f"the packaged ones of version {__version__}"
    if digest in RELEASED:
        return f"the packaged ones of version {RELEASED[digest]}"
    if suite in EMBEDDED:
        return f"NOT the packaged ones of {suite}"
    return "the checkpoints edited elsewhere" if set(categories) == {Category.BYOE} else "not the packaged ones"
