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


def test_of_the_tokenizer_and_for_generation(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"auto_map": {"AutoTokenizer": [None, "evil.T"]}}))
    (tmp_path / "custom_generate").mkdir()
    (tmp_path / "custom_generate" / "generate.py").touch()
    splits, generates = warnings(tmp_path, None)
    assert "its tokenizer_config.json names code of its own (auto_map: AutoTokenizer: [None, 'evil.T'])" in splits
    assert "that generates text (custom_generate/generate.py), which was not run" in generates
    assert warnings(tmp_path, None, trusted=True) == (generates,)
