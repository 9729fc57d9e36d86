"""What a model takes is known before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BloomConfig

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.limits import check_context, check_vocabulary, context_length
from pytest_proofpack.models.load import load_config, load_tokenizer
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import TOKENS, build_model_directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "llama")


def spec(path: Path) -> ModelSpec:
    return ModelSpec("org/model", path)


def test_vocabulary(saved: Path) -> None:
    tokenizer, config = load_tokenizer(spec(saved)), load_config(spec(saved))
    check_vocabulary(tokenizer, config)
    config.vocab_size = TOKENS + 64
    check_vocabulary(tokenizer, config)
    config.vocab_size = TOKENS - 1
    with pytest.raises(ConfigurationError, match=rf"largest id is {TOKENS - 1}, .*only {TOKENS - 1} entries"):
        check_vocabulary(tokenizer, config)


def test_context(saved: Path) -> None:
    config = load_config(spec(saved))
    check_context(config, 256)
    with pytest.raises(ConfigurationError, match="windows of 257 tokens do not fit its context of 256"):
        check_context(config, 257)
    assert context_length(config) == 256


def test_a_model_of_any_length() -> None:
    config = BloomConfig()
    assert context_length(config) is None
    check_context(config, 10**6)
