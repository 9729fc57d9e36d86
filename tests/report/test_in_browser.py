"""The pages as a browser shows them: nothing is clipped, overlaps, complains or asks for anything."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pytest_proofpack import report
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.page_sources import read_sources
from pytest_proofpack.pack.pages import make_pages
from pytest_proofpack.pack.verified import EditFacts
from pytest_proofpack.plan.records import Category
from pytest_proofpack.results.history import History, Point, history_html
from tests.report.test_certificate_page import (
    as_subject,
    with_hostile_strings,
    with_kept_text,
    with_more_in_guards,
)
from tests.report.test_run_pages import FACTS
from tests.support.browser import FLAWS, HEADINGS, OPEN, PAPER, WIDTHS, chromium, keep, opened
from tests.support.report_samples import CLEAN, certificate, verdict_and_certificates

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ARCHIVE = Path(__file__).parents[1] / "packs/tiny-0.1.0-format1.tar.xz"
LONG = "averyverylongnamewithoutasinglebreak" * 4
STRESS = replace(CLEAN, id="magnitude_prune_stress", category=Category.STRESS)


def stored_pages(folder: Path) -> dict[str, str]:
    """The run's page, and one certificate's, of a pack that was made for a release: real numbers, five layers."""
    shutil.unpack_archive(ARCHIVE, folder, filter="data")
    sources = read_sources(folder / "proof_pack")
    pages = make_pages(report, sources.verdict, sources.facts, sources.certificates)
    chosen = next(path for path in pages if "quant_4bit_clean/run_1" in path)
    return {"stored-index": pages["index.html"], "stored": pages[chosen]}


def two_models() -> str:
    """The run's page of a FAIL on two models."""
    certificates, verdict = verdict_and_certificates()
    return report.index_html(verdict, FACTS, {}, certificates)


def over_time() -> str:
    """The page of two results, one by a long name."""
    edit = EditFacts("org/model", "clean", "must_pass", 1, 1, True, True, 1.02, (1.01, 1.03), 1.1, 0.07, 0.01)
    points = [Point(f"{LONG}/{day}", f"2026-03-0{day}T00:00:00Z", f"{day}" * 40, edit) for day in (1, 2)]
    return history_html(History({("org/model", "clean"): points}))


def written_out(folder: Path) -> Iterator[tuple[str, str]]:
    yield from stored_pages(folder).items()
    yield "index", two_models()
    yield "history", over_time()
    documents: dict[str, JsonObject] = {
        "passing": with_kept_text(certificate()),
        "failing": certificate(shift=0.4, spread=0.2),
        "caught": certificate(shift=9.0, spread=0.5, scenario=STRESS, model=LONG),
        "elsewhere": as_subject(certificate()),
        "nan": certificate(shift=math.nan),
        "hostile": with_hostile_strings(with_more_in_guards(with_kept_text(as_subject(certificate())))),
    }
    for name, document in documents.items():
        yield name, report.certificate_html(document, "../index.html")


NAMES = ("stored-index", "stored", "index", "history", "passing", "failing", "caught", "elsewhere", "nan", "hostile")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {}
    for name, html in written_out(folder):
        made[name] = folder / f"{name}.html"
        made[name].write_text(html, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_clipped_or_overlaps_at_any_width_or_on_paper(
    browser: Browser, pages: dict[str, Path], name: str
) -> None:
    with opened(browser, pages[name]) as (page, heard):
        for state in ("closed", "open"):
            if state == "open":
                page.evaluate(OPEN)
            for width in WIDTHS:
                page.set_viewport_size({"width": width, "height": 900})
                page.emulate_media(media="screen", color_scheme="dark")
                keep(page, f"{name}-{state}-{width}-dark")
                page.emulate_media(color_scheme="light")
                keep(page, f"{name}-{state}-{width}-light")
                assert page.evaluate(FLAWS) == [], f"{name} at {width}"
            page.set_viewport_size({"width": PAPER, "height": 1000})
            page.emulate_media(media="print")
            keep(page, f"{name}-{state}-print")
            assert page.evaluate(FLAWS) == [], f"{name} on paper"
        levels: list[int] = page.evaluate(HEADINGS)
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(below - above <= 1 for above, below in pairwise(levels)), "a level of headings is left out"
        assert heard == []


def test_dark_text_stands_out_from_its_ground_as_light_text_does(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["failing"], color_scheme="dark") as (page, _):
        ground, text = page.evaluate(
            "() => [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
        )
    assert (ground, text) == ("rgb(20, 23, 26)", "rgb(228, 231, 234)")


def test_the_table_of_a_run_is_sorted_and_filtered(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["index"]) as (page, heard):
        rows = page.locator("#certificates tbody tr:visible")

        def ratios() -> list[str]:
            return rows.locator("td[data-label=ratio]").all_inner_texts()

        everything = ratios()
        assert len(everything) == 6
        for direction, label in ((1, "ascending"), (-1, "descending")):
            page.locator("th button", has_text="ratio").click()
            numbers = [float(text) for text in ratios() if text != "–"]
            assert numbers == sorted(numbers)[::direction]
            assert page.locator("th:has(button)", has_text="ratio").get_attribute("aria-sort") == label
        page.get_by_label("Show rows that contain").fill("org/other")
        assert rows.count() == 3
        page.get_by_label("Show rows by outcome").select_option("MISSING")
        assert "no certificate" in rows.all_inner_texts()[0]
        assert page.locator("output").inner_text() == "1 of 6 shown"
        assert heard == []


def test_a_page_without_script_is_whole(browser: Browser, pages: dict[str, Path]) -> None:
    with opened(browser, pages["index"], java_script_enabled=False) as (page, heard):
        assert page.locator("#certificates tbody tr:visible").count() == 6
        assert page.locator("#filters").is_hidden()
        assert page.locator("#certificates button").count() == 0
        assert heard == []


def test_no_other_script_or_style_is_heeded(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    html = pages["index"].read_text(encoding="utf-8")
    changed.write_text(html.replace("</main>", "<script>document.title = 'taken'</script></main>"), encoding="utf-8")
    with opened(browser, changed) as (page, heard):
        assert page.title() != "taken"
        assert "Content Security Policy" in " ".join(heard)


@pytest.mark.network
def test_axe_finds_nothing_serious(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("no npm to install axe-core with: apt-get install npm")
    subprocess.run([npm, "install", "--silent", "--no-audit", "--no-fund", "axe-core@4"], cwd=tmp_path, check=True)
    axe = (tmp_path / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
    for name, scheme in (("stored", "light"), ("stored-index", "dark"), ("failing", "dark"), ("elsewhere", "light")):
        with opened(browser, pages[name], bypass_csp=True, color_scheme=scheme) as (page, _):
            page.evaluate(axe)
            page.evaluate(OPEN)
            found: list[dict[str, Any]] = page.evaluate("() => axe.run().then(result => result.violations)")
        serious = [
            (rule["id"], rule["nodes"][0]["html"]) for rule in found if rule["impact"] in {"serious", "critical"}
        ]
        assert serious == [], f"{name}, {scheme}"
