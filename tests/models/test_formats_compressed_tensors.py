"""What compressed-tensors' own compressor packed is loaded as it runs, and unpacked to what it was packed from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.plan.quantization import Quantization
from pytest_proofpack.plan.records import ModelSpec
from tests.support.quantized_checkpoints import blockwise_base, compressed_tensors_copy, logits_of_tokens

UP = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return blockwise_base(tmp_path_factory.mktemp("base") / "base")


@pytest.fixture(scope="module")
def baseline(base: Path) -> PreTrainedModel:
    return load_model(ModelSpec("base", base), "cpu").model


def words_of(directory: Path) -> Quantization:
    files = CheckpointFiles.at(directory)
    words = files.format.quantization(files)
    assert words is not None
    return words


def loaded(directory: Path) -> LoadedModel:
    spec = ModelSpec("packed", directory)
    check_checkpoint(spec)
    model = load_model(spec, "cpu")
    assert model.reading.digest() == CheckpointFiles.at(directory).digest
    return model


@pytest.mark.parametrize(
    ("scheme", "options", "change", "words"),
    [
        ("W4A16", {"group_size": 32}, (0.05, 0.15), "W4A16; 4 bits; groups of 32; symmetric"),
        ("FP8", {}, (0.01, 0.04), "FP8; 8 bits; symmetric; activations float8, statically, by tensor"),
        ("W4A16_ASYM", {"group_size": 32}, (0.05, 0.15), "W4A16_ASYM; 4 bits; groups of 32; asymmetric"),
    ],
)
def test_a_scheme(
    base: Path,
    baseline: PreTrainedModel,
    tmp_path: Path,
    *,
    scheme: str,
    options: dict[str, Any],
    change: tuple[float, float],
    words: str,
) -> None:
    directory = compressed_tensors_copy(tmp_path / "model", scheme, base, **options)
    own = words_of(directory)
    assert own.words == f"compressed-tensors {words}; without lm_head"
    assert own.label == f"compressed-tensors:{scheme}"

    model = loaded(directory)
    assert (model.missing, model.unexpected, model.mismatched) == ((), (), ())
    names = dict(baseline.named_parameters())
    assert {name: own.shape for name, own in model.weights.named_parameters()} == {
        name: own.shape for name, own in names.items()
    }
    before, after = baseline.get_parameter(UP).float(), model.weights.get_parameter(UP).float()
    assert change[0] < ((after - before).norm() / before.norm()).item() < change[1]
    # What was left as it is, is the very tensor of the model that runs.
    embedding = "model.embed_tokens.weight"
    assert model.weights.get_parameter(embedding) is model.model.get_parameter(embedding)
    assert logits_of_tokens(model.model).isfinite().all()


def test_activations_are_quantized_as_it_runs(base: Path, tmp_path: Path) -> None:
    with_activations = loaded(compressed_tensors_copy(tmp_path / "a", "NVFP4", base))
    without = loaded(compressed_tensors_copy(tmp_path / "b", "NVFP4A16", base))
    ours, theirs = (own.weights.get_parameter(UP) for own in (with_activations, without))
    assert ours.equal(theirs)
    assert not logits_of_tokens(with_activations.model).equal(logits_of_tokens(without.model))


@pytest.mark.parametrize("change", ["missing", "of another shape"])
def test_a_scale_that_is_lost_is_named_and_nothing_is_measured(base: Path, tmp_path: Path, change: str) -> None:
    directory, scale = compressed_tensors_copy(tmp_path / "model", "W8A8", base), f"{UP}_scale"
    tensors = load_file(directory / "model.safetensors")
    values = tensors.pop(scale)
    if change == "of another shape":
        tensors[scale] = values[:-1].contiguous()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(EvaluationError, match=rf"1 parts of packed weights that are missing or .* \({scale}\), so"):
        loaded(directory)


@pytest.mark.parametrize(("scheme", "options"), [("W8A8", {}), ("W4A16_ASYM", {"group_size": 32})])
def test_dense_weights_that_are_called_packed_are_refused(
    base: Path, tmp_path: Path, scheme: str, options: dict[str, Any]
) -> None:
    directory = compressed_tensors_copy(tmp_path / "model", scheme, base, **options)
    save_file(load_file(base / "model.safetensors"), directory / "model.safetensors", metadata={"format": "pt"})
    said = r"by compressed-tensors, and no tensor is packed so \(\*_packed, \*_scale\)"
    with pytest.raises(ConfigurationError, match=said):
        loaded(directory)


def test_several_schemes_are_mixed(base: Path, tmp_path: Path) -> None:
    directory = compressed_tensors_copy(tmp_path / "model", "W8A8", base)
    config = json.loads((directory / "config.json").read_text())
    groups = config["quantization_config"]["config_groups"]
    groups["group_1"] = {**groups["group_0"], "weights": {**groups["group_0"]["weights"], "num_bits": 4}}
    (directory / "config.json").write_text(json.dumps(config))
    assert (words_of(directory).label, words_of(directory).bits) == ("compressed-tensors:mixed", None)


@pytest.mark.parametrize("groups", [None, [], {"a": 1}, {"a": {"weights": 5, "input_activations": []}}])
def test_a_configuration_that_is_none(tmp_path: Path, groups: object) -> None:
    config = {"model_type": "llama", "quantization_config": {"quant_method": "compressed-tensors"}}
    config["quantization_config"] |= {"config_groups": groups, "ignore": 3, "format": {}}  # type: ignore[operator]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert words_of(tmp_path).method == "compressed-tensors"
