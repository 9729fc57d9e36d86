"""What the project's own files say of it agrees: versions, links, markers, the menu of the site."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import pytest_proofpack

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == pytest_proofpack.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["url"] == PROJECT["urls"]["Homepage"]


def test_the_workflow_runs_every_python_that_the_package_names() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    named = [entry.rpartition(" :: ")[2] for entry in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", entry)]
    assert workflow["jobs"]["everything"]["strategy"]["matrix"]["python"] == named
    assert named[0] == PROJECT["requires-python"].removeprefix(">=")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_hold_on_the_forge(page: Path) -> None:
    """In the site, mkdocs looks at them."""
    text = re.sub(r"`[^`\n]+`", "", page.read_text())
    for target in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", text):
        assert (page.parent / target).is_file(), target


def test_constraints_pin_what_the_package_needs() -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = [name for names in PROJECT["optional-dependencies"].values() for name in names]
    needed = {re.split(r"[\[<>=~! ;]", name)[0] for name in [*PROJECT["dependencies"], *extras]}
    needed = {re.sub(r"[-_.]+", "-", name).lower() for name in needed} - {"pytest-proofpack"}
    assert needed <= pinned
