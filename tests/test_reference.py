"""The pages of docs/reference/ are what the code says, and every gate is told in docs/concepts.md."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from pytest_proofpack.certificate.criteria import criteria

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("options.md", "files.md", "certificate.md", "gates.md")


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / ".ci/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_what_the_code_says(maker: ModuleType, name: str) -> None:
    made = maker.pages()
    assert set(made) == set(NAMES)
    assert (ROOT / "docs/reference" / name).read_text() == made[name], "run: python .ci/reference.py"


def test_every_gate_is_told() -> None:
    page = (ROOT / "docs/concepts.md").read_text()
    untold = [gate.flag for criterion in criteria() for gate in criterion.gates if f"`{gate.flag}`" not in page]
    assert untold == []
