from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.report import index_html, pack_readme
from pytest_proofpack.report.forest import forest_axis, forest_plot
from tests.support.markup import HOSTILE, SHOWN, Page, assert_inert
from tests.support.report_samples import a_verdict, verdict_and_certificates

FACTS: JsonObject = {
    "suite": "tiny",
    "generated_at": "2026-01-02T03:04:05Z",
    "determinism": "strict",
    "network_mode": "offline",
    "models": [{"model_id": "proofpack/tiny", "revision": None}, {"model_id": "org/other", "revision": "f00d"}],
    "tool": {"name": "pytest-proofpack", "version": "9.8.7"},
    "signing": {"status": "unsigned", "reason": "no secret key"},
}
SIGNED = FACTS | {"signing": {"status": "signed", "fingerprint": "AB" * 20}, "verdict": "PASS"}


def readme_of(facts: JsonObject) -> str:
    return pack_readme(facts, OPENPGP)


def commands(readme: str) -> list[str]:
    return re.findall(r"^    ((?:gpg|sha256sum|python3) .*)$", readme, re.MULTILINE)


def write_pack(folder: Path, names: Iterable[str]) -> None:
    """A folder with a manifest and checksums as a pack has them, around files of any content."""
    digests = {}
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"content of {name}", encoding="utf-8")
        data = path.read_bytes()
        digests[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (folder / "manifest.json").write_text(json.dumps({"artifact_digests": digests}), encoding="utf-8")
    write_checksums(folder, digests)


def write_checksums(folder: Path, names: Iterable[str]) -> None:
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "checksums.sha256").write_text("".join(lines), encoding="utf-8")


def certificates_of(page: Page) -> dict[tuple[str, str], list[str]]:
    """The rows of the certificates by scenario and model, as the page of several models has them."""
    rows = [[cell.strip() for cell in row] for row in page.rows]
    return {
        (row[0].split(" ")[0].split("\n")[0], row[1]): row for row in rows if len(row) == 9 and row[0] != "scenario"
    }


def run(command: str, folder: Path) -> int:
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=folder, capture_output=True, check=False)
    return done.returncode


def test_index_shows_every_certificate_with_its_numbers_and_link() -> None:
    certificates, verdict = verdict_and_certificates()
    links = {
        (row["model"], row["scenario"], row["run"]): f"certs/a b#?&{index}/evaluation.html"
        for index, row in enumerate(verdict["certificates"])
    }
    page = assert_inert(index_html(verdict, FACTS, links, certificates), script="index.js")
    assert page.urls == [f"certs/a%20b%23%3F%26{index}/evaluation.html" for index in (0, 1, 2, 3)]
    shown = certificates_of(page)
    assert len(shown) == 6
    for document in certificates[:2]:
        ratio, interval, divergence, top = shown[document["scenario"]["id"], "proofpack/tiny"][4:8]
        metric, distribution = document["primary_metric"], document["distribution"]
        assert ratio == f"{metric['ratio_vs_baseline']:.4f}"
        assert interval == "{:.4f} to {:.4f}".format(*metric["display_ci"])
        assert divergence == f"{distribution['kl_mean']:.3g}"
        assert top == f"{100 * distribution['top1_agreement']:.1f} %".replace(".0 ", " ")
    assert "perplexity at most 10 % above the baseline’s, 0.2 nats of KL" in page.text
    assert "synthetic, evaluation, 120,000 tokens" in page.text
    certificates[0]["policy_provenance"]["overrides"] = {"limits": {"primary_metric": {"ratio_limit": 1.5}}}
    page = Page(index_html(verdict, FACTS | {"meta": {"commit": "0123abc"}}, links, certificates))
    assert page.text.count("LOOSER than balanced in primary_metric.ratio_limit 1.5 (1.1)") == 2
    assert page.term("commit") == "0123abc (as the maker says)"


