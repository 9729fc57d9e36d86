from __future__ import annotations

import html as html_module
import json
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
from pytest_proofpack.certificate.kept_text import kept, worst_windows
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.plan.edit_kinds import words_of
from pytest_proofpack.plan.quantization import quantization_words
from pytest_proofpack.plan.records import Category
from pytest_proofpack.report import certificate_html
from pytest_proofpack.report.changes import changed_lines
from pytest_proofpack.report.figures import interval_figure, loss_figure
from pytest_proofpack.report.formatting import sentence_case
from pytest_proofpack.report.gates import LIMIT_AT, gate_rows
from pytest_proofpack.report.sentence import edit_phrase, headline
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


GATES = {gate.flag: gate.title for criterion in criteria() for gate in criterion.gates}
HOME = "../../../../index.html"


def as_subject(document: JsonObject) -> JsonObject:
    """Make a certificate that of a checkpoint from elsewhere, as far as its page is concerned."""
    document = json.loads(json.dumps(document))
    group = {
        "parameters": 5, "changed": 3, "relative_change": 0.0974, "sparsity": 0.133, "sparsity_base": 0.0,
        "distinct": 15, "distinct_base": 32, "bits": 4,
    }  # fmt: skip
    summary = {"parameters": 7, "changed": 3, "removed": 1} | dict.fromkeys(("added", "reshaped", "not_compared"), 0)
    changes = {"tensors": {}, "added": [], "removed": ["model.gone"], "reshaped": []}
    document["structure"] |= {"summary": {**summary, "families": {"ffn": group}}, "changes": changes}
    document["provenance"]["edit"] |= {"source": "byoe", "subject": "org/quantized"}
    document["label"] |= {"origin": "inferred"}
    document["meta"]["inputs"]["weight_bytes"] = {"baseline": 2_000_000, "subject": 500_000}
    return document


def with_kept_text(document: JsonObject) -> JsonObject:
    """Let a certificate hold the text of the windows that lost most."""
    document = json.loads(json.dumps(document))
    final = document["evaluation_windows"]["final"]
    worst = worst_windows(final["logloss"], final["baseline_logloss"])
    ids = [final["window_ids"][index] for index in worst]
    document["dataset"]["kept_text"] = kept({window: f"text of {window}<b>" for window in ids})
    return document


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
    page = assert_inert(certificate_html(with_hostile_strings(with_more_in_guards(damaged)), HOME), home=HOME)
    # Once in title, headline and facts each, and wherever else a string stands.
    assert page.text.count(SHOWN) > 50


def test_a_hostile_subject_and_hostile_text_stay_text() -> None:
    document = with_kept_text(as_subject(certificate()))
    hostile = with_hostile_strings(document)
    hostile["dataset"]["kept_text"] = [
        {"window_id": window, "text": f"first {HOSTILE}\nsecond"}
        for window in hostile["evaluation_windows"]["final"]["window_ids"]
    ]
    page = assert_inert(certificate_html(hostile))
    assert f"first {SHOWN}" in page.text
    assert "second" in page.text


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
    assert page.row("Perplexity")[1] == "✓passed"
    assert document["certificate_digest"] in page.text


def test_every_failed_gate_is_named_in_the_banner_and_the_table() -> None:
    document = certificate()
    flags = dict.fromkeys(GATES, False)
    outcome = {"passed": False, "failed_gates": list(GATES), "warnings": ["primary_metric_tail"]}
    html = certificate_html(document | {"validation": document["validation"] | flags, "outcome": outcome})
    page = Page(html)
    banner = html[html.index("FAILED</p>") : html.index("</section>")]
    for title in GATES.values():
        assert title in banner
        assert page.row(sentence_case(title))[1] == "✗failed"


def test_every_gate_is_shown_with_what_it_measured_and_demanded() -> None:
    page = Page(certificate_html(certificate()))
    nothing_to_judge = {"experts and routers", "label of the edit"}
    for title in GATES.values():
        _, state, _, measured, demanded = page.row(sentence_case(title))
        assert state == ("○not applicable" if title in nothing_to_judge else "✓passed")
        assert measured
        assert demanded not in {"", "-"}
    assert page.text.count("Not evaluated") == 1
    assert "no label says what the weights look like" in page.text


def test_the_margin_of_a_gate_is_drawn_and_said() -> None:
    rows = {row.flag: row for row in gate_rows(certificate(shift=math.log(1.05), spread=0.0))}
    row = rows["primary_metric_acceptable"]
    assert row.used == pytest.approx(0.5, abs=0.01)
    assert row.bar == f"{LIMIT_AT * (row.used or 0):.1f}"
    assert row.margin == "50 % left"
    failed = {row.flag: row for row in gate_rows(certificate(shift=math.log(1.3), spread=0.0))}
    assert failed["primary_metric_acceptable"].margin == "3 times the allowance"
    nan = {row.flag: row for row in gate_rows(certificate(shift=math.nan))}
    assert (nan["primary_metric_acceptable"].bar, nan["primary_metric_acceptable"].margin) == (
        "100.0",
        "beyond any allowance",
    )
    assert rows["moe_identity_ok"].bar is None  # nothing to judge: no allowance either


