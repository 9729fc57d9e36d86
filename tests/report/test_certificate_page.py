from __future__ import annotations

import html as html_module
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.plan.edit_kinds import words_of
from pytest_proofpack.plan.records import Category
from pytest_proofpack.report import certificate_html
from pytest_proofpack.report.figures import interval_figure, loss_figure
from tests.support.markup import HOSTILE, SHOWN, Page, assert_inert
from tests.support.report_samples import CLEAN, certificate, structure

ERROR = replace(CLEAN, id="missing_tensors", category=Category.ERROR, error_type="missing_tensors", edit_spec=None)


def with_hostile_strings(value: Any) -> Any:
    """Put the hostile string before every string of a JSON value; keep what selects the wording of the page."""
    if isinstance(value, dict):
        return {key: item if key == "category" else with_hostile_strings(item) for key, item in value.items()}
    if isinstance(value, list):
        return [with_hostile_strings(item) for item in value]
    return HOSTILE + value if isinstance(value, str) else value


GATES = [gate.flag for criterion in criteria() for gate in criterion.gates]


def with_more_in_guards(document: JsonObject) -> JsonObject:
    """Add to the guards' blocks what else they might hold."""
    more: JsonObject = {
        "spectral": {
            "evaluated": True,
            "caps_applied": 2,
            "families": {"router": {"count": 12, "max": 3.1234567}, "attn": {"count": 16, "max": 1.5}},
            "violations": [{"name": "up_proj", "statistic": "stable_rank", "ratio": 0.1234567}],
            "matrices": {f"layer.{index}": {"sigma": 1.5, "rows": {"min": 0.25}} for index in range(50)},
            HOSTILE: {HOSTILE: HOSTILE, "deeper": [[1, [2, {HOSTILE: 3}]], None]},
        },
        "rmt": {"evaluated": True, "epsilon_by_family": {"ffn": 0.21}, "epsilon_violations": []},
        "variance": {"evaluated": True, "predictive_gate": {"passed": False, "delta_ci": [-0.00123456, 0.002]}},
        "distribution": {"evaluated": True, "passed": False, "kl_mean": 0.3123456},
    }
    return document | {name: {**document[name], **block} for name, block in more.items()}


def test_hostile_strings_stay_text() -> None:
    damaged = certificate(subject_structure=structure(tensors={}, vocabulary={"config": 7}), scenario=ERROR)
    page = assert_inert(certificate_html(with_hostile_strings(with_more_in_guards(damaged))))
    # Once in title, headline and facts each, and wherever else a string stands.
    assert page.text.count(SHOWN) > 50


def test_hostile_text_is_shown_with_its_control_characters_spelled_out() -> None:
    page = Page(certificate_html(certificate(model="a\u202eb\x1b[31m")))
    assert r"a\u202eb\x1b[31m" in page.text


def test_same_certificate_gives_same_bytes() -> None:
    document = certificate()
    assert certificate_html(document) == certificate_html(document)


def test_headline_numbers_are_the_certificates() -> None:
    document = certificate()
    page = Page(certificate_html(document))
    metric = document["primary_metric"]
    low, high = metric["display_ci"]
    assert "PASSED" in page.text
    assert "FAILED" not in page.text
    assert f"{metric['ratio_vs_baseline']:.4f}" in page.text
    assert f"{low:.4f} to {high:.4f}" in page.text
    assert page.row("primary_metric_acceptable")[1] == "✓passed"
    assert document["certificate_digest"] in page.text


def test_every_failed_gate_is_named_in_the_banner_and_the_table() -> None:
    document = certificate()
    gates = list(GATES)
    flags = dict.fromkeys(GATES, False)
    outcome = {"passed": False, "failed_gates": gates, "warnings": ["primary_metric_tail"]}
    html = certificate_html(document | {"validation": document["validation"] | flags, "outcome": outcome})
    page = Page(html)
    banner = html[html.index("FAILED") : html.index("</section>")]
    for gate in gates:
        assert f"<code>{gate}</code>" in banner
        assert page.row(gate)[1] == "✗failed"
    assert "Warnings: <code>primary_metric_tail</code>" in banner


def test_every_gate_is_shown_with_what_it_measured_and_demanded() -> None:
    page = Page(certificate_html(certificate()))
    for gate in GATES:
        name, state, measured, demanded = page.row(gate)
        assert (name, state) == (gate, "✓passed")
        assert measured
        assert demanded not in {"", "-"}
    assert page.row("label") == ["label", "no label says what the weights look like"]
    assert page.text.count("Not evaluated") == 1


def test_gates_that_were_not_evaluated_are_not_shown_as_passed() -> None:
    document = certificate()
    del document["validation"]["spectral_stable"]
    document["moe"] |= {"evaluated": False, "reason": "nothing to see"}
    page = Page(certificate_html(document))
    assert page.row("spectral_stable")[1] == "○not evaluated"
    assert page.row("moe") == ["moe", "nothing to see"]


def test_a_tail_that_only_warns_is_not_shown_as_plainly_passed() -> None:
    document = certificate(shift=0.05, spread=0.2)
    assert document["outcome"]["warnings"] == ["primary_metric_tail"]
    assert Page(certificate_html(document)).row("primary_metric_tail_acceptable")[1] == "!passed with a warning"


