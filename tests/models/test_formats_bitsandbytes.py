"""What bitsandbytes quantized: codes are no weights, and its own functions say what they are worth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bitsandbytes import functional
from transformers import GPT2LMHeadModel, PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import build_model_directory
from tests.support.quantized_checkpoints import bitsandbytes_copy, blockwise_base, logits_of_tokens

DOWN = "model.layers.0.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blockwise_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def baseline(base: Path) -> PreTrainedModel:
    return load_model(ModelSpec("base", base), "cpu").model


@pytest.mark.parametrize(
    ("options", "label", "words"),
    [
        ({"load_in_8bit": True}, "bnb-int8", "int8; 8 bits; symmetric; activations int8, dynamically, by token, outl"),
        (
            {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
            "bnb-nf4",
            "nf4-double; 4 bits",
        ),
    ],
)
def test_a_kind(
    base: Path, baseline: PreTrainedModel, tmp_path: Path, *, options: dict[str, Any], label: str, words: str
) -> None:
    directory = bitsandbytes_copy(tmp_path / "model", base, **options)
    files = CheckpointFiles.at(directory)
    own = files.format.quantization(files)
    assert own is not None
    assert own.label == label
    assert own.words.startswith(f"bitsandbytes {words}")

    check_checkpoint(ModelSpec("packed", directory))
    loaded = load_model(ModelSpec("packed", directory), "cpu")
    assert loaded.reading.digest() == files.digest
    before = baseline.get_parameter(DOWN)
    after = loaded.weights.get_parameter(DOWN)
    assert (after.dtype, after.shape) == (before.dtype, before.shape)
    expected = rounded(before.detach(), options)
    torch.testing.assert_close(after.float(), expected.float(), rtol=0.01, atol=1e-6)
    assert logits_of_tokens(loaded.model).isfinite().all()
    assert loaded.weights.get_parameter(DOWN).equal(after)  # though the model may have repacked its own


def rounded(values: torch.Tensor, options: dict[str, Any]) -> torch.Tensor:
    """Return a matrix quantized and dequantized by the package's own functions."""
    if options.get("load_in_8bit"):
        codes, scales, _ = functional.int8_vectorwise_quant(values.to(torch.float16))
        exact: torch.Tensor = functional.int8_vectorwise_dequant(codes, scales)
        return exact
    twice = options.get("bnb_4bit_use_double_quant", False)
    kind = options["bnb_4bit_quant_type"]
    codes, state = functional.quantize_4bit(values, blocksize=64, compress_statistics=twice, quant_type=kind)
    found: torch.Tensor = functional.dequantize_4bit(codes, state)
    return found


def test_rows_that_its_processor_path_unpacks_wrongly_are_refused(tmp_path: Path) -> None:
    base = build_model_directory(tmp_path / "base", "llama", hidden_size=64, intermediate_size=96)
    directory = bitsandbytes_copy(tmp_path / "model", base, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with pytest.raises(EvaluationError, match=r"down_proj: has rows of 96 values, no multiple of the 64 that share"):
        load_model(ModelSpec("packed", directory), "cpu")


def test_matrices_that_are_stored_the_other_way_round(tmp_path: Path) -> None:
    base = build_model_directory(tmp_path / "base", "gpt2", n_embd=64)
    directory = bitsandbytes_copy(tmp_path / "model", base, load_in_8bit=True)
    before = load_model(ModelSpec("base", base), "cpu").model
    loaded = load_model(ModelSpec("packed", directory), "cpu")
    assert isinstance(loaded.weights, GPT2LMHeadModel)
    for name in ("transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_proj.weight"):
        ours, theirs = before.get_parameter(name), loaded.weights.get_parameter(name)
        assert 0 < ((ours - theirs).norm() / ours.norm()).item() < 0.02
    assert logits_of_tokens(loaded.model).isfinite().all()
