"""What a fresh interpreter loads. Who may import whom is import-linter's business (pyproject.toml)."""

from __future__ import annotations

import pkgutil
import subprocess
import sys

import pytest_proofpack

PACKAGE = "pytest_proofpack"
VERIFIER = (
    "errors",
    "common",
    "plan",
    "guards",
    "certificate",
    "config",
    "report",
    "pack",
    "results",
    "runs",
    "commands",
)
HEAVY = {"torch", "transformers", "accelerate", "safetensors", "pyarrow", "huggingface_hub", "httpx2"}
LAZY = {*HEAVY, "scipy", "jinja2", "numpy", "matplotlib", "jsonschema", "pynvml"}


def loaded_after(program: str) -> set[str]:
    """Run a program in a fresh interpreter and return the top-level modules that it loaded."""
    show = "import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", f"{program}\n{show}"], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_a_start_of_pytest_loads_next_to_nothing() -> None:
    loaded = loaded_after("import pytest_proofpack.plugin.hooks")
    assert PACKAGE in loaded
    assert not loaded & LAZY


def test_verification_without_pytest_loads_neither_it_nor_torch() -> None:
    modules = pkgutil.walk_packages(pytest_proofpack.__path__, f"{PACKAGE}.")
    names = [module.name for module in modules if module.name.split(".")[1] in VERIFIER]
    assert len(names) > len(VERIFIER)
    loaded = loaded_after("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
    assert not loaded & {*HEAVY, "pytest", "_pytest", "matplotlib"}


def test_checking_the_inputs_of_a_run_loads_no_torch() -> None:
    """The controller computes nothing, and workers that start beside it have the processor to themselves."""
    program = """
from dataclasses import replace
from pytest_proofpack.engine.inputs import CheckedInputs
from pytest_proofpack.devices.memory_plan import plan_memory
from pytest_proofpack.runs.run import resolve_run
import pytest_proofpack.plugin.controller, pytest_proofpack.plugin.preparation, pytest_proofpack.plugin.xdist_scheduler
from tests.support.default_settings import DEFAULTS
run = resolve_run(replace(DEFAULTS, suite="tiny", out="unused"))
inputs = CheckedInputs(run)
prepared = inputs.prepare(run.suite.models[0])
assert len(prepared.text.windows) > 400 and len(inputs.digest(run.suite.models[0])) == 64
"""
    assert not loaded_after(program) & {"torch", "transformers", "accelerate"}
