"""Facts of a run that its maker states: given by hand, or taken from a CI's variables, by a fixed list of names.

No variable outside of the list is looked at, so no secret gets into a pack by itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MAX_FACTS = 40
NONE = "none"
"""``--proofpack-meta=none``: nothing of the CI's."""
_KEY = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_MAX_VALUE = 400
Environment = Mapping[str, str]

_GITHUB: Mapping[str, Callable[[Environment], str]] = {
    "commit": lambda env: env["GITHUB_SHA"],
    "repository": lambda env: f"{env['GITHUB_SERVER_URL']}/{env['GITHUB_REPOSITORY']}",
    "ref": lambda env: env["GITHUB_REF"],
    "workflow": lambda env: env["GITHUB_WORKFLOW"],
    "run_url": lambda env: f"{env['GITHUB_SERVER_URL']}/{env['GITHUB_REPOSITORY']}/actions/runs/{env['GITHUB_RUN_ID']}",
    "run_attempt": lambda env: env["GITHUB_RUN_ATTEMPT"],
}
_GITLAB: Mapping[str, Callable[[Environment], str]] = {
    "commit": lambda env: env["CI_COMMIT_SHA"],
    "repository": lambda env: env["CI_PROJECT_URL"],
    "ref": lambda env: env["CI_COMMIT_REF_NAME"],
    "workflow": lambda env: env["CI_JOB_NAME"],
    "run_url": lambda env: env["CI_JOB_URL"],
}
_JENKINS: Mapping[str, Callable[[Environment], str]] = {
    "commit": lambda env: env["GIT_COMMIT"],
    "workflow": lambda env: env["JOB_NAME"],
    "run_url": lambda env: env["BUILD_URL"],
}
_SYSTEMS = (("GITHUB_ACTIONS", _GITHUB), ("GITLAB_CI", _GITLAB), ("JENKINS_URL", _JENKINS))
"""The variable by which a job knows where it runs, and what it is asked then."""


def facts_in(environment: Environment) -> str | None:
    """Return the facts that the CI states, ``KEY=VALUE``, one a line; None outside of a CI that is known.

    What is missing, too long, not printable or an address with credentials in it is left out.
    """
    for variable, facts in _SYSTEMS:
        if environment.get(variable):
            lines = [f"{key}={value}" for key, read in facts.items() if (value := _value(read, environment))]
            return "\n".join(lines) or None
    return None


def parse_fact(text: str) -> str:
    """Parse ``KEY=VALUE``, or ``none``.

    Raises:
        ValueError: it is neither.
    """
    key, separator, value = text.partition("=")
    if text == NONE:
        return text
    if not (separator and _KEY.fullmatch(key) and _is_value(value)):
        raise ValueError(
            f"{text[:80]!a} is not understood; expected KEY=VALUE: a key of letters, digits and _ . -, and up to "
            f"{_MAX_VALUE} printable characters"
        )
    return text


def facts_of(given: tuple[str, ...]) -> dict[str, str]:
    """Return facts by their keys; of several values the last counts, and ``none`` forgets those before it.

    Raises:
        ValueError: there are too many.
    """
    facts: dict[str, str] = {}
    for text in given:
        if text == NONE:
            facts.clear()
        else:
            key, _, value = text.partition("=")
            facts[key] = value
    if len(facts) > MAX_FACTS:
        raise ValueError(f"{len(facts)} facts are more than the {MAX_FACTS} that a manifest takes")
    return facts


def _value(read: Callable[[Environment], str], environment: Environment) -> str | None:
    try:
        value = read(environment).strip()
    except KeyError:
        return None
    with_credentials = "://" in value and "@" in value.partition("://")[2].partition("/")[0]
    return value if _is_value(value) and not with_credentials else None


def _is_value(value: str) -> bool:
    return 0 < len(value) <= _MAX_VALUE and value.isprintable()
