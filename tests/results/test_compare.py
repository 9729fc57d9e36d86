"""``proofpack compare``: what changed, by how much, of what nobody can say, and which exit status that gives."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.certificate.build import Evidence, build_certificate
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.common.strict_json import JsonObject, pretty_json, read_json
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.results.opened import open_results
from pytest_proofpack.results.show import headline
from tests.results.conftest import PACKED_QUANT, QUANT, Command, few_certificates
from tests.support.certificates import make_evidence, make_plan
from tests.support.forgery import forge_certificate
from tests.support.packs import copy_of, pack_of

AnotherRun = Callable[..., Path]
SHIFT = 0.01
"""What a clean edit adds to the loss in the made-up runs."""


def request(scenario: str = "quant_4bit_clean") -> CertificateRequest:
    return next(one for one in make_plan()[1].requests if one.scenario.id == scenario)


def quant(shift: float = SHIFT, **changes: Any) -> JsonObject:
    """A certificate of the 4-bit edit that differs from the run's in what is named."""
    evidence: Evidence = make_evidence(request(), shift=shift)
    return build_certificate(replace(evidence, **changes))


@pytest.fixture(scope="module")
def worse(another_run: AnotherRun) -> Path:
    """The run, but for an edit that costs three per cent more, on some windows more than on others."""
    evidence, rng = make_evidence(request(), shift=SHIFT), random.Random(1)
    final = evidence.subject.final
    costs = tuple(loss + rng.gauss(0.03, 0.003) for loss in final.losses)
    return another_run(quant(subject=replace(evidence.subject, final=replace(final, losses=costs))))


def compared(proofpack: Command, tmp_path: Path, *arguments: object) -> tuple[int, JsonObject, dict[str, JsonObject]]:
    target = tmp_path / "comparison.json"
    status = proofpack("compare", *arguments, "--format=json", f"--output={target}")
    document = json.loads(target.read_bytes())
    return status, document, {change["scenario"]: change for change in document["changes"]}


def test_a_pack_against_itself(proofpack: Command, pack: Path, tmp_path: Path) -> None:
    status, document, changes = compared(proofpack, tmp_path, pack, pack, "--max-regression=0")
    assert status == 0
    assert {change["status"] for change in changes.values()} == {"same"}
    assert changes["quant_4bit_clean"]["difference"] == {"ratio": 1.0, "interval": [1.0, 1.0], "windows": 80}
    assert document["before"]["standing"] == "verified; unsigned: nothing tells who made this pack"
    assert document["after"]["verdict"] == "PASS"


