"""What a model takes is known before it is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoConfig, BloomConfig

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.limits import _POSITIONS, limits_of, read_limits
from pytest_proofpack.models.load import load_config, load_tokenizer
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import TOKENS, build_model_directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "llama")


def spec(path: Path) -> ModelSpec:
    return ModelSpec("org/model", path)


def test_vocabulary(saved: Path) -> None:
    tokenizer, limits = load_tokenizer(spec(saved)), limits_of(load_config(spec(saved)))
    limits.check_vocabulary(tokenizer)
    replace(limits, vocabulary=TOKENS + 64).check_vocabulary(tokenizer)
    with pytest.raises(ConfigurationError, match=rf"largest id is {TOKENS - 1}, .*only {TOKENS - 1} entries"):
        replace(limits, vocabulary=TOKENS - 1).check_vocabulary(tokenizer)


def test_context(saved: Path) -> None:
    limits = limits_of(load_config(spec(saved)))
    limits.check_context(256)
    with pytest.raises(ConfigurationError, match="windows of 257 tokens do not fit its context of 256"):
        limits.check_context(257)
    assert limits.positions == 256


def test_a_model_of_any_length() -> None:
    limits = limits_of(BloomConfig())
    assert limits.positions is None
    limits.check_context(10**6)


@pytest.mark.parametrize("kind", [*_POSITIONS, "gemma"])
@pytest.mark.parametrize("left_out", [None, "positions", "vocab_size"])
def test_files_say_what_transformers_reads(kind: str, left_out: str | None, tmp_path: Path) -> None:
    """Also where a key is missing, whose default transformers knows."""
    key = _POSITIONS.get(kind, "max_position_embeddings")
    config = AutoConfig.for_model(kind, **{key: 96, "vocab_size": 77}).to_dict()
    config.pop(key if left_out == "positions" else str(left_out), None)
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": kind}))
    found = read_limits(spec(tmp_path), CheckpointFiles.at(tmp_path))
    assert found == limits_of(load_config(spec(tmp_path)))
    assert left_out is not None or (found.positions, found.vocabulary) == (96, 77)
