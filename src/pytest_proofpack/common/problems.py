"""Several things that are wrong, told at once."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_proofpack.errors import ConfigurationError


def refuse(problems: Sequence[str], advice: str) -> None:
    """Raise one error over all problems, one a line; nothing happens if there are none.

    Raises:
        ConfigurationError: with every problem, and what to do about them at the end.
    """
    if len(problems) == 1:
        raise ConfigurationError(f"{problems[0]}. {advice}".strip())
    if problems:
        lines = "\n  ".join(problems)
        raise ConfigurationError(f"{len(problems)} things are in the way:\n  {lines}\n{advice}".strip())
