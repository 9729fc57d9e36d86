"""Models and tokenizers load quietly and bit for bit; what is missing or odd is told, never papered over."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import (
    load_config,
    load_model,
    load_tokenizer,
    require_every_key,
)
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.text.windows import tokenizer_fingerprint
from tests.support.edited_checkpoints import FP8_CONFIG, store_as_fp8, store_as_mxfp4, store_as_mxfp8
from tests.support.model_files import END, TOKENS, build_model_directory, small_tokenizer
from tests.support.small_models import small_model, weights_digest


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def spec(path: Path) -> ModelSpec:
    return ModelSpec("org/model", path)


def change_json(file: Path, **values: object) -> None:
    content: dict[str, Any] = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def change_tensors(directory: Path, add: dict[str, torch.Tensor], remove: tuple[str, ...] = ()) -> None:
    file = directory / "model.safetensors"
    tensors = load_file(file) | add
    save_file({name: t for name, t in tensors.items() if name not in remove}, file, metadata={"format": "pt"})


MXFP8_CONFIG: JsonObject = {"quant_method": "mxfp8"}


class TestModel:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_loads_bit_for_bit_in_the_checkpoints_dtype(self, tmp_path: Path, dtype: torch.dtype) -> None:
        path = build_model_directory(tmp_path / "model", "qwen2", dtype=dtype)
        loaded = load_model(spec(path), "cpu")
        assert weights_digest(loaded.model) == weights_digest(small_model("qwen2", dtype=dtype, vocab_size=TOKENS))
        assert loaded.model.dtype == dtype
        assert not loaded.model.training
        assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
        assert (loaded.missing, loaded.unexpected, loaded.mismatched, loaded.warnings) == ((), (), (), ())

    def test_dtype_can_be_chosen(self, saved: Path) -> None:
        assert load_model(spec(saved), "cpu", torch.bfloat16).model.dtype == torch.bfloat16

    def test_shards_are_the_same_model(self, saved: Path, tmp_path: Path) -> None:
        shards = build_model_directory(tmp_path / "model", shard_size="60KB")
        assert weights_digest(load_model(spec(shards), "cpu").model) == weights_digest(
            load_model(spec(saved), "cpu").model
        )

    def test_odd_tensors_are_returned_and_their_substitutes_reproducible(
        self, directory: Path, capfd: pytest.CaptureFixture[str]
    ) -> None:
        change_tensors(
            directory,
            add={"model.layers.0.stray.weight": torch.ones(2, 2), "lm_head.weight": torch.ones(TOKENS + 8, 32)},
            remove=("model.layers.1.self_attn.q_proj.weight", "model.norm.weight"),
        )
        state = torch.get_rng_state()
        first, second = (load_model(spec(directory), "cpu") for _ in range(2))
        assert first.missing == ("model.layers.1.self_attn.q_proj.weight", "model.norm.weight")
        assert first.unexpected == ("model.layers.0.stray.weight",)
        assert first.mismatched == ("lm_head.weight",)
        assert first.warnings == ()  # transformers' table of the same would say it twice
        assert weights_digest(first.model) == weights_digest(second.model)
        assert torch.equal(state, torch.get_rng_state())
        assert capfd.readouterr() == ("", "")

    def test_warnings_are_collected_not_printed(self, directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
        change_json(directory / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e4, "odd": 1})
        logger = logging.getLogger("transformers")
        before = list(logger.handlers), logger.propagate
        assert any("odd" in message for message in load_model(spec(directory), "cpu").warnings)
        assert capfd.readouterr() == ("", "")
        assert (list(logger.handlers), logger.propagate) == before

    @pytest.mark.parametrize(
        "values",
        [{"num_attention_heads": "four"}, {"hidden_size": -1}, {"model_type": "nobody-knows"}, {"hidden_act": "odd"}],
        ids=["type", "size", "architecture", "activation"],
    )
    def test_a_config_that_builds_no_model(self, directory: Path, values: dict[str, object]) -> None:
        change_json(directory / "config.json", **values)
        with pytest.raises(EvaluationError, match="org/model: cannot be loaded from"):
            load_model(spec(directory), "cpu")

    @pytest.mark.parametrize(
        ("architecture", "config", "store", "name"),
        [
            ("llama", FP8_CONFIG, partial(store_as_fp8, block=16), "model.layers.0.mlp.up_proj.weight"),
            ("llama", MXFP8_CONFIG, store_as_mxfp8, "model.layers.0.mlp.up_proj.weight"),
            ("gpt_oss", {"quant_method": "mxfp4"}, store_as_mxfp4, "model.layers.0.mlp.experts.gate_up_proj"),
        ],
    )
    def test_quantized_files_become_dense(
        self, tmp_path: Path, architecture: str, config: JsonObject, store: Any, name: str
    ) -> None:
        sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 16}
        directory = build_model_directory(tmp_path / "model", architecture, **sizes)
        tensors = load_file(directory / "model.safetensors")
        before = small_model(architecture, **sizes, vocab_size=TOKENS).get_parameter(name)
        store(tensors)
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        block = [1, 32] if config is MXFP8_CONFIG else [16, 16]
        change_json(directory / "config.json", quantization_config={**config, "weight_block_size": block})

        loaded = load_model(spec(directory), "cpu")
        after = loaded.model.get_parameter(name)
        assert CheckpointFiles.at(directory).quantization_method == config["quant_method"]
        assert (loaded.missing, loaded.unexpected, loaded.mismatched) == ((), (), ())
        assert after.is_floating_point()
        assert 0 < ((after - before).norm() / before.norm()).item() < 0.15

    @pytest.mark.parametrize(
        ("method", "types"),
        [("fp8", "F8_E4M3 or "), ("mxfp8", "F8_E4M3 or "), ("mxfp4", "U8")],
    )
    def test_dense_weights_that_are_called_quantized_are_refused(
        self, directory: Path, method: str, types: str
    ) -> None:
        change_json(directory / "config.json", quantization_config={"quant_method": method})
        said = rf"quantized by {method}, and no tensor is packed so \(in tensors of {types}.*remove quantization_config"
        with pytest.raises(ConfigurationError, match=said):
            check_checkpoint(spec(directory))

    def test_a_form_that_cannot_be_loaded_says_so(self, directory: Path) -> None:
        broken = {"quant_method": "fp8", "weight_block_size": [0, 0]}
        change_json(directory / "config.json", quantization_config=broken)
        with pytest.raises(EvaluationError, match=r"weight_block_size.*Its weights are quantized by fp8: install what"):
            load_model(spec(directory), "cpu")

    def test_pickles_are_never_loaded(self, directory: Path) -> None:
        torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
        (directory / "model.safetensors").unlink()
        with pytest.raises(EvaluationError, match="cannot be loaded"):
            load_model(spec(directory), "cpu")

    def test_code_in_the_directory_never_runs(self, directory: Path) -> None:
        trap = directory / "trap.py"
        trap.write_text(f"open({str(directory / 'sprung')!r}, 'w')\nclass Trap: pass\n")
        auto_map = {
            "AutoConfig": "trap.Trap",
            "AutoModelForCausalLM": "trap.Trap",
            "AutoTokenizer": ["trap.Trap", None],
        }
        change_json(directory / "config.json", auto_map=auto_map)
        change_json(directory / "tokenizer_config.json", auto_map=auto_map)
        load_model(spec(directory), "cpu")
        load_tokenizer(spec(directory))
        change_json(directory / "config.json", model_type="trap")
        with pytest.raises(EvaluationError):
            load_model(spec(directory), "cpu")
        with pytest.raises(ConfigurationError, match="transformers cannot use"):
            load_config(spec(directory))
        assert not (directory / "sprung").exists()


class TestEveryKey:
    """A baseline's files hold what its configuration says, no less and no more."""

    @pytest.mark.parametrize(
        ("add", "remove", "named"),
        [
            ({}, ("model.norm.weight",), r"1 missing \(model\.norm\.weight\)"),
            ({"model.norm.weight": torch.ones(7)}, (), r"1 mismatched \(model\.norm\.weight\)"),
            ({"lora_a": torch.ones(7)}, (), r"1 unexpected \(lora_a\)"),
            ({"extra": torch.ones(7)}, ("model.norm.weight",), r"1 missing \(model\.norm.*; 1 unexpected \(extra\)"),
        ],
    )
    def test_what_is_not_there_or_too_much_is_named(
        self, directory: Path, add: dict[str, torch.Tensor], remove: tuple[str, ...], named: str
    ) -> None:
        change_tensors(directory, add, remove)
        with pytest.raises(ConfigurationError, match=named):
            require_every_key(spec(directory), load_model(spec(directory), "cpu"))

    @pytest.mark.parametrize(
        ("architecture", "add"),
        [
            ("llama", {}),
            ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
            ("gpt2", {"transformer.h.0.attn.bias": torch.ones(1, 1, 256, 256)}),
            ("gpt_neox", {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)}),
            ("qwen2", {"lm_head.weight": None}),
        ],
    )
    def test_what_transformers_declares_harmless_is_fine(
        self, tmp_path: Path, architecture: str, add: dict[str, torch.Tensor | None]
    ) -> None:
        directory = build_model_directory(tmp_path / "model", architecture)
        tensors = load_file(directory / "model.safetensors")
        copies = {name: tensors["model.embed_tokens.weight"].clone() for name, new in add.items() if new is None}
        change_tensors(directory, {name: new for name, new in add.items() if new is not None} | copies)
        require_every_key(spec(directory), load_model(spec(directory), "cpu"))


