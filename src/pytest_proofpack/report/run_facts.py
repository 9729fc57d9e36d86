"""What a run's page tells of the run as a whole, read off its certificates: tier, text, device, duration, versions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import duration
from pytest_proofpack.report import formatting
from pytest_proofpack.report.own_limits import limits_words


@dataclass(frozen=True)
class Fact:
    """A label, and what all certificates say of it; several where they differ."""

    label: str
    text: str


def run_facts(certificates: Sequence[JsonObject]) -> list[Fact]:
    """Return the facts that certificates of a run share; none of one without certificates."""
    facts = [Fact(label, _said(certificates, say)) for label, say in _SAID.items()]
    return [fact for fact in [*facts, *_times(certificates)] if fact.text]


def _text(certificate: JsonObject) -> str:
    data = certificate["dataset"]
    source = data.get("source", {}).get("dataset")
    return f"{source or data['provider']}, {data['split']}, {data['hash']['total_tokens']:,} tokens"


def _limits(certificate: JsonObject) -> str:
    policy = certificate["resolved_policy"]
    ratio = formatting.limit_percent(policy["primary_metric"]["ratio_limit"])
    divergence = formatting.limit(policy["distribution"]["kl_mean_fail"])
    return f"perplexity at most {ratio} % above the baseline’s, {divergence} nats of KL"


_SAID: dict[str, Callable[[JsonObject], str]] = {
    "Tier": lambda c: str(c["policy_provenance"]["tier"]),
    "Profile": lambda c: str(c["meta"]["profile"]),
    "Limits": _limits,
    "Own limits": limits_words,
    "Text": _text,
    "Device": lambda c: f"{c['meta']['device']}, {c['meta']['dtype']}",
}


def _said(certificates: Iterable[JsonObject], say: Callable[[JsonObject], str]) -> str:
    return "; ".join(filter(None, formatting.unique(say(certificate) for certificate in certificates)))


def _times(certificates: Sequence[JsonObject]) -> list[Fact]:
    """Return what the certificates note down beside their digests: how long they took, with what, and when."""
    volatile = [block for certificate in certificates if isinstance(block := certificate.get("volatile"), dict)]
    seconds = [_sum(block.get("seconds")) for block in volatile]
    times = sorted(block["generated_at"] for block in volatile if isinstance(block.get("generated_at"), str))
    versions = formatting.unique(_versions(block) for block in volatile)
    return [
        Fact("Duration", f"{duration(sum(seconds))} of measuring, all certificates together" if any(seconds) else ""),
        Fact("Made", times[0] if len(set(times)) == 1 else f"from {times[0]} to {times[-1]}" if times else ""),
        Fact("Environment", "; ".join(filter(None, versions))),
    ]


def _versions(block: JsonObject) -> str:
    libraries = block.get("libraries")
    named = {"Python": block.get("python"), **(libraries if isinstance(libraries, dict) else {})}
    return ", ".join(f"{name} {version}" for name, version in named.items() if version)


def _sum(seconds: Any) -> float:
    values = seconds.values() if isinstance(seconds, dict) else ()
    return sum(value for value in map(formatting.finite, values) if value is not None)
