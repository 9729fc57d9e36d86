"""A directory's format is told from its configuration and names; one record says what becomes of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils.quantization_config import QuantizationMethod

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.readings import UNPACKED_HERE
from pytest_proofpack.models import checkpoint_formats
from pytest_proofpack.models.checkpoint_formats import CHECKPOINT_FORMATS, CheckpointFormat, Loaded
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint, check_model_directory
from pytest_proofpack.models.formats.quantized import REFUSED
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
        (("model.safetensors",), {"quantization_config": {"quant_method": "hqq"}}, "quantized"),
        *(
            (("model.safetensors",), {"quantization_config": {"quant_method": own}}, own)
            for own in sorted(UNPACKED_HERE)
        ),
        (("model.safetensors",), {"quantization_config": {"quant_method": "mxfp8"}}, "mxfp8"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "compressed-tensors"}}, "compressed-tensors"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "bitsandbytes"}}, "bitsandbytes"),
        (("model.safetensors",), {"quantization_config": {"load_in_8bit": True}}, "bitsandbytes"),
        (("model.safetensors",), {"quantization_config": {"quant_method": "torchao"}}, "torchao"),
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
    dense = {"adapter", "fp8", "mxfp8", "mxfp4", "compressed-tensors-asymmetric", "gguf", "safetensors", *UNPACKED_HERE}
    packed = {"compressed-tensors", "bitsandbytes", "torchao"}
    assert supported == dense | packed
    assert {name for name in supported if CHECKPOINT_FORMATS[name].loaded is Loaded.PACKED} == packed


def refused(path: Path, saved: Path, **quantization: Any) -> str:
    """Return why a copy with such a ``quantization_config`` is refused before anything is loaded."""
    shutil.copytree(saved, path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    with pytest.raises(ConfigurationError) as caught:
        check_checkpoint(ModelSpec("a", path))
    return str(caught.value).removeprefix(f"{path}: ")


class TestRefused:
    """One sentence that names form, package and remedy, before anything is loaded."""

    def test_every_method_that_transformers_knows_has_a_record_or_is_refused_by_name(self) -> None:
        certified = {"fp8", "mxfp8", "mxfp4", "compressed-tensors", "bitsandbytes", "torchao", *UNPACKED_HERE}
        of_others = {"gguf"}
        assert {own.value for own in QuantizationMethod} == {*certified, *of_others, *REFUSED}

    @pytest.mark.parametrize(("method", "package"), [(name, package) for name, (package, _) in REFUSED.items()])
    def test_a_method(self, saved: Path, tmp_path: Path, method: str, package: str) -> None:
        words = refused(tmp_path / "model", saved, quant_method=method)
        assert words.startswith(f"is quantized by {method!r}, a form of the package {package}, wh")
        assert words.endswith("Dequantize it where it was made, and save that: its weights can be certified.")

    def test_a_method_that_nobody_knows(self, saved: Path, tmp_path: Path) -> None:
        words = refused(tmp_path / "model", saved, quant_method="x" * 500)
        assert words.startswith(f"is quantized by {'x' * 40!r}, a form that is not known here, so")

    def test_a_package_that_is_missing(self, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checkpoint_formats, "find_spec", lambda _name: None)
        words = refused(tmp_path / "model", saved, quant_method="torchao")
        assert words == (
            "has the form 'torchao', which the package torchao loads, and that is not installed. Install it (pip "
            'install "pytest-proofpack[torchao]"), or save the model dense.'
        )

    @pytest.mark.parametrize("method", sorted(UNPACKED_HERE))
    def test_packed_weights_that_are_not_there(self, saved: Path, tmp_path: Path, method: str) -> None:
        words = refused(tmp_path / "model", saved, quant_method=method)
        assert words.startswith(f"config.json says that its weights are quantized by {method}, and no tensor is packed")

    @pytest.mark.parametrize("method", ["bitsandbytes", "torchao"])
    def test_dense_weights_under_a_quantization_that_was_left(self, saved: Path, tmp_path: Path, method: str) -> None:
        words = refused(tmp_path / "model", saved, quant_method=method)
        assert words.startswith(f"config.json says that its weights are quantized by {method}, and no tensor is packed")
        assert words.endswith("If they are dense, remove quantization_config from config.json.")

    @pytest.mark.parametrize("quantization", [{}, "int4", {"bits": 4}])
    def test_a_quantization_without_a_method(self, saved: Path, tmp_path: Path, quantization: object) -> None:
        path = shutil.copytree(saved, tmp_path / "model")
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
        with pytest.raises(
            ConfigurationError, match=r"names no quant_method, so nobody can tell .* remove quantization"
        ):
            check_checkpoint(ModelSpec("a", path))

    @pytest.mark.parametrize("sparse", [{"format": "marlin-24"}, {"sparsity_config": {"format": "sparse-24-bitmask"}}])
    def test_sparse_compression(self, saved: Path, tmp_path: Path, sparse: dict[str, Any]) -> None:
        words = refused(tmp_path / "model", saved, quant_method="compressed-tensors", **sparse)
        assert "which that package reads no longer since 0.15. Save the model dense, with its zeros" in words

    def test_a_packed_baseline(self, saved: Path, tmp_path: Path) -> None:
        path = shutil.copytree(saved, tmp_path / "model")
        config = json.loads((path / "config.json").read_text())
        quantization = {"quant_method": "bitsandbytes", "load_in_8bit": True}
        (path / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
        weights = load_file(path / "model.safetensors")
        scales = {"model.layers.0.mlp.up_proj.SCB": torch.ones(8)}
        save_file(weights | scales, path / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(ConfigurationError, match=r"stays packed when it is loaded, so it can be judged, but is no"):
            check_model_directory(ModelSpec("a", path))

    def test_a_record_whose_packed_weights_nobody_can_read(self) -> None:
        with pytest.raises(ConfigurationError, match="dequantize belongs to a format that stays packed"):
            CheckpointFormat("mine", lambda _: True, loaded=Loaded.PACKED)


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