class TestTokenizer:
    def test_behaves_as_the_saved_one(self, saved: Path) -> None:
        assert tokenizer_fingerprint(load_tokenizer(spec(saved))) == tokenizer_fingerprint(small_tokenizer())

    @pytest.mark.parametrize("identifier", [0, [0, 5]])
    def test_end_of_text_comes_from_the_config_where_the_tokenizer_has_none(
        self, directory: Path, identifier: int | list[int]
    ) -> None:
        small_tokenizer(end=None).save_pretrained(directory)
        change_json(directory / "config.json", eos_token_id=identifier)
        tokenizer = load_tokenizer(spec(directory))
        assert (tokenizer.eos_token, tokenizer.eos_token_id) == (END, 0)

    def test_no_end_of_text_anywhere(self, tmp_path: Path) -> None:
        path = build_model_directory(tmp_path / "model", eos_token_id=TOKENS + 5)
        small_tokenizer(end=None).save_pretrained(path)
        with pytest.raises(ConfigurationError, match=r"org/model: .*end-of-text.*tokenizer_config\.json"):
            load_tokenizer(spec(path))

    @pytest.mark.parametrize("content", ["{", "{}", '{"model": {"type": "Odd"}}'])
    def test_malformed(self, directory: Path, content: str) -> None:
        (directory / "tokenizer.json").write_text(content)
        with pytest.raises(ConfigurationError, match="org/model: no tokenizer can be made"):
            load_tokenizer(spec(directory))

    def test_missing_files_make_no_empty_tokenizer(self, directory: Path) -> None:
        (directory / "tokenizer.json").unlink()
        with pytest.raises(ConfigurationError, match="holds no tokenizer"):
            load_tokenizer(spec(directory))