def test_every_gate_has_a_title_of_its_own() -> None:
    assert len(set(GATES.values())) == len(GATES)
    assert not [title for title in GATES.values() if "_" in title]


def test_gates_that_were_not_evaluated_are_not_shown_as_passed() -> None:
    document = certificate()
    del document["validation"]["spectral_stable"]
    document["moe"] |= {"evaluated": False, "reason": "nothing to see"}
    page = Page(certificate_html(document))
    assert page.row("Spectra of weights")[1] == "○not evaluated"
    assert "nothing to see" in page.text


def test_a_tail_that_only_warns_is_not_shown_as_plainly_passed() -> None:
    document = certificate(shift=0.05, spread=0.2)
    assert document["outcome"]["warnings"] == ["primary_metric_tail"]
    assert Page(certificate_html(document)).row("Worst windows")[1] == "!passed with a warning"


def test_a_ratio_just_above_the_limit_does_not_round_to_it() -> None:
    document = certificate(shift=math.log(1.10001), spread=0.0)
    page = Page(certificate_html(document))
    assert page.row("Perplexity")[3].startswith("ratio 1.10001, upper end 1.10001,")
    assert "0.001 points above it, within the hysteresis" in page.text


def test_losses_that_are_not_finite() -> None:
    document = certificate(shift=math.nan)
    document["evaluation_windows"]["final"]["logloss"][3:] = document["evaluation_windows"]["final"][
        "baseline_logloss"
    ][3:]
    page = assert_inert(certificate_html(document))
    assert "No ratio." in page.text
    assert "not finite on 3 of 100 final windows and 100 of 100 preview windows" in page.text
    assert page.row("Perplexity")[1:4] == ["✗failed", "beyond any allowance", "no ratio: non finite loss"]
    assert [row[3] for row in page.rows if len(row) == 7][1:4] == ["not finite"] * 3  # they lead the worst windows
    assert "window by window" not in page.text
    assert "its interval" not in page.text


def test_violated_invariants_are_listed_with_severity_and_places() -> None:
    kept = dict(list(structure().tensors.items())[1:])
    document = certificate(subject_structure=structure(tensors=kept), scenario=ERROR)
    page = Page(certificate_html(document))
    assert page.row("tensors of the baseline are missing (missing_tensors)")[1:] == [
        "✗fatal",
        "1",
        "model.layers.0.mlp.up_proj.weight",
    ]
    assert "CAUGHT" in page.text
    assert "a failure may be just what is wanted" in page.text


@pytest.mark.parametrize(
    ("strictness", "changes", "word", "last"),
    [
        ("must_pass", {}, "FAILED", None),
        ("must_fail", {}, "CAUGHT", "This damage was meant to be noticed, and was: perplexity, structure."),
        (
            "must_detect",
            {"as_expected": False, "detectors_fired": []},
            "FAILED, not caught",
            "This damage was meant to be noticed and was not caught: "
            "none of the detectors that its scenario lists saw it.",
        ),
        (
            "must_fail",
            {"as_expected": False, "passed": True},
            "FAILED, not caught",
            "This damage was meant to be noticed and was not caught: only perplexity, structure saw it.",
        ),
        ("informational", {}, "INFO, gates fail", "It is here for information, and never part of the verdict."),
        (
            "must_pass",
            {"passed": True},
            "FAILED",
            "It was to be the baseline itself, without any difference, and is not.",
        ),
    ],
)
def test_a_page_has_the_words_of_its_run(strictness: str, changes: JsonObject, word: str, last: str | None) -> None:
    document = certificate(shift=0.4, scenario=ERROR)
    row = {
        "strictness": strictness, "passed": False, "as_expected": strictness != "must_pass",
        "detectors_fired": ["primary_metric.acceptable", "invariants"],
    }  # fmt: skip
    said = headline(document, gate_rows(document), {**row, **changes})
    assert (said.word, said.sign) == (word, {"FAILED": "bad", "CAUGHT": "good", "INFO": ""}[word.partition(",")[0]])
    assert said.sentences[3:] == (() if last is None else (last,))
    assert said.word in Page(certificate_html(document, None, {**row, **changes})).text