def test_a_regression_is_measured_on_the_windows_themselves(
    proofpack: Command, pack: Path, worse: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, document, changes = compared(proofpack, tmp_path, pack, worse)
    assert (status, document["regressions"]) == (1, 1)
    change = changes["quant_4bit_clean"]
    low, high = change["difference"]["interval"]
    assert change["status"] == "worse"
    assert low < change["difference"]["ratio"] < high
    assert change["difference"]["ratio"] == pytest.approx(math.exp(0.03), rel=1e-3)
    # 0.3 per cent a window, over 80 windows: what the edit itself does to each of them drops out.
    assert high - low == pytest.approx(2 * 1.96 * 0.003 / math.sqrt(80) * math.exp(0.03), rel=0.3)
    assert changes["fp8_e5m2_clean"]["status"] == "same"

    assert compared(proofpack, tmp_path, pack, worse, "--max-regression=5%")[0] == 0
    status, _, changes = compared(proofpack, tmp_path, worse, pack)
    assert (status, changes["quant_4bit_clean"]["status"]) == (0, "better")

    assert proofpack("compare", pack, worse) == 1
    printed = capsys.readouterr().out
    assert "  REGRESSION: perplexity up by as much as 3.1" in printed
    assert printed.endswith("1 REGRESSION: 1 worse, 4 same.\n")


def test_the_upper_end_of_the_interval_counts(proofpack: Command, pack: Path, worse: Path, tmp_path: Path) -> None:
    difference = compared(proofpack, tmp_path, pack, worse)[2]["quant_4bit_clean"]["difference"]
    between = (difference["ratio"] + difference["interval"][1]) / 2 - 1.0
    assert compared(proofpack, tmp_path, pack, worse, f"--max-regression={between}")[0] == 1
    assert compared(proofpack, tmp_path, pack, worse, f"--max-regression={difference['interval'][1] - 0.9999}")[0] == 0


def test_an_edit_that_is_gone_is_a_regression_and_a_new_one_is_not(
    proofpack: Command, run_directory: Path, another_run: AnotherRun, tmp_path: Path
) -> None:
    without = another_run(None)
    assert headline(open_results(without)) == (
        "FAIL: 5 of 5 certificates are what their scenarios demand, 1 is missing"
    )
    status, _, changes = compared(proofpack, tmp_path, run_directory, without)
    assert (status, changes["quant_4bit_clean"]["status"]) == (1, "gone")
    status, _, changes = compared(proofpack, tmp_path, without, run_directory)
    assert (status, changes["quant_4bit_clean"]["status"]) == (0, "new")


def test_a_fault_that_nobody_sees_any_more_is_a_regression(
    proofpack: Command, run_directory: Path, another_run: AnotherRun, tmp_path: Path
) -> None:
    unseen = build_certificate(make_evidence(request("scale_explosion"), shift=SHIFT))
    path = "acme__tiny-1m/certificates/errors/scale_explosion/evaluation.cert.json"
    status, _, changes = compared(proofpack, tmp_path, run_directory, another_run(unseen, path))
    change = changes["scale_explosion"]
    assert (status, change["status"], change["regressions"]) == (1, "better", ["is not caught any more"])


EVIDENCE = make_evidence(request())
INCOMPARABLE: dict[str, tuple[dict[str, Any], str]] = {
    "text": (
        {"text": replace(EVIDENCE.text, text_sha256="e" * 64)},
        "another text: synthetic evaluation (aaaaaaaaaaaa), then synthetic evaluation (eeeeeeeeeeee)",
    ),
    "tokenizer": ({"model": replace(EVIDENCE.model, tokenizer_hash="c" * 64)}, "another tokenizer"),
    "revision": (
        {"model": replace(EVIDENCE.model, revision="v2")},
        "another revision of the unedited model: none, then v2",
    ),
    "files": (
        {"model": replace(EVIDENCE.model, baseline_digest="d" * 64)},
        "other files of the unedited model: cccccccccccc, then dddddddddddd",
    ),
}


@pytest.mark.parametrize("what", INCOMPARABLE)
def test_what_makes_numbers_incomparable_is_named(
    what: str, proofpack: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes, why = INCOMPARABLE[what]
    (tmp_path / "a.json").write_text(pretty_json(quant()))
    (tmp_path / "b.json").write_text(pretty_json(quant(**changes)))
    status, _, found = compared(proofpack, tmp_path, tmp_path / "a.json", tmp_path / "b.json")
    assert (status, found["quant_4bit_clean"]["status"]) == (3, "incomparable")
    assert found["quant_4bit_clean"]["why"] == [why]
    assert proofpack("compare", tmp_path / "a.json", tmp_path / "b.json", "--allow-incomparable") == 0
    assert "NOTHING CAN BE SAID of 1 edit that must pass" in capsys.readouterr().out


def test_what_is_so_of_every_edit_is_said_once(
    proofpack: Command, run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = few_certificates(tmp_path / "run", baseline_digest="d" * 64)
    for form in ("text", "markdown", "html"):
        assert proofpack("compare", run_directory, other, f"--format={form}") == 3
        assert capsys.readouterr().out.count("other files of the unedited model: cccccccccccc, then dddddddddddd") == 1


def test_another_tier_judges_otherwise_and_measures_the_same(
    proofpack: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = quant(0.08, policy=resolve_policy("conservative"))
    (tmp_path / "a.json").write_text(pretty_json(quant(0.08)))
    (tmp_path / "b.json").write_text(pretty_json(strict))
    status, _, changes = compared(proofpack, tmp_path, tmp_path / "a.json", tmp_path / "b.json")
    change = changes["quant_4bit_clean"]
    assert (status, change["status"], change["after"]["passed"]) == (0, "same", False)
    assert change["remarks"] == ["other limits: tier balanced, profile dev, then tier conservative, profile dev"]
    (tmp_path / "b.json").write_text(pretty_json(quant(0.15)))
    regressions = compared(proofpack, tmp_path, tmp_path / "a.json", tmp_path / "b.json")[2]["quant_4bit_clean"]
    assert regressions["regressions"][1:] == ["fails perplexity"]
    assert regressions["failed_gates"][1] == ["primary_metric_acceptable"]
    assert proofpack("compare", tmp_path / "a.json", tmp_path / "b.json") == 1
    assert "\n  fails now: perplexity\n" in capsys.readouterr().out


def test_edits_of_other_names_are_compared_if_each_comes_alone(
    proofpack: Command, run_directory: Path, tmp_path: Path
) -> None:
    other = run_directory / QUANT.replace("quant_4bit_clean", "fp8_e5m2_clean")
    status, _, changes = compared(proofpack, tmp_path, run_directory / QUANT, other)
    assert (status, list(changes)) == (0, ["fp8_e5m2_clean"])
    assert changes["fp8_e5m2_clean"]["remarks"] == [
        "another scenario: quant_4bit_clean, then fp8_e5m2_clean",
        "another edit: bits 4, then none; format none, then e5m2; group_size 32, then none; "
        "type quant_rtn, then fp8_quant",
    ]


def test_an_edit_under_another_name_is_told_how_to_be_compared(
    proofpack: Command, run_directory: Path, another_run: AnotherRun, tmp_path: Path
) -> None:
    sides = another_run(None), another_run(None, QUANT.replace("quant_4bit_clean", "fp8_e5m2_clean"))
    changes = compared(proofpack, tmp_path, *sides)[2]
    assert changes["fp8_e5m2_clean"]["remarks"] == [
        "quant_4bit_clean is new, and edits are compared by name; compare these two by their evaluation.cert.json"
    ]
    assert changes["quant_4bit_clean"]["remarks"] == []
    # Of one that is gone alone there is nothing to say.
    assert compared(proofpack, tmp_path, run_directory, sides[0])[2]["quant_4bit_clean"]["remarks"] == []


class TestWhatDoesNotHold:
    @pytest.fixture
    def forged(self, pack: Path, tmp_path: Path) -> Path:
        copy = copy_of(pack, tmp_path / "forged")
        forge_certificate(copy, PACKED_QUANT, lambda certificate: certificate["primary_metric"].update(final=1.0))
        return copy

    def test_it_is_refused(
        self, proofpack: Command, pack: Path, forged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("compare", pack, forged) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        assert "NOT VERIFIED: " in printed.err
        assert "Look at it with: proofpack verify" in printed.err

    def test_or_said_on_request(
        self, proofpack: Command, pack: Path, forged: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for form in ("text", "markdown", "html"):
            proofpack("compare", pack, forged, "--accept-unverified", f"--format={form}")
            assert capsys.readouterr().out.count("NOT VERIFIED") >= 2
        assert proofpack("compare", forged, pack, "--accept-unverified", "--format=json") == 0
        assert json.loads(capsys.readouterr().out)["before"]["verified"] is False

    def test_a_run_and_a_certificate_are_recomputed_too(
        self, proofpack: Command, run_directory: Path, another_run: AnotherRun, capsys: pytest.CaptureFixture[str]
    ) -> None:
        certificate = read_json(run_directory / QUANT)
        certificate["primary_metric"]["ratio_vs_baseline"] = 1.0
        for path in (bad := another_run(certificate), bad / QUANT):
            assert proofpack("compare", run_directory, path) == 1
            assert "certificate_digest: does not match the content" in capsys.readouterr().err

    def test_demands(
        self, proofpack: Command, pack: Path, run_directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("compare", pack, pack, "--require-verdict=PASS") == 0
        assert proofpack("compare", pack, pack, "--min-tier=conservative") == 3
        assert "demand NOT MET: min-tier=conservative: the tier is balanced" in capsys.readouterr().err
        assert proofpack("compare", pack, pack, "--require-signature") == 1
        assert proofpack("compare", pack, run_directory, "--require-verdict=PASS") == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["{pack}", "absent"],
        ["{pack}", "."],
        ["{pack}", "{pack}", "--max-regression=much"],
        ["{pack}", "{pack}", "--max-regression=5"],
    ],
)
def test_usage(arguments: list[str], proofpack: Command, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert proofpack("compare", *(argument.format(pack=pack) for argument in arguments)) == 2
    assert capsys.readouterr().err.startswith("proofpack compare: ")


def test_hostile_names_mean_nothing_in_markdown_and_html(
    proofpack: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "a|b`<img src=x>@all\u202e[x](javascript:1)"
    pack = pack_of(few_certificates(tmp_path / "run", model_ids=[name]), tmp_path / "pack")
    assert proofpack("compare", pack, pack, "--format=markdown") == 0
    printed = capsys.readouterr().out
    assert "`a\\x7cb\\x60\\x3cimg src=x\\x3e@all\\u202e[x](javas" in printed
    assert "<img" not in printed
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1
    assert proofpack("compare", pack, pack, "--format=html") == 0
    page = capsys.readouterr().out
    assert "&lt;img src=x&gt;" in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert '<table class="stack">' in page, "on a phone every cell stands in a line, with its heading"
    assert page.count('<td data-label="change"') == 5
