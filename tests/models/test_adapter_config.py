"""An adapter's configuration is somebody else's: what is not plain, or does more than add to weights, is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.adapter_config import AdapterConfig, read_adapter_config
from pytest_proofpack.models.files import CheckpointFiles

PLAIN = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}


def read(directory: Path, **values: Any) -> AdapterConfig:
    given = {key: value for key, value in {**PLAIN, **values}.items() if value is not ...}
    (directory / "adapter_config.json").write_text(json.dumps(given))
    return read_adapter_config(CheckpointFiles.at(directory))


@pytest.mark.parametrize(
    ("values", "label"),
    [
        ({}, "lora"),
        ({"use_dora": True}, "dora"),
        ({"use_rslora": True}, "rslora"),
        ({"peft_type": "IA3"}, "ia3"),
        ({"peft_type": "LN_TUNING"}, "ln_tuning"),
    ],
)
def test_the_label(tmp_path: Path, values: dict[str, Any], label: str) -> None:
    assert read(tmp_path, **values).label == label


def test_what_tells_of_training_is_not_handed_on(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        base_model_name_or_path="acme/model",
        auto_mapping={"base_model_class": "M", "parent_library": "os"},
        megatron_core="os",
        runtime_config={"ephemeral_gpu_offload": True},
        corda_config={"cache_file": "/etc/passwd"},
        layer_replication=None,
        init_lora_weights="eva",
    )
    assert config.base == "acme/model"
    assert config.values == {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "init_lora_weights": True}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING: it changes what the model reads and none of its weights"),
        ({"peft_type": "PROMPT_TUNING"}, "so it cannot be merged"),
        ({"peft_type": "XLORA"}, "peft_type is 'XLORA', which is not merged here"),
        ({"peft_type": ...}, "peft_type is None, which is not merged here"),
        ({"peft_type": ["LORA"]}, r"peft_type is \['LORA'\], which is not merged here"),
        ({"peft_type": "\x1b[31mLORA"}, r"peft_type is '\\x1b\[31mLORA'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'; an adapter of a causal language model"),
        ({"megatron_config": {"a": 1}}, "megatron_config is set: such an adapter does not merge"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "layer_replication is set"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens is set"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq': training began with another baseline"),
        ({"init_lora_weights": ["eva"]}, "init_lora_weights is"),
        ({"init_lora_weights": "pissa_niter_9999999"}, "init_lora_weights is"),
        ({"target_modules": ["(a+)+$"]}, r"target_modules is \['\(a\+\)\+\$'\]; names of modules are expected"),
        ({"target_modules": {"q_proj": 1}}, "target_modules is .* names of modules are expected"),
        ({"modules_to_save": ["(.*)*x"]}, "modules_to_save is .* names of modules are expected"),
        ({"layers_pattern": "(a|a)*b"}, "layers_pattern is .* names of modules are expected"),
        ({"rank_pattern": {"(a+)+b": 4}}, r"rank_pattern holds '\(a\+\)\+b'"),
        ({"alpha_pattern": [4]}, r"alpha_pattern holds \[4\]"),
        ({"trainable_token_indices": {"(a+)+b": [1]}}, "trainable_token_indices is .* names of modules"),
        ({"target_modules": "a" * 2000}, "target_modules is a text of 2000 characters"),
        ({"target_modules": ["q"] * 20_000}, "target_modules holds more than 10000 entries"),
        ({"rank_pattern": {"q": {"a": {"b": 1}}}}, "rank_pattern holds more than 10000 entries, or too deep ones"),
        ({"r": 2**60}, "r is a number out of all bounds"),
        ({"base_model_name_or_path": 5}, "base_model_name_or_path is 5; a text is expected"),
    ],
)
def test_refused(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"adapter_config\.json: .*{message}"):
        read(tmp_path, **values)


@pytest.mark.parametrize("text", ["", "[]", '{"peft_type": "LORA", "r": NaN}', "{" * 100_000, '"' + "a" * 2**21 + '"'])
def test_what_is_no_bounded_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "adapter_config.json").write_text(text)
    with pytest.raises(ConfigurationError, match=r"adapter_config\.json: .*Save the adapter again"):
        read_adapter_config(CheckpointFiles.at(tmp_path))


@pytest.mark.parametrize(
    ("base", "shown"),
    [("acme/model", "acme/model"), ("/home/somebody/models/llama", "llama"), ("../llama", "llama"), (None, None)],
)
def test_a_reader_elsewhere_is_told_no_path(tmp_path: Path, base: str | None, shown: str | None) -> None:
    assert read(tmp_path, base_model_name_or_path=base).base_name == shown


def test_patterns_are_what_peft_would_match(tmp_path: Path) -> None:
    assert read(tmp_path, target_modules=".*q_proj", exclude_modules="a|b").patterns == {
        "target_modules": ".*q_proj",
        "exclude_modules": "a|b",
    }
    assert read(tmp_path, target_modules="all-linear").patterns == {}
