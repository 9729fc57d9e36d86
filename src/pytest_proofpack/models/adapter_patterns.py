"""Regular expressions that somebody else wrote, matched without giving them all the time there is.

peft matches ``target_modules`` against the name of every module. An expression that backtracks without end would hang
the session, and Python cannot interrupt one; so they are matched in a process of their own, which can be ended, and
peft is given the names that come out.
"""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping

from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.bounded_process import bounded_answer

PATIENCE = 10.0
"""Seconds. A usual expression takes milliseconds for the names of a model of a hundred layers."""
_SHOWN = 100
_MATCH = """
import re
found = {key: [name for name in given["names"] if re.fullmatch(text, name)] for key, text in given["patterns"].items()}
json.dump(found, sys.stdout)
"""


def matching_names(patterns: Mapping[str, str], names: Collection[str], where: str) -> dict[str, list[str]]:
    """Return, by key, the names that a pattern matches whole, in their order.

    Args:
        patterns: regular expressions by key.
        names: what they are matched against.
        where: how a message names the file that they are from.

    Raises:
        ConfigurationError: one of them is no regular expression, or takes longer than :data:`PATIENCE`.
    """
    if not patterns:
        return {}
    given = {"patterns": dict(patterns), "names": list(names)}
    shown = ", ".join(f"{key} ({printable(repr(text))[:_SHOWN]})" for key, text in patterns.items())
    try:
        found: dict[str, list[str]] = bounded_answer(_MATCH, given, PATIENCE)
    except subprocess.TimeoutExpired:
        problem = f"takes more than {PATIENCE:.0f} seconds to match the names of the baseline's modules"
    except subprocess.CalledProcessError:
        problem = "is no regular expression that can be matched"
    else:
        return found
    raise ConfigurationError(f"{where}: {shown} {problem}. List the names of the modules instead.")
