"""Addresses that messages name are the project's, and of pages that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from pytest_proofpack.common.documentation import PAGES
from pytest_proofpack.edits.tools.llmcompressor import LLMCOMPRESSOR
from pytest_proofpack.plan.starter import starter_files

ROOT = Path(__file__).parents[2]


def test_the_address_is_that_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Documentation"] == PAGES


def test_what_is_written_names_pages_that_there_are() -> None:
    files = [text for ci in ("github", "gitlab") for text in starter_files(Path(), "acme/model", None, ci).values()]
    named = [name for text in (*files, LLMCOMPRESSOR.install) for name in re.findall(r"(\S*docs/[\w/-]+\.md)", text)]
    assert len(named) == 7
    for name in named:
        assert name.startswith(PAGES)
        assert (ROOT / "docs" / name.removeprefix(PAGES + "/")).is_file()
