"""What GPTQ's and AWQ's tools pack is loaded as the dense weights that it is worth, or refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.plan.quantization import Quantization
from pytest_proofpack.plan.records import ModelSpec
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.model_files import build_model_directory
from tests.support.packed_checkpoints import Packing, packed_copy

WEIGHTS = "model.safetensors"
UP = "model.layers.0.mlp.up_proj"
ONE_LAYER = "layers.0."
BY_TOOLS = Path(__file__).parents[1] / "support" / "packed_by_tools.safetensors"
"""A module of every product of GPTQModel and AutoRound that docs/formats.md lists, and the digest of what they unpack
it to: made by ``benchmarks/packed_by_tools.py``."""
Tensors = dict[str, Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(
        tmp_path_factory.mktemp("base") / "base", hidden_size=64, intermediate_size=96, num_key_value_heads=4
    )


def loaded(directory: Path) -> LoadedModel:
    spec = ModelSpec("packed", directory)
    check_checkpoint(spec)
    model = load_model(spec, "cpu")
    assert model.reading.digest() == CheckpointFiles.at(directory).digest
    return model


def words_of(directory: Path) -> Quantization:
    files = CheckpointFiles.at(directory)
    words = files.format.quantization(files)
    assert words is not None
    return words


def rewrite(directory: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(directory / WEIGHTS)
    change(tensors)
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "packing",
    [
        *(Packing(bits=bits, symmetric=symmetric) for bits in (2, 3, 4, 8) for symmetric in (True, False)),
        *(Packing(bits=bits, version="gptq_v2", symmetric=False) for bits in (3, 4)),
        *(Packing(bits=bits, version="gptq_p", symmetric=False) for bits in (3, 4, 5, 6, 7)),
        Packing(group=-1),
        Packing(shuffled=True, symmetric=False),
        Packing(grouped=False),
        Packing("awq", symmetric=False),
        Packing("awq", group=-1),
    ],
    ids=lambda own: f"{own.version if own.method == 'gptq' else 'awq'}-{own.bits}-{own.group}-{own.symmetric:d}",
)
def test_every_value_is_that_of_its_bits(base: Path, tmp_path: Path, packing: Packing) -> None:
    worth = packed_copy(tmp_path / "model", packing, base)
    assert len(worth) == 21
    files = CheckpointFiles.at(tmp_path / "model")
    assert (files.format.name, words_of(files.path).label) == (packing.method, packing.method)
    assert {name: header.shape for name, header in files.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in load_file(base / WEIGHTS).items()
    }
    model = loaded(tmp_path / "model")
    assert (model.missing, model.unexpected, model.mismatched) == ((), (), ())
    for name, values in worth.items():
        assert model.weights.get_parameter(name).equal(values), name


def by_tools() -> Mapping[str, str]:
    with safe_open(BY_TOOLS, framework="pt") as file:
        return dict(sorted(file.metadata().items()))


@pytest.mark.parametrize(("name", "told"), by_tools().items(), ids=list(by_tools()))
def test_what_the_tools_packed_is_unpacked_as_they_do(tmp_path: Path, name: str, told: str) -> None:
    known = json.loads(told)
    config = {"model_type": "llama", "quantization_config": known["config"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    stored = {
        own.partition(".")[2]: tensor for own, tensor in load_file(BY_TOOLS).items() if own.startswith(f"{name}.")
    }
    save_file({f"k_proj.{part}": tensor for part, tensor in stored.items()}, tmp_path / WEIGHTS)
    (matrix,) = CheckpointFiles.at(tmp_path).unpacked.values()
    values = matrix.values(stored)
    assert (values.shape, values.dtype) == ((32, 128), torch.float16) == (matrix.header.shape, torch.float16)
    unsigned = values + 0  # a zero has no sign once it was multiplied by the identity
    assert hashlib.sha256(unsigned.numpy().tobytes()).hexdigest() == known["sha256"]


def test_in_slabs_it_is_the_same(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pytest_proofpack.models.packed_matrices._SLAB", 200)
    worth = packed_copy(tmp_path / "model", Packing(bits=3, shuffled=True), base)
    model = loaded(tmp_path / "model").weights
    assert all(model.get_parameter(name).equal(values) for name, values in worth.items())


def test_parts_of_a_matrix_may_lie_in_two_files(base: Path, tmp_path: Path) -> None:
    worth = packed_copy(tmp_path / "model", Packing(symmetric=False), base)
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    (tmp_path / "model" / WEIGHTS).unlink()
    places = {
        name: f"model-0000{1 + name.endswith(('.scales', '.norm.weight'))}-of-00002.safetensors" for name in tensors
    }
    for file in set(places.values()):
        own = {name: tensor for name, tensor in tensors.items() if places[name] == file}
        save_file(own, tmp_path / "model" / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": places}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps(index))
    model = loaded(tmp_path / "model")
    assert (model.missing, model.unexpected) == ((), ())
    assert all(model.weights.get_parameter(name).equal(values) for name, values in worth.items())


def test_experts_and_matrices_with_their_inputs_first(tmp_path: Path) -> None:
    experts = build_model_directory(tmp_path / "mixtral", "mixtral")
    packed_copy(tmp_path / "experts", Packing(), experts, layer=".experts.")
    model, before = loaded(tmp_path / "experts"), load_model(ModelSpec("base", experts), "cpu")
    assert (model.missing, model.unexpected, model.mismatched) == ((), (), ())
    names = [name for name, own in before.model.named_parameters() if "experts" in name and own.ndim == 3]
    assert names
    for name in names:
        ours, theirs = model.model.get_parameter(name).float(), before.model.get_parameter(name)
        assert 0 < (ours - theirs).norm() / theirs.norm() < 0.15

    turned = build_model_directory(tmp_path / "gpt2", "gpt2")
    worth = packed_copy(tmp_path / "turned", Packing(inputs_first=True), turned, layer="h.0.mlp.")
    model = loaded(tmp_path / "turned")
    assert (model.missing, model.mismatched) == ((), ())
    assert all(model.model.get_parameter(name).equal(values) for name, values in worth.items())


def test_an_embedding_and_a_head(base: Path, tmp_path: Path) -> None:
    for name, packing in {"embed_tokens": Packing(inputs_first=True), "lm_head": Packing(bits=8)}.items():
        (worth,) = packed_copy(tmp_path / name, packing, base, layer=name, lm_head=True).items()
        model = loaded(tmp_path / name)
        assert (model.missing, model.mismatched) == ((), ())
        assert model.weights.get_parameter(worth[0]).equal(worth[1])


def without(part: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(f"{UP}.{part}")


def of_shape(part: str, cut: Callable[[Tensor], Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({f"{UP}.{part}": cut(tensors[f"{UP}.{part}"]).contiguous()})


@pytest.mark.parametrize(
    ("method", "change", "message"),
    [
        ("gptq", without("scales"), r"up_proj\.qweight has no .*up_proj\.scales beside it"),
        ("gptq", without("qzeros"), r"up_proj\.qweight has no .*up_proj\.qzeros beside it"),
        ("gptq", of_shape("qweight", lambda own: own.float()), r"up_proj\.qweight is F32 \[\d+, 96\], not I32 of 2d"),
        ("gptq", of_shape("qweight", lambda own: own[:0]), r"up_proj\.qweight is I32 \[0, 96\]"),
        ("gptq", of_shape("qweight", lambda own: own[:-1]), r"up_proj\.qweight has \d+ rows, and \d+ inputs of 4 bits"),
        ("gptq", of_shape("scales", lambda own: own[:, 1:]), r"up_proj\.scales has 95 columns, and the codes 96"),
        ("gptq", of_shape("scales", lambda own: own.long()), r"up_proj\.scales is I64 .* not F16 or BF16 or F32"),
        ("gptq", of_shape("qzeros", lambda own: own[:, 1:]), r"up_proj\.qzeros is .* which no number of bits makes"),
        (
            "gptq",
            of_shape("qzeros", lambda own: own[:-1]),
            r"up_proj\.qzeros is \[1, 12\], which no number of bits makes of 2",
        ),
        ("gptq", of_shape("g_idx", lambda own: own[None]), r"up_proj\.g_idx is I32 .* not I32 or I64 of 1d"),
        ("gptq", of_shape("g_idx", lambda own: own.repeat(9)), r"up_proj\.qweight has \d+ rows"),
        (
            "gptq",
            lambda tensors: tensors.update({f"{UP}.weight": torch.ones(2)}),
            r"up_proj\.qweight stands beside .*up_proj\.weight, which is dense",
        ),
        ("awq", of_shape("qweight", lambda own: own[:, 1:]), r"up_proj\.qweight has 11 columns, and 96 outputs of 4"),
        ("awq", of_shape("qzeros", lambda own: own[:, 1:]), r"up_proj\.qzeros is .* and the scales want"),
        ("awq", of_shape("qweight", lambda own: own[:-1]), r"up_proj\.scales has \d rows, which does not divide"),
    ],
)
def test_tensors_that_do_not_fit_are_named_with_their_file(
    base: Path, tmp_path: Path, *, method: str, change: Callable[[Tensors], object], message: str
) -> None:
    packed_copy(tmp_path / "model", Packing(method), base, layer=ONE_LAYER)
    rewrite(tmp_path / "model", change)
    with pytest.raises(ConfigurationError, match=rf"model/{WEIGHTS}: .*{message}"):
        check_checkpoint(ModelSpec("packed", tmp_path / "model"))


@pytest.mark.parametrize(("number", "told"), [(-1, "-1 to"), (10**6, "to 1000000")])
def test_a_group_that_is_not_there_is_told(base: Path, tmp_path: Path, number: int, told: str) -> None:
    packed_copy(tmp_path / "model", Packing(), base, layer=ONE_LAYER)
    rewrite(tmp_path / "model", lambda tensors: tensors[f"{UP}.g_idx"].__setitem__(3, number))
    with pytest.raises(EvaluationError, match=rf"{WEIGHTS}: {UP}\.g_idx names the groups .*{told}.* there are \d from"):
        loaded(tmp_path / "model")


def test_a_group_size_beyond_all_measure(base: Path, tmp_path: Path) -> None:
    worth = packed_copy(tmp_path / "model", Packing(group=-1, grouped=False), base, layer=ONE_LAYER, group_size=10**30)
    assert all(loaded(tmp_path / "model").weights.get_parameter(name).equal(own) for name, own in worth.items())


def test_order_that_nothing_tells_is_refused(base: Path, tmp_path: Path) -> None:
    packed_copy(tmp_path / "model", Packing(grouped=False), base, layer=ONE_LAYER, desc_act=True)
    with pytest.raises(ConfigurationError, match=r"has no .*g_idx beside it, and desc_act in config\.json demands one"):
        check_checkpoint(ModelSpec("packed", tmp_path / "model"))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "marlin"}, "packed by GPTQ's tools for one kernel ('marlin')"),
        ({"quant_method": "gptq", "is_marlin_format": True}, "'marlin'"),
        ({"quant_method": "gptq", "rotation": "hadamard"}, "rotates what its matrices are given"),
        ({"quant_method": "awq", "version": "gemv"}, "packed by AWQ's tools as 'gemv'"),
        ({"quant_method": "awq", "backend": "llm-awq"}, "'llm-awq'"),
        ({"quant_method": "auto-round", "packing_format": "auto_round:fp8_static"}, "packed as 'fp8_static'"),
        ({"quant_method": "auto-round", "packing_format": {}}, "packed as '{}'"),
        ({"quant_method": "auto-round", "data_type": "mx_fp"}, "of the type 'mx_fp'"),
        ({"quant_method": "auto-round", "act_bits": 8}, "with activations of 8 bits"),
        ({"quant_method": "auto-round", "rotation_config": {"a": 1}}, "rotates what"),
    ],
)
def test_layouts_that_are_not_read_are_refused_in_a_sentence(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    (tmp_path / WEIGHTS).touch()
    with pytest.raises(ConfigurationError) as caught:
        check_checkpoint(ModelSpec("packed", tmp_path))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"quant_method": "gptq"}, "gptq"),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False, "checkpoint_format": "gptq_v2"},
            "gptq v2; 4 bits; groups of 128; asymmetric",
        ),
        ({"quant_method": "gptq", "bits": 3, "group_size": -1, "sym": True}, "gptq; 3 bits; symmetric"),
        (
            {"quant_method": "gptq", "bits": 4, "dynamic": {"-:.*down.*": {}, "+:.*up.*": {"bits": 8}}},
            "gptq; without .*down.*",
        ),
        (
            {
                "quant_method": "gptq",
                "bits": 4,
                "modules_in_block_to_quantize": [["self_attn.q_proj"], ["mlp.up_proj", 5]],
            },
            "gptq; 4 bits; without all but self_attn.q_proj mlp.up_proj",
        ),
        ({"quant_method": "gptq", "bits": "4", "dynamic": [], "modules_in_block_to_quantize": {}}, "gptq"),
        (
            {"quant_method": "awq", "w_bit": 4, "q_group_size": 128, "zero_point": True, "version": "GEMM"},
            "awq; 4 bits; groups of 128; asymmetric",
        ),
        (
            {"quant_method": "auto-round", "bits": 4, "sym": True, "packing_format": "auto_round:auto_gptq"},
            "auto-round auto_gptq; 4 bits; symmetric",
        ),
        (
            {
                "quant_method": "auto-round",
                "bits": 4,
                "extra_config": {"lm_head": {"bits": 16}, "x": {"bits": 2}, "y": 3},
            },
            "auto-round gptq; without lm_head",
        ),
    ],
)
def test_the_configuration_in_words(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "quantization_config": config}))
    own = words_of(tmp_path)
    assert (own.words, own.label) == (words, config["quant_method"])


@pytest.mark.parametrize(
    ("packing", "name"),
    [
        (Packing(grouped=False), "auto_round:auto_gptq"),
        (Packing(grouped=False), None),
        (Packing(grouped=False, version="gptq_v2", symmetric=False), "auto_round"),
        (Packing("awq", symmetric=False), "auto_round:auto_awq"),
    ],
)
def test_the_form_of_auto_round(base: Path, tmp_path: Path, packing: Packing, name: str | None) -> None:
    own: dict[str, Any] = {"quant_method": "auto-round"} | ({"packing_format": name} if name is not None else {})
    worth = packed_copy(tmp_path / "model", packing, base, **own)
    model = loaded(tmp_path / "model").weights
    assert all(model.get_parameter(own).equal(values) for own, values in worth.items())
    assert CheckpointFiles.at(tmp_path / "model").format.name == "auto-round"


def test_groups_that_only_the_configuration_tells(tmp_path: Path) -> None:
    worth = packed_copy(tmp_path / "model", Packing(group=128, grouped=False), layer="layers.0.mlp.down", bits=10**30)
    assert CheckpointFiles.at(EMBEDDED).tensors["model.layers.0.mlp.down_proj.weight"].shape == (128, 288)
    model = loaded(tmp_path / "model").weights  # 288 inputs: 128, 128 and 32
    assert all(model.get_parameter(name).equal(values) for name, values in worth.items())