def test_a_ratio_just_above_the_limit_does_not_round_to_it() -> None:
    document = certificate(shift=math.log(1.10001), spread=0.0)
    measured = Page(certificate_html(document)).row("primary_metric_acceptable")[2]
    assert measured.startswith("ratio 1.10001, upper end 1.10001,")


def test_losses_that_are_not_finite() -> None:
    document = certificate(shift=math.nan)
    document["evaluation_windows"]["final"]["logloss"][3:] = document["evaluation_windows"]["final"][
        "baseline_logloss"
    ][3:]
    page = assert_inert(certificate_html(document))
    assert "No ratio." in page.text
    assert "not finite on 100 of 100 preview windows, 3 of 100 final windows" in page.text
    assert page.row("primary_metric_acceptable")[1:3] == ["✗failed", "no ratio: non_finite_loss"]
    assert not [tag for tag, _ in page.elements if tag == "svg"]


def test_violated_invariants_are_listed_with_severity_and_places() -> None:
    kept = dict(list(structure().tensors.items())[1:])
    document = certificate(subject_structure=structure(tensors=kept), scenario=ERROR)
    page = Page(certificate_html(document))
    assert page.row("missing_tensors") == [
        "missing_tensors",
        "✗fatal",
        "1",
        "tensors of the baseline are missing",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert "a failure may be just what is wanted" in page.text


def test_evaluated_guards_are_shown_with_their_numbers() -> None:
    page = Page(certificate_html(with_more_in_guards(certificate())))
    assert page.row("router")[:3] == ["router", "12", "3.123"]
    assert page.row("up_proj") == ["up_proj", "stable_rank", "0.1235"]
    assert page.row("layer.39") == ["layer.39", "1.5", "min 0.25"]
    assert "10 more in the JSON." in page.text
    assert page.row("predictive_gate") == ["predictive_gate", "passed no, delta_ci (-0.001235, 0.002)"]
    assert page.row("kl_mean") == ["kl_mean", "0.3123"]


def with_our_python() -> dict[str, str]:
    """Return an environment in which python3 is the interpreter that has rfc8785."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def test_page_is_checked_by_hand_with_the_commands_it_shows(tmp_path: Path) -> None:
    document = certificate(model="größe/модель")
    (tmp_path / "evaluation.cert.json").write_text(pretty_json(document), encoding="utf-8")
    shown = re.search(r"<pre>\n(.*?)</pre>", certificate_html(document), re.DOTALL)
    assert shown
    script = html_module.unescape(shown[1])
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=with_our_python(), capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [
        document["certificate_digest"],
        f"{document['primary_metric']['ratio_vs_baseline']:.4f}",
    ]


def test_figure_has_one_dot_per_window_in_ascending_order() -> None:
    figure = loss_figure(certificate(shift=0.05, spread=0.1))
    assert figure
    dots = [tuple(map(float, dot.split())) for dot in re.findall(r"M([\d. ]+)h0", figure.points)]
    assert len(dots) == 100
    assert [x for x, _ in dots] == sorted(x for x, _ in dots)
    assert [y for _, y in dots] == sorted((y for _, y in dots), reverse=True)
    assert {level.kind for level in figure.levels} == {"zero", "mean", "limit"}
    limit, zero = (next(float(level.at) for level in figure.levels if level.kind == kind) for kind in ("limit", "zero"))
    above = sum(y < limit for _, y in dots)
    differences = certificate(shift=0.05, spread=0.1)["evaluation_windows"]["final"]
    pairs = zip(differences["logloss"], differences["baseline_logloss"], strict=True)
    assert above == sum(subject - baseline > 0.2 for subject, baseline in pairs) > 0
    assert limit < zero


def test_labels_of_a_figure_never_overlap() -> None:
    for shift in (0.0, 0.19, 0.2, 8.0):
        figure = loss_figure(certificate(shift=shift, spread=0.01))
        assert figure
        labels = sorted(float(level.label_at) for level in figure.levels)
        assert min(b - a for a, b in pairwise(labels)) >= 15
        assert labels[-1] <= figure.bottom


def test_figure_of_very_many_windows_stays_small() -> None:
    document = certificate()
    final = document["evaluation_windows"]["final"]
    for key in ("logloss", "baseline_logloss", "token_counts"):
        final[key] = final[key] * 100
    figure = loss_figure(document)
    assert figure
    assert figure.points.count("M") == 400


@pytest.mark.parametrize("shift", [-2.0, 0.0, 0.1, 250.0])
def test_interval_figure_stays_inside_its_box(shift: float) -> None:
    figure = interval_figure(certificate(shift=shift, spread=0.02))
    assert figure
    places = [float(at) for at in (figure.unchanged, figure.limit.at, figure.low, figure.ratio, figure.high)]
    assert 0 < min(places) < max(places) < figure.width
    assert places[2] <= places[3] <= places[4]


def test_what_an_edit_does_is_said_unless_it_is_only_a_label() -> None:
    words = words_of("quant_rtn")
    document = certificate()
    assert f"<dd>quant_rtn: {words}</dd>" in certificate_html(document)
    document["provenance"]["edit"]["source"] = "byoe"
    assert "<dd>quant_rtn</dd>" in certificate_html(document)
    document["edit_name"] = document["provenance"]["edit"]["type"] = "of_an_extension"
    del document["provenance"]["edit"]["source"]
    assert "<dd>of_an_extension</dd>" in certificate_html(document)
