from __future__ import annotations

import json
import math
from typing import Any

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.kept_text import MOST_CHARACTERS, WORST, kept, worst_windows
from pytest_proofpack.common.strict_json import JsonObject
from tests.support.certificates import make_evidence, make_plan


def certificate() -> JsonObject:
    """A certificate that verifies."""
    request = next(request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean")
    return build_certificate(make_evidence(request))


def with_text(document: JsonObject, *entries: Any) -> list[str]:
    """What is wrong with a certificate that holds these texts."""
    changed = json.loads(json.dumps(document))
    changed["dataset"]["kept_text"] = list(entries)
    return check_certificate(finish_certificate(changed))


def test_the_worst_windows_are_those_without_a_loss_and_then_those_that_lost_most() -> None:
    baseline = [1.0] * 7
    assert worst_windows([1.0, 3.0, None, 2.0, math.nan, 3.0, 1.5], baseline) == [2, 4, 1, 5, 3]
    assert worst_windows([2.0, 1.0], [1.5, 0.0]) == [1, 0]


def test_what_is_kept_is_bounded_and_valid() -> None:
    entries = kept({"a": "short", "b": "x" * 5000, "c": "lone \ud800"})
    assert [entry["window_id"] for entry in entries] == ["a", "b", "c"]
    assert entries[0]["text"] == "short"
    assert len(entries[1]["text"]) == MOST_CHARACTERS
    assert entries[1]["text"].endswith("…")
    assert entries[2]["text"].encode() == b"lone \\ud800"


def test_a_certificate_may_hold_the_text_of_its_worst_windows_and_of_no_others() -> None:
    document = certificate()
    final = document["evaluation_windows"]["final"]
    worst = worst_windows(final["logloss"], final["baseline_logloss"])
    entries = kept({final["window_ids"][index]: f"text {index}" for index in worst})
    assert len(entries) == WORST
    assert with_text(document, *entries) == []
    others = "dataset.kept_text: are not the final windows that lost most"
    for wrong in (entries[::-1], entries[1:], [{**entries[0], "window_id": "0" * 33}, *entries[1:]]):
        assert others in " ".join(with_text(document, *wrong))


@pytest.mark.parametrize("entry", ["text", {"window_id": "a"}, {"window_id": "a", "text": "x" * 2001}, {"text": "x"}])
def test_what_is_no_text_of_a_window_does_not_fit_the_schema(entry: Any) -> None:
    assert with_text(certificate(), entry)
