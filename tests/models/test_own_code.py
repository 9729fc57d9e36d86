"""Code that a model brings along is named, where it was not run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.own_code import code_warnings
from pytest_proofpack.plan.records import ModelSpec


def warnings(path: Path, auto_map: object, *, trusted: bool = False) -> tuple[str, ...]:
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "auto_map": auto_map}))
    return code_warnings(ModelSpec("m", path=path, trust_remote_code=trusted), CheckpointFiles.at(path))


def test_it_is_named(tmp_path: Path) -> None:
    (warning,) = warnings(tmp_path, {"AutoModelForCausalLM": "modeling_mine.Mine\x1b[0m"})
    assert "code of its own (auto_map: AutoModelForCausalLM: modeling_mine.Mine\\x1b[0m), which was not run" in warning
    (warning,) = warnings(tmp_path, {f"Auto{number}": "x" * 10_000 for number in range(1000)})
    assert "and 997 more" in warning
    assert len(warning) < 600


@pytest.mark.parametrize("auto_map", [None, {}, [], "x"])
def test_without_any(tmp_path: Path, auto_map: object) -> None:
    assert warnings(tmp_path, auto_map) == ()


def test_code_that_was_run(tmp_path: Path) -> None:
    assert warnings(tmp_path, {"AutoModel": "m.M"}, trusted=True) == ()
