"""What tuning reads off certificates: how near every limit is, by each criterion's own account."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.reading import reading_of
from pytest_proofpack.common.strict_json import JsonObject
from tests.support.certificates import make_evidence, make_plan
from tests.support.foreign_guard import LARGEST_WEIGHT, NEAR, registered


def certificate(scenario: str = "quant_4bit_clean", shift: float | None = None, **changes: object) -> JsonObject:
    _, plan = make_plan()
    request = next(request for request in plan.requests if request.scenario.id == scenario)
    return build_certificate(replace(make_evidence(request, shift=shift), **changes))  # type: ignore[arg-type]


def test_no_change_is_no_strain() -> None:
    reading = reading_of(certificate("calibration"))
    assert reading.failed_gates == ()
    assert reading.ratio == 1.0
    assert reading.strains["primary_metric"] == reading.strains["drift"] == 0.0


def test_the_upper_end_of_the_interval_counts() -> None:
    made = certificate(shift=0.04)
    reading = reading_of(made)
    assert reading.interval == tuple(made["primary_metric"]["display_ci"])
    assert reading.strains["primary_metric"] == pytest.approx((reading.interval[1] - 1.0) / 0.1)
    assert reading.strains["distribution"] == pytest.approx(made["distribution"]["kl_mean"] / 0.2)
    assert reading.kl_mean == made["distribution"]["kl_mean"]


@pytest.mark.parametrize("shift", [0.0, 0.04, 0.08, 0.12, 1.0])
def test_a_gate_fails_just_where_its_strain_passes_one(shift: float) -> None:
    made = certificate(shift=shift)
    limit = {"primary_metric": 1.02}  # the hysteresis, 0.002 of 0.1
    for criterion in criteria():
        if criterion.strain is not None and criterion.name != "primary_metric_tail":  # a warning in this tier
            holds = all(made["validation"][gate.flag] for gate in criterion.gates)
            strain = reading_of(made).strains[criterion.name]
            assert holds == (strain <= limit.get(criterion.name, 1.0)), criterion.name


def test_a_tail_that_only_warns_is_no_strain() -> None:
    made = certificate(shift=0.2)
    assert "primary_metric_tail" in made["outcome"]["warnings"]
    assert reading_of(made).strains["primary_metric_tail"] == 0.0
    strict = copy.deepcopy(made)
    strict["resolved_policy"]["primary_metric_tail"]["mode"] = "fail"
    assert reading_of(strict).strains["primary_metric_tail"] > 0.85


def test_what_cannot_be_said_is_infinite() -> None:
    evidence = certificate("nan_injection", shift=math.nan)
    reading = reading_of(evidence)
    assert reading.ratio is None
    assert reading.interval is None
    assert reading.strains["primary_metric"] == reading.strains["drift"] == math.inf
    assert not reading.holds


def test_a_guard_of_an_extension_keeps_its_distance_too() -> None:
    with registered(replace(LARGEST_WEIGHT, strain=lambda block, rules: (block["ratio"] - 1.0) / rules["ratio_max"])):
        reading = reading_of(certificate(foreign={"largest_weight": NEAR}))
    assert reading.strains["largest_weight"] == 0.25
    with registered():
        assert "largest_weight" not in reading_of(certificate(foreign={"largest_weight": NEAR})).strains
