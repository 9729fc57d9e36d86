"""A directory's format is told from its configuration and names; one record says what becomes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.checkpoint_formats import CHECKPOINT_FORMATS, CheckpointFormat, Loaded
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.model_files import build_model_directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "llama")


def directory(path: Path, *names: str, **config: Any) -> Path:
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    for name in names:
        (path / name).touch()
    return path


@pytest.mark.parametrize(
    ("names", "config", "expected"),
    [
        (("model.safetensors",), {}, "safetensors"),
        (("model.safetensors.index.json", "pytorch_model.bin"), {}, "safetensors"),
        (("model.safetensors",), {"quantization_config": None}, "safetensors"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "mxfp4"}}, "mxfp4"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "compressed-tensors"}}, "quantized"),
        (("model.safetensors", "adapter_config.json"), {}, "adapter_beside_model"),
        (("adapter_model.safetensors", "adapter_config.json"), {}, "adapter"),
        (("model.safetensors", "shard-00001-model-00001-of-00001.safetensors"), {}, "distributed"),
        (("model.safetensors",), {"transformers_weights": "x.safetensors"}, "named_weights"),
        (("pytorch_model.bin",), {}, "pickle"),
        (("consolidated.pth", "other.safetensors"), {}, "safetensors"),
    ],
)
def test_recognised(tmp_path: Path, names: tuple[str, ...], config: dict[str, Any], expected: str) -> None:
    assert CheckpointFiles.at(directory(tmp_path, *names, **config)).format.name == expected


def test_what_becomes_of_each() -> None:
    supported = {name for name, known in CHECKPOINT_FORMATS.items() if known.supported}
    assert supported == {"adapter", "fp8", "mxfp4", "quantized", "safetensors"}
    assert {name for name in supported if CHECKPOINT_FORMATS[name].loaded is Loaded.PACKED} == {"quantized"}


def test_a_configuration_that_cannot_be_read_is_told_by_whoever_needs_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    files = CheckpointFiles.at(tmp_path)
    assert (files.format.name, files.quantization_method) == ("safetensors", None)
    with pytest.raises(ConfigurationError, match=r"config\.json: not valid JSON"):
        files.config  # noqa: B018


class TestFromOutside:
    @pytest.fixture
    def wide(self) -> Iterator[None]:
        """A format that the configuration names, loaded with arguments of its own."""
        CHECKPOINT_FORMATS.register(
            CheckpointFormat(
                "wide",
                recognises=lambda files: files.claims.get("my_format") == "wide",
                arguments=lambda _files, read_config: {"config": read_config(), "dtype": torch.float64},
            )
        )
        yield
        CHECKPOINT_FORMATS.unregister("wide")

    @pytest.mark.usefixtures("wide")
    def test_comes_before_the_packages_own(self, saved: Path, tmp_path: Path) -> None:
        path = shutil.copytree(saved, tmp_path / "model")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "my_format": "wide"}))
        assert CheckpointFiles.at(path).format.name == "wide"
        check_checkpoint(ModelSpec("a", path))
        assert load_model(ModelSpec("a", path), "cpu").model.dtype == torch.float64
        assert CheckpointFiles.at(saved).format.name == "safetensors"

    def test_its_words_are_those_of_the_error(self, saved: Path) -> None:
        own = CheckpointFormat("mine", lambda _: True, refuses=lambda files: f"is a {files.config['model_type']}. No.")
        CHECKPOINT_FORMATS.register(own)
        try:
            path = shutil.copytree(saved, saved.parent / "refused")
            with pytest.raises(ConfigurationError, match=r"refused: is a llama\. No\."):
                check_checkpoint(ModelSpec("a", path))
        finally:
            CHECKPOINT_FORMATS.unregister("mine")