def test_evaluated_guards_are_shown_with_their_numbers() -> None:
    page = Page(certificate_html(with_more_in_guards(certificate())))
    assert page.row("router")[:3] == ["router", "12", "3.123"]
    assert page.row("up_proj") == ["up_proj", "stable_rank", "0.1235"]
    assert page.row("layer.39") == ["layer.39", "1.5", "min 0.25"]
    assert "10 more in the JSON." in page.text
    assert page.term("predictive_gate") == "passed no, delta_ci (-0.001235, 0.002)"
    assert page.term("kl_mean") == "0.3123"


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
        assert labels[-1] <= figure.frame.bottom


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
    document = certificate()
    page = Page(certificate_html(document))
    assert page.term("Edit") == "rounding to 4 bits in groups of 32, in the feed-forward layers"
    assert page.term("Method") == f"quant_rtn: {words_of('quant_rtn')}"
    page = Page(certificate_html(as_subject(document)))
    assert page.term("Called") == "quant_rtn (as the name suggests)"
    assert words_of("quant_rtn") not in page.text
    assert page.term("Files say") == "3 of 7 parameters changed, about 4 bits, 1 missing"
    assert page.term("Feed-forward") == (
        "3 of 5 parameters changed, by 9.7 % of their norm, about 4 bits, 15 values a group of 32, 13.3 % zeros "
        "(before: 0 %)"
    )
    assert page.term("Weights on disk") == "2 MB before, 500 kB after (25 %)"
    assert page.term("Checkpoint's files") == document["provenance"]["model_digest"]["subject"]
    document["edit_name"] = document["provenance"]["edit"]["type"] = "of_an_extension"
    page = Page(certificate_html(document))
    assert page.term("Edit").startswith("of_an_extension (an edit of an extension)")


@pytest.mark.parametrize(("share", "words"), [(0.5, "50 %"), (0.125, "12.5 %")])
def test_a_share_and_a_count_are_written_as_everywhere_else(share: float, words: str) -> None:
    edit = {"type": "magnitude_prune", "parameters": {"sparsity": share}}
    assert edit_phrase(edit) == f"setting the smallest {words} of the values to zero"
    document = certificate()
    document["structure"]["edit_details"] = {"zeros": 440320}
    assert "440,320" in [line.text for line in changed_lines(document)]


def test_a_quantized_checkpoint_says_how_it_is_packed_and_which_reading_was_judged() -> None:
    document = as_subject(certificate())
    quantization = quantization_words("gptq", "W4", bits=4, group=128, symmetric=True)
    document["readings"] |= {
        "losses": "dequantized", "weights": "dequantized", "form": "gguf", "quantization": quantization.to_json(),
        "weights_only": True,
    }  # fmt: skip
    page = Page(certificate_html(document))
    assert page.term("Quantized") == "gptq W4; 4 bits; groups of 128; symmetric"
    assert page.term("Judged").startswith("weights only")
    assert "Judged by its weights only" in page.text
    document["readings"]["quantization"] = {"method": "unheard of"}
    assert Page(certificate_html(document)).term("Quantized") == "method unheard of"


def test_an_adapter_is_told_part_by_part() -> None:
    document = as_subject(certificate())
    adapter = {
        "type": "LORA",
        "rank": 8,
        "alpha": 16,
        "scaling": 2.0,
        "modules": 10,
        "targets": ["up_proj"],
        "peft": "1",
    }
    document["structure"]["edit_details"] = {"adapter": adapter}
    page = Page(certificate_html(document))
    assert (page.term("Adapter: rank"), page.term("Adapter: targets")) == ("8", "up_proj")
    assert page.term("Weights on disk") == "2 MB of the baseline, 500 kB of the adapter"


def test_limits_of_the_makers_own_are_said_first() -> None:
    document = certificate()
    assert "Limits:" not in Page(certificate_html(document)).text
    document["policy_provenance"]["overrides"] = {"limits": {"primary_metric": {"ratio_limit": 1.5}}}
    html = certificate_html(document)
    assert "Limits: own, LOOSER than balanced in primary_metric.ratio_limit 1.5 (1.1)." in html[: html.index("Gates")]
    document["policy_provenance"]["overrides"] = {"limits": {"nothing": {"known": 1}}}
    assert "Limits: own, which make no sense." in Page(certificate_html(document)).text


def test_worst_windows_come_with_their_text_only_if_it_was_kept() -> None:
    document = certificate()
    final = document["evaluation_windows"]["final"]
    page = Page(certificate_html(document))
    differences = [after - before for after, before in zip(final["logloss"], final["baseline_logloss"], strict=True)]
    first = final["window_ids"][differences.index(max(differences))]
    assert page.row(first)[4] == f"{max(differences):+.4f}"
    assert "--proofpack-keep-text" in page.text
    page = Page(certificate_html(with_kept_text(document)))
    assert "--proofpack-keep-text" not in page.text
    assert [row for row in page.rows if row == [f"text of {first}<b>"]]
