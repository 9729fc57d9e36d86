"""What options read from the environment, and from which variables. Imports next to nothing, as ``options`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

Environment = Mapping[str, str]
TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off", ""})
MODEL_SLOTS = 8
"""The environment names models by position: ``MODEL_1`` to ``MODEL_8``."""


class FromEnvironment(NamedTuple):
    """What an option reads from the environment.

    Attributes:
        names: of the variables that it looks at, for people.
        read: returns the value that they give, or None.
        used: returns the names of those variables that the value comes from; of those that only describe a run, none.
    """

    names: tuple[str, ...]
    read: Callable[[Environment], str | None]
    used: Callable[[Environment], list[str]] = lambda _: []

    def __call__(self, environment: Environment) -> str | None:
        """Return the value that the environment gives, or None."""
        return self.read(environment)


def first_of(*names: str) -> FromEnvironment:
    """Return a reader of the first of these variables that is set and not empty."""

    def used(environment: Environment) -> list[str]:
        return _set(names, environment)[:1]

    return FromEnvironment(
        names, lambda environment: next((environment[name] for name in used(environment)), None), used
    )


def _set(names: Iterable[str], environment: Environment) -> list[str]:
    """Return those of the variables that are set and not empty."""
    return [name for name in names if environment.get(name)]


_RUNS = {"calibration": "DRIFT_CALIBRATION_RUNS", "clean": "CLEAN_EDIT_RUNS", "stress": "STRESS_EDIT_RUNS"}
_ERRORS = "RUN_ERROR_INJECTION"
_RUN_NAMES = (*_RUNS.values(), _ERRORS)
_SIGN = "PACK_GPG_SIGN"


def _read_runs(environment: Environment) -> str | None:
    parts = [f"{kind}:{environment[name]}" for kind, name in _RUNS.items() if environment.get(name)]
    if error := environment.get(_ERRORS):
        known = {**dict.fromkeys(TRUE, "1"), **dict.fromkeys(FALSE, "0")}
        parts.append(f"error:{known.get(error.strip().lower(), error)}")
    return ",".join(parts) or None


def _read_models(environment: Environment) -> str | None:
    """Return the slots that ``MODEL_1`` to ``MODEL_8`` name, one ``MODEL_n=VALUE`` a line; an empty one is one too."""
    return "\n".join(f"{slot}={environment[slot].strip()}" for slot in _slots(environment)) or None


def _slots(environment: Environment) -> list[str]:
    slots = (f"MODEL_{number}" for number in range(1, MODEL_SLOTS + 1))
    return [slot for slot in slots if slot in environment]


def _ci_facts(environment: Environment) -> str | None:
    from pytest_proofpack.config.ci_facts import facts_in

    return facts_in(environment)


def _switches_signing_off(environment: Environment) -> list[str]:
    return [_SIGN] if environment.get(_SIGN) == "0" else []


def _read_sign(environment: Environment) -> str | None:
    return "off" if _switches_signing_off(environment) else None


RUNS = FromEnvironment(_RUN_NAMES, _read_runs, lambda environment: _set(_RUN_NAMES, environment))
MODELS = FromEnvironment((f"MODEL_1 to MODEL_{MODEL_SLOTS}",), _read_models, _slots)
CI = FromEnvironment(("GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL"), _ci_facts)
SIGN = FromEnvironment((f"{_SIGN}=0 for off",), _read_sign, _switches_signing_off)
