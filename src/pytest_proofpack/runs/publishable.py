"""Whether what a maker states in the manifest of a pack may be there: it is for others."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_proofpack.config.ci_facts import facts_of
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.journal import without_secrets

_SECRET_LENGTH = 16
"""Shorter values may well stand in an address by chance."""


def require_publishable(settings: Settings, environment: Mapping[str, str]) -> None:
    """Make sure that the facts for the manifest fit it, and that none is a secret.

    Raises:
        ConfigurationError: there are too many, or one holds the value of a variable that is called like a secret.
    """
    try:
        facts = facts_of(settings.meta)
    except ValueError as error:
        raise ConfigurationError(f"--proofpack-meta: {error}") from error
    secrets = {name: value for name, value in environment.items() if len(value) >= _SECRET_LENGTH}
    for key, value in facts.items():
        if without_secrets(value, secrets) != value:
            raise ConfigurationError(
                f"--proofpack-meta={key}=...: holds the value of a variable that is called like a secret, and a pack "
                "is for others. Leave it out."
            )
