"""Own limits: thresholds that a user sets in place of a tier's, recorded as overrides and said wherever a tier is.

What may be set are the thresholds that only judge: those that a criterion says may be stricter, and whether the tail
warns or fails. What decides how something is measured stays the tier's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import likeliest, limit, printable, shortened
from pytest_proofpack.errors import ConfigurationError

KEY = "limits"
"""Under which key of a policy's overrides they are recorded."""
MODE = "primary_metric_tail.mode"
MODES = ("warn", "fail")
"""What the tail may do, from loose to strict."""
_MAY_BE_ZERO = frozenset({"primary_metric.hysteresis"})
_LARGEST = 1e9


@dataclass(frozen=True)
class OwnLimit:
    """A threshold of one's own.

    Attributes:
        name: ``section.threshold``.
        value: one's own.
        tiers: that of the tier, under the profile.
        looser: whether it demands less than the tier.
    """

    name: str
    value: float | str
    tiers: float | str
    looser: bool

    @property
    def told(self) -> str:
        """In words: ``primary_metric.ratio_limit 1.3 (1.1)``."""
        return f"{self.name} {_shown(self.value)} ({_shown(self.tiers)})"


def limit_names() -> dict[str, str]:
    """Return what may be set, by name, and the direction in which it is stricter: ``max`` lower, ``min`` higher."""
    judges = (judge for judge in criteria() if judge.section is not None)
    return {f"{judge.section}.{key}": way for judge in judges for key, way in judge.tightens.items()} | {MODE: "mode"}


def read_limits(given: object, thresholds: Mapping[str, Any], source: str) -> JsonObject:
    """Read own limits.

    Args:
        given: by section and threshold, as in a file or in a certificate, which may hold anything.
        thresholds: the tier's.
        source: how messages name where they are from.

    Returns:
        The same, each of the type that the tier's has.

    Raises:
        ConfigurationError: there is no such threshold, or a value makes no sense for it.
    """
    limits: JsonObject = {}
    names = limit_names()
    for name, value in _leaves(given, source):
        if name not in names:
            likely = likeliest(name, names, cutoff=0.4)
            guess = f" Did you mean {likely!r}?" if likely else f" There are: {', '.join(names)}."
            raise ConfigurationError(
                f"{source}: {printable(shortened(name, 80))!r} is no limit that can be set.{guess}"
            )
        section, key = name.split(".")
        limits.setdefault(section, {})[key] = _sensible(value, thresholds[section][key], name, names[name], source)
    return limits


def with_limits(thresholds: JsonObject, limits: Mapping[str, Mapping[str, Any]]) -> JsonObject:
    """Return thresholds with these limits in their place."""
    return {section: {**values, **limits.get(section, {})} for section, values in thresholds.items()}


def own_limits(limits: Mapping[str, Mapping[str, Any]], thresholds: Mapping[str, Any]) -> tuple[OwnLimit, ...]:
    """Return limits that were read, each beside that of other thresholds, a tier's for one."""
    found = []
    for name, way in limit_names().items():  # in one order, whatever that of a file is
        section, key = name.split(".")
        if key in limits.get(section, {}):
            value, tiers = limits[section][key], thresholds[section][key]
            found.append(OwnLimit(name, value, tiers, _is_looser(value, tiers, way)))
    return tuple(found)


def describe(limits: Iterable[OwnLimit], tier: str) -> str:
    """Say what own limits are, looser ones first: what a reader has to know who thinks of a tier."""
    looser = [limit.told for limit in limits if limit.looser]
    others = [limit.told for limit in limits if not limit.looser]
    parts = [f"LOOSER than {tier} in {', '.join(looser)}"] if looser else []
    parts += [f"as strict as {tier} or stricter in {', '.join(others)}"] if others else []
    return f"own, {'; '.join(parts)}"


def _leaves(given: object, source: str) -> Iterator[tuple[str, object]]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{source}: expected a table of sections, such as primary_metric")
    for section, values in given.items():
        if not isinstance(values, Mapping):
            raise ConfigurationError(
                f"{source}: {printable(shortened(str(section), 80))!r}: expected a section's thresholds; a limit is "
                "written section.threshold, such as primary_metric.ratio_limit"
            )
        for key, value in values.items():
            yield f"{section}.{key}", value


def _sensible(value: object, tiers: object, name: str, way: str, source: str) -> float | str:
    if way == "mode":
        if value not in MODES:
            raise ConfigurationError(f"{source}: {name}: expected one of {', '.join(MODES)}")
        return str(value)
    expected, accepts = _sense(tiers, way, name)
    whole = isinstance(tiers, int)
    if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
        raise ConfigurationError(f"{source}: {name}: expected {expected}")
    if not (abs(value) <= _LARGEST and accepts(value)):
        raise ConfigurationError(f"{source}: {name}: {_shown(value)} makes no sense; expected {expected}")
    return value if whole else float(value)


def _sense(tiers: object, way: str, name: str) -> tuple[str, Any]:
    """Return what makes sense for a threshold, in words and as a test, by what the tier has there."""
    if isinstance(tiers, int):
        least = 1 if way == "min" else 0
        return f"a whole number of at least {least}", lambda value: value >= least
    if way == "min":
        return "a number above 0 and below 1", lambda value: 0.0 < value < 1.0
    if isinstance(tiers, float) and tiers > 1.0:
        return "a number above 1", lambda value: value > 1.0
    if name in _MAY_BE_ZERO:
        return "a number of at least 0", lambda value: value >= 0.0
    return "a number above 0", lambda value: value > 0.0


def _is_looser(value: Any, reference: Any, way: str) -> bool:
    if way == "mode":
        return MODES.index(value) < MODES.index(reference)
    return bool(value > reference if way == "max" else value < reference)


def _shown(value: object) -> str:
    return limit(value) if isinstance(value, int | float) and not isinstance(value, bool) else printable(str(value))


def looser_names(limits: Collection[OwnLimit]) -> str:
    """Return the limits that demand less, in words; empty if there are none."""
    return ", ".join(limit.told for limit in limits if limit.looser)