def test_index_says_what_passed_was_caught_failed_is_missing_or_was_left_out() -> None:
    page = Page(index_html(a_verdict(), FACTS, {}))
    shown = {key: (row[2], row[-1]) for key, row in certificates_of(page).items()}
    assert shown == {
        ("quant_4bit_clean", "proofpack/tiny"): ("✗FAILED", "perplexity"),
        ("prune_50pct_stress", "proofpack/tiny"): ("✓CAUGHT", "perplexity"),
        ("nan_injection", "proofpack/tiny"): (
            "✓CAUGHT",
            "perplexity, worst windows, drift between two samples of the text",
        ),
        ("quant_4bit_clean", "org/other"): ("✓PASSED", "all hold"),
        ("prune_50pct_stress", "org/other"): ("○LEFT OUT", "left out: too small"),
        ("nan_injection", "org/other"): ("✗MISSING", "no certificate"),
    }
    assert page.row("✗a clean edit must pass every gate")[1:] == [
        "clean_all_pass", "proofpack/tiny", "quant_4bit_clean", "1",
    ]  # fmt: skip
    assert page.text.count("expected certificates are missing") == 2  # beside the verdict, and in its own table


def test_index_says_first_what_came_of_what_was_demanded() -> None:
    told = "1 of 2 that must pass passed, 1 of 1 that must fail were caught, 1 of 1 that must be detected were caught."
    assert (
        f"4 of 5 expected certificates on 2 models are there; {told}" in Page(index_html(a_verdict(), FACTS, {})).text
    )


def test_destructive_edits_that_nothing_caught_are_not_called_passed() -> None:
    verdict = a_verdict()
    row = next(row for row in verdict["certificates"] if row["scenario"] == "nan_injection")
    row |= {"passed": True, "failed_gates": [], "as_expected": False}
    page = Page(index_html(verdict, FACTS, {}))
    shown = certificates_of(page)["nan_injection", "proofpack/tiny"]
    assert (shown[2], shown[-1]) == ("✗FAILED", "not caught; all hold")
    row["strictness"] = "informational"
    page = Page(index_html(verdict, FACTS, {}))
    assert certificates_of(page)["nan_injection", "proofpack/tiny"][2] == "○INFO"


def test_the_forest_plot_keeps_to_its_axis() -> None:
    rows = [{"ratio": ratio, "interval": [ratio / 1.01, ratio * 1.01]} for ratio in (0.2, 0.99, 1.0, 1.02, 1.3, 900.0)]
    axis = forest_axis(rows, [1.1])
    plots = [forest_plot(axis, row, 1.1, "good") for row in rows]
    assert [bool(plot.beyond) for plot in plots] == [True, False, False, False, False, True]
    places = [float(plot.ratio or "nan") for plot in plots[1:-1]]
    assert places == sorted(places)
    assert 0 < places[0] < float(axis.unchanged) + 0.1 < float(axis.last_limit) < places[-1] < plots[0].width
    assert forest_plot(axis, {}, None, "").ratio is None


def test_index_of_a_signed_and_an_unsigned_pack() -> None:
    assert "Not signed: no secret key" in Page(index_html(a_verdict(), FACTS, {})).text
    signed = Page(index_html(a_verdict(), SIGNED, {})).text
    assert "Not signed" not in signed
    assert "AB" * 20 in signed


def test_index_with_hostile_strings_stays_inert() -> None:
    verdict, facts = a_verdict(), json.loads(json.dumps(FACTS))

    def hostile(value: Any) -> Any:
        if isinstance(value, dict):
            kept = ("category", "strictness", "verdict")
            return {key: item if key in kept else hostile(item) for key, item in value.items()}
        if isinstance(value, list):
            return [hostile(item) for item in value]
        return HOSTILE + value if isinstance(value, str) else value

    verdict, facts = hostile(verdict), hostile(facts)
    links = {(row["model"], row["scenario"], row["run"]): f"x/{HOSTILE}" for row in verdict["certificates"]}
    certificates = [hostile(document) for document in verdict_and_certificates()[0]]
    page = assert_inert(index_html(verdict, facts, links, certificates), script="index.js")
    assert page.text.count(SHOWN) > 20
    assert len(page.urls) == 4


