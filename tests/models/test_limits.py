"""What a model takes is known before it is loaded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, AutoModelForCausalLM, BloomConfig, RobertaConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.limits import _POSITIONS, context_length, limits_of, read_limits
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
    assert limits.check_vocabulary(tokenizer) == ()
    assert replace(limits, vocabulary=TOKENS + 64).check_vocabulary(tokenizer) == ()


def test_tokens_beyond_the_embedding_are_named(saved: Path) -> None:
    tokenizer, limits = load_tokenizer(spec(saved)), limits_of(load_config(spec(saved)))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    (warning,) = limits.check_vocabulary(tokenizer)
    assert f"no embedding for: '[PAD]' ({TOKENS}); the model's vocabulary has only {TOKENS} entries" in warning
    (warning,) = replace(limits, vocabulary=TOKENS - 9).check_vocabulary(tokenizer)
    assert "'[PAD]'" not in warning
    assert "and 6 more" in warning
    tokenizer.eos_token = "[PAD]"
    with pytest.raises(ConfigurationError, match=rf"end-of-text token has the id {TOKENS}, but .* only {TOKENS} entr"):
        limits.check_vocabulary(tokenizer)


def test_only_ids_that_the_text_uses_are_refused(saved: Path) -> None:
    tokenizer, limits = load_tokenizer(spec(saved)), limits_of(load_config(spec(saved)))
    windows = np.array([[0, 5], [7, 6]])
    replace(limits, vocabulary=8).check_windows(windows, tokenizer)
    token = tokenizer.convert_ids_to_tokens(7)
    with pytest.raises(
        ConfigurationError, match=rf"the token {token!r} with the id 7, but .* only 7 entries.*right one"
    ):
        replace(limits, vocabulary=7).check_windows(windows, tokenizer)
    with pytest.raises(ConfigurationError, match=r"only 7 entries\. The baseline's tokenizer makes the windows"):
        replace(limits, vocabulary=7).check_windows(windows, tokenizer, edited=True)


def test_context(saved: Path) -> None:
    limits = limits_of(load_config(spec(saved)))
    limits.check_context(256)
    with pytest.raises(ConfigurationError, match="windows of 257 tokens do not fit its context of 256"):
        limits.check_context(257)
    assert limits.positions == 256


ANY_LENGTH = frozenset({"bloom", "cpmant", "falcon_mamba", "mamba", "mamba2", "recurrent_gemma", "xlnet", "xlstm"})
"""Types of models that are recurrent, or whose attention is biased by distance."""


def test_the_context_of_every_causal_model_that_transformers_knows() -> None:
    """Under whatever name its configuration holds it; a type without any is one that takes any length."""
    without = set()
    for kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        try:
            config = AutoConfig.for_model(kind)
            config.get_text_config()
        except (ValueError, StrictDataclassError):  # nothing by default, or several texts: no causal language model
            continue
        if context_length(config) is None:
            without.add(kind)
    assert without == ANY_LENGTH
    limits_of(BloomConfig()).check_context(10**6)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("mpt", "max_seq_len"),
        ("gpt2", "n_positions"),
        ("dbrx", "max_seq_len"),
        ("rwkv", "context_length"),
        ("opt", "max_position_embeddings"),
        ("codegen", "n_positions"),
        ("bloom", "seq_length"),
    ],
)
def test_names_of_the_context(kind: str, name: str) -> None:
    assert context_length(AutoConfig.for_model(kind, **{name: 96})) == 96


@pytest.mark.parametrize("value", [None, 0, -1, "2048", True])
def test_what_is_no_length_is_none(value: object) -> None:
    config = AutoConfig.for_model("bloom", seq_length=value)
    assert context_length(config) is None


def test_positions_that_begin_after_the_padding_token() -> None:
    """The table of 20 rows holds 18 positions: so many tokens it takes, and no more."""
    sizes: dict[str, Any] = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    config = RobertaConfig(vocab_size=40, max_position_embeddings=20, pad_token_id=1, is_decoder=True, **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()  # type: ignore[no-untyped-call]
    longest = context_length(config)
    assert longest == 18
    model(input_ids=torch.full((1, longest), 5))
    with pytest.raises(RuntimeError):
        model(input_ids=torch.full((1, longest + 1), 5))


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


@pytest.mark.parametrize(
    "written", [{"text_config": {"hidden_size": 64}}, {"text_config": {}}, {"vocab_size": 0, "auto_map": {}}]
)
def test_a_configuration_without_a_vocabulary_is_refused(saved: Path, tmp_path: Path, written: dict[str, Any]) -> None:
    known = json.loads((saved / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(known | written))
    with pytest.raises(ConfigurationError, match="gives no vocab_size from 1 up"):
        read_limits(spec(tmp_path), CheckpointFiles.at(tmp_path))
