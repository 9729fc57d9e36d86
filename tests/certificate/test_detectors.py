"""Detectors: a gate that does not exist, or a fact that is none, is refused before anything is certified."""

from __future__ import annotations

import pytest

from pytest_proofpack.certificate.detectors import require_known_gates
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.suites import EMBEDDED, load_suite
from tests.support.foreign_guard import registered


def naming(flag: str) -> JsonObject:
    detectors = [{"kind": "primary_metric"}, {"kind": "validation_flag", "flag": flag, "expected": False}]
    return {"scenarios": [{"id": "clean"}, {"id": "mine", "requirements": {"detectors_any_of": detectors}}]}


@pytest.mark.parametrize(
    ("flag", "advice"),
    [
        ("primary_metric_acceptabel", "Did you mean 'primary_metric_acceptable'?"),
        ("perplexity", "Did you mean 'primary_metric_acceptable'?"),  # as tables call it
        ("nothing like it", "There are primary_metric_acceptable, "),
        ("hysteresis_applied", "There are primary_metric_acceptable, "),  # false wherever all is well
    ],
)
def test_what_is_no_gate_is_refused(flag: str, advice: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        require_known_gates(naming(flag), "scenarios of suite own")
    assert str(caught.value).startswith(
        f"scenarios of suite own: mine: requirements.detectors_any_of[1].flag: there is no gate {flag!r}. {advice}"
    )


@pytest.mark.parametrize("name", EMBEDDED)
def test_packaged_suites_name_gates_that_there_are(name: str) -> None:
    require_known_gates(load_suite(name).scenarios, name)


def test_gates_of_extensions_count_while_they_are_loaded() -> None:
    require_known_gates(naming("spectral_stable"), "here")
    with registered():
        require_known_gates(naming("largest_weight_ok"), "here")
    with pytest.raises(ConfigurationError, match="no gate 'largest_weight_ok'"):
        require_known_gates(naming("largest_weight_ok"), "here")
