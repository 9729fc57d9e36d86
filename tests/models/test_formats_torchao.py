"""What torchao quantized: tensors of its own classes run as they are, and are measured as what they dequantize to."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel
from transformers.quantizers import quantizer_torchao

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.quantized_checkpoints import four_bits_with_activations, logits_of_tokens, torchao_copy

UP = "model.layers.0.mlp.up_proj.weight"


def configs() -> Any:
    import torchao.quantization as module

    return module


@pytest.fixture(scope="module")
def baseline() -> PreTrainedModel:
    return load_model(ModelSpec("base", EMBEDDED), "cpu").model


@pytest.mark.parametrize(
    ("config", "label", "words", "change"),
    [
        (lambda: configs().Int8WeightOnlyConfig(), "int8wo", "8 bits", (0.003, 0.01)),
        (lambda: configs().Float8WeightOnlyConfig(), "fp8wo", "8 bits", (0.01, 0.04)),
        (
            four_bits_with_activations,
            *("int8dyn-int4w", "4 bits; groups of 32; symmetric; activations int8, dynamically", (0.05, 0.15)),
        ),
    ],
)
def test_a_configuration(
    baseline: PreTrainedModel,
    tmp_path: Path,
    *,
    config: Callable[[], object],
    label: str,
    words: str,
    change: tuple[float, float],
) -> None:
    directory = torchao_copy(tmp_path / "model", config())
    files = CheckpointFiles.at(directory)
    own = files.format.quantization(files)
    assert own is not None
    assert (own.label, own.words) == (f"torchao:{label}", f"torchao {label}; {words}")

    check_checkpoint(ModelSpec("packed", directory))
    loaded = load_model(ModelSpec("packed", directory), "cpu")
    assert loaded.reading.digest() == files.digest
    before, after = baseline.get_parameter(UP), loaded.weights.get_parameter(UP)
    assert (type(after), after.dtype) == (torch.nn.Parameter, before.dtype)
    assert change[0] < ((after - before).norm() / before.norm()).item() < change[1]
    # Its head is the embedding, which stays as it is.
    assert loaded.weights.get_parameter("lm_head.weight") is loaded.model.get_parameter("model.embed_tokens.weight")
    assert logits_of_tokens(loaded.model).isfinite().all()


def test_its_header_too_is_read_through_what_hashes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = torchao_copy(tmp_path / "model", configs().Int8WeightOnlyConfig())
    monkeypatch.setattr(quantizer_torchao, "safe_open", lambda *_args, **_options: pytest.fail("the file was mapped"))
    load_model(ModelSpec("packed", directory), "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_kernel_for_gpus_alone_is_told_before_anything_is_loaded(tmp_path: Path) -> None:
    directory = torchao_copy(tmp_path / "model", configs().Int8WeightOnlyConfig())
    config = json.loads((directory / "config.json").read_text())
    config["quantization_config"]["quant_type"]["default"]["_type"] = "Int4WeightOnlyConfig"
    (directory / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigurationError, match=r"is quantized by torchao with a kernel for GPUs alone \(its packed "):
        check_checkpoint(ModelSpec("packed", directory))


@pytest.mark.parametrize(
    ("chosen", "label"),
    [
        (None, "torchao:mixed"),
        ("int8_weight_only", "torchao:int8_weight_only"),
        ({"default": {"_type": "Int8WeightOnlyConfig", "_data": 5}}, "torchao:int8wo"),
        ({"default": {"_type": "MyConfig", "_data": {"weight_dtype": {"_data": ["x"]}}}}, "torchao:My"),
        ({"default": {"_type": "IntxWeightOnlyConfig", "_data": {"weight_dtype": "int99"}}}, "torchao:intxwo"),
        ({"a": {"_type": "Int8WeightOnlyConfig"}, "b": {"_type": "Float8WeightOnlyConfig"}}, "torchao:mixed"),
        (
            {"default": {"_type": "FqnToConfig", "_data": {"x": {"_default": {"_type": "Int8WeightOnlyConfig"}}}}},
            "torchao:int8wo",
        ),
    ],
)
def test_a_configuration_of_any_other_kind(tmp_path: Path, chosen: object, label: str) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "torchao", "quant_type": chosen}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    files = CheckpointFiles.at(tmp_path)
    own = files.format.quantization(files)
    assert own is not None
    assert own.label == label
