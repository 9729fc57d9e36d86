"""Commands that people can type."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pytest_proofpack.plugin.terminal import resume_command, whole_command

SELECTED = ("-k", "clean and not x", "-mslow", "--deselect=a::b", "--deselect", "proofpack/tiny::c", "--lf")


def config(*arguments: str) -> Any:
    return SimpleNamespace(invocation_params=SimpleNamespace(args=arguments))


@pytest.mark.parametrize("selected", [SELECTED, ("proofpack/tiny::test_certificate[m-s]",), ("-k", "a", "-m"), ()])
def test_the_rest_is_made_by_a_command_that_selects_nothing(selected: tuple[str, ...]) -> None:
    given = config("--proofpack-suite=tiny", "-n", "2", "tests/own.py::t", *selected)
    made = "pytest --proofpack-suite=tiny -n 2 tests/own.py::t --proofpack-out=run --proofpack-resume"
    assert whole_command(given, Path("run"), "tiny") == made


def test_going_on_selects_what_was_selected() -> None:
    given = config("--proofpack-out=run", "-k", "a b")
    assert resume_command(given, Path("run")) == "pytest -k 'a b' --proofpack-out=run --proofpack-resume"
