"""The windows of text that lost most, one by one; with their text where the certificate was asked to keep it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pytest_proofpack.certificate.kept_text import KEY, worst_windows
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.report import formatting


@dataclass(frozen=True)
class WorstWindow:
    """One final window; numbers as text.

    Attributes:
        rank: from 1, the worst.
        window_id: hash of its token ids.
        tokens: scored tokens.
        before, after: loss of baseline and edited model, in nats per token.
        difference: the one less the other.
        divergence: mean KL divergence, in nats per token.
        agreed: share of the tokens whose most likely continuation is the same.
        text: what it says; None if the certificate does not hold it.
    """

    rank: int
    window_id: str
    tokens: int
    before: str
    after: str
    difference: str
    divergence: str
    agreed: str
    text: str | None


def worst(certificate: JsonObject) -> list[WorstWindow]:
    """Return the final windows that lost most, the worst first."""
    final = certificate["evaluation_windows"]["final"]
    texts = {entry["window_id"]: entry["text"] for entry in certificate["dataset"].get(KEY, [])}
    found = worst_windows(final["logloss"], final["baseline_logloss"])
    return [_window(certificate, final, index, rank, texts) for rank, index in enumerate(found, start=1)]


def _window(certificate: JsonObject, final: JsonObject, index: int, rank: int, texts: dict[str, str]) -> WorstWindow:
    tokens, before, after = (final[key][index] for key in ("token_counts", "baseline_logloss", "logloss"))
    divergence, agreed = (_of_window(certificate, key, index) for key in ("kl_mean", "agreed"))
    window = str(final["window_ids"][index])
    return WorstWindow(
        rank,
        window,
        tokens,
        formatting.number(float(before)),
        "not finite" if after is None else formatting.number(float(after)),
        formatting.ABSENT if after is None else formatting.signed(after - before),
        formatting.ABSENT if divergence is None else formatting.number(divergence),
        formatting.ABSENT if agreed is None else f"{formatting.percent(agreed / tokens, 1.0)} %",
        texts.get(window),
    )


def _of_window(certificate: JsonObject, key: str, index: int) -> float | None:
    """Return a number that the guard on distributions has of a window."""
    block: Any = certificate["distribution"].get("final")
    column = block.get(key) if isinstance(block, dict) else None
    return formatting.finite(column[index]) if isinstance(column, list) and index < len(column) else None