@pytest.mark.parametrize("path", ["/etc/passwd", "//evil.example/x", "../up.html", "certs/../../x", ""])
def test_links_out_of_the_pack_are_refused(path: str) -> None:
    links = {("proofpack/tiny", "quant_4bit_clean", 1): path}
    if path:
        with pytest.raises(FormatError, match="below the page's own folder"):
            index_html(a_verdict(), FACTS, links)
    else:
        assert Page(index_html(a_verdict(), FACTS, links)).urls == []


def test_a_link_with_a_scheme_becomes_a_plain_relative_path() -> None:
    links = {("proofpack/tiny", "quant_4bit_clean", 1): "javascript:alert(1)"}
    assert Page(index_html(a_verdict(), FACTS, links)).urls == ["javascript%3Aalert%281%29"]


def test_same_input_gives_same_bytes() -> None:
    assert index_html(a_verdict(), FACTS, {}) == index_html(a_verdict(), FACTS, {})
    assert readme_of(FACTS) == readme_of(FACTS)


def test_readme_claims_a_signature_only_where_there_is_one() -> None:
    unsigned, signed = readme_of(FACTS), readme_of(SIGNED)
    assert "this pack is unsigned** (`no secret key`)" in unsigned
    assert not [command for command in commands(unsigned) if command.startswith("gpg")]
    assert "unsigned" not in signed
    assert f"`{'AB' * 20}`" in signed
    assert commands(signed)[0] == "gpg --verify manifest.json.asc manifest.json"
    assert "unsigned" in readme_of({})


def test_readme_commands_find_what_they_say(tmp_path: Path) -> None:
    checksums, digests = commands(readme_of(FACTS))
    assert commands(readme_of(SIGNED))[1:] == [checksums, digests]
    names = ["README.md", "certs/a/run_1/evaluation.cert.json", "state/with space.json"]
    write_pack(tmp_path, names)
    assert (run(checksums, tmp_path), run(digests, tmp_path)) == (0, 0)

    (tmp_path / names[1]).write_text("changed", encoding="utf-8")
    assert run(checksums, tmp_path) != 0
    write_checksums(tmp_path, names)
    assert run(checksums, tmp_path) == 0
    assert run(digests, tmp_path) != 0


def test_readme_commands_do_not_run_the_packs_code(tmp_path: Path) -> None:
    write_pack(tmp_path, ["README.md"])
    (tmp_path / "json.py").write_text("raise SystemExit('the pack ran')", encoding="utf-8")
    assert run(commands(readme_of(FACTS))[1], tmp_path) == 0


def test_readme_with_hostile_strings_holds_no_html() -> None:
    hostile = "`<script>alert(1)</script>` | [x](javascript:1)\n# heading"
    facts = FACTS | {
        "suite": hostile,
        "models": [{"model_id": hostile, "revision": hostile}],
        "signing": {"status": "unsigned", "reason": hostile},
    }
    readme = readme_of(facts)
    assert "<" not in readme
    assert r"`\x60\x3cscript\x3ealert(1)\x3c/script\x3e\x60 \x7c [x](javascript:1)\x0a# heading`" in readme
    assert "\n# heading" not in readme


def test_templates_are_package_data() -> None:
    folder = resources.files("pytest_proofpack.report").joinpath("templates")
    names = {entry.name for entry in folder.iterdir()}
    assert {
        "base.html.j2",
        "certificate.html.j2",
        "index.html.j2",
        "index.js",
        "pack_readme.md.j2",
        "style.css",
    } <= names
    assert {entry.name for entry in folder.joinpath("parts").iterdir()} >= {"gates.html.j2", "certificates.html.j2"}


def test_importing_reports_costs_no_template_engine() -> None:
    heavy = "{'jinja2', 'matplotlib', 'numpy', 'scipy', 'torch'}"
    code = f"import sys, pytest_proofpack.report; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
