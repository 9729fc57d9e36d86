"""Whether an adapter fits a baseline is told from headers: names, shapes and ranks."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.adapter_fit import adapter_facts, require_fit
from pytest_proofpack.models.files import CheckpointFiles
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.gguf_files import write_gguf

BASE = CheckpointFiles.at(EMBEDDED)
Q = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"
WIDTH = 128


def lora(*layers: int, rank: int = 4, rows: int = WIDTH, columns: int = WIDTH) -> dict[str, torch.Tensor]:
    return {
        Q.format(layer, side): torch.zeros((rank, columns) if side == "A" else (rows, rank))
        for layer in layers
        for side in "AB"
    }


@pytest.fixture
def adapter(tmp_path: Path) -> Callable[..., CheckpointFiles]:
    def make(tensors: Mapping[str, torch.Tensor], **values: Any) -> CheckpointFiles:
        config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], **values}
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
        save_file(dict(tensors), tmp_path / "adapter_model.safetensors")
        return CheckpointFiles.at(tmp_path)

    return make


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFiles:
    """The same model as a GGUF file, which has names of its own."""
    return CheckpointFiles.at(write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", EMBEDDED, "Q8_0"))


HEAD = "base_model.model.lm_head"


@pytest.mark.parametrize(
    "tensors",
    [
        lora(0, 4),
        lora(1) | {"base_model.model.model.norm.weight": torch.zeros(WIDTH)},
        {f"{HEAD}.lora_A.weight": torch.zeros(4, WIDTH), f"{HEAD}.lora_B.weight": torch.zeros(1024, 4)},
        {"base_model.model.model.embed_tokens.lora_embedding_A": torch.zeros(4, 1024)},
        {"base_model.vera_A": torch.zeros(4, WIDTH)},
        {name.replace("model.layers", "model.language_model.layers"): own for name, own in lora(1).items()},
    ],
)
def test_it_fits(
    adapter: Callable[..., CheckpointFiles], packed: CheckpointFiles, tensors: Mapping[str, torch.Tensor]
) -> None:
    made = adapter(tensors)
    require_fit(made, BASE)
    require_fit(made, packed)


@pytest.mark.parametrize(
    ("tensors", "values", "message"),
    [
        (lora(0, 9), {}, r"that has no model\.layers\.9\.self_attn\.q_proj\. Name the model that the adapter was"),
        (
            lora(0, columns=64),
            {},
            r"its product for model\.layers\.0\.self_attn\.q_proj is \[128, 4\] x \[4, 64\], the baseline's matrix",
        ),
        ({"base_model.model.model.norm.weight": torch.zeros(7)}, {}, r"model\.norm\.weight is \[7\], the baseline's"),
        (
            {"base_model.model.lm_head.weight": torch.zeros(1088, WIDTH)},
            {},
            r"lm_head\.weight is \[1088, 128\].*where its vocabulary was resized, save it so",
        ),
        ({"model.norm.weight": torch.zeros(WIDTH)}, {}, r"tensors that peft would not have saved .*model\.norm"),
        (lora(0), {"r": 10**9}, "r is 1000000000, and no tensor in its file has more than 128 rows or columns"),
        (lora(0), {"r": "4"}, "r is '4', and no tensor"),
        (lora(0), {"rank_pattern": {"q_proj": 10**6}}, "rank_pattern of q_proj is 1000000, and no tensor"),
        (lora(0), {"target_modules": "("}, "target_modules .* is no regular expression"),
    ],
)
def test_it_does_not(
    adapter: Callable[..., CheckpointFiles], tensors: Mapping[str, torch.Tensor], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        require_fit(adapter(tensors, **values), BASE)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (
            lora(1, rows=96),
            r"tiny\.gguf: its product for model\.layers\.1\.self_attn\.q_proj is \[96, 4\] x \[4, 128\], "
            r"the baseline's matrix \[128, 128\]\. Name the model that the adapter was trained on by",
        ),
        (lora(0, 9), r"tiny\.gguf: that has no model\.layers\.9\.self_attn\.q_proj\. Name the model"),
        (
            {"base_model.model.model.norm.weight": torch.zeros(7)},
            r"model\.norm\.weight is \[7\], the baseline's \[128\]",
        ),
        (
            {f"{HEAD}.weight": torch.zeros(1088, WIDTH)},
            r"lm_head\.weight is \[1088, 128\], the baseline's \[1024, 128\]",
        ),
    ],
)
def test_it_does_not_fit_a_gguf_file(
    adapter: Callable[..., CheckpointFiles], packed: CheckpointFiles, tensors: Mapping[str, torch.Tensor], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        require_fit(adapter(tensors), packed)


def test_what_a_gguf_file_may_call_otherwise_is_left_to_peft(
    adapter: Callable[..., CheckpointFiles], packed: CheckpointFiles
) -> None:
    names = ("layers.0.mlp.experts", "layers.0.mlp.experts.3.w1", "odd.7.gate")
    require_fit(adapter({f"base_model.model.model.{name}.lora_A.weight": torch.zeros(4, 9) for name in names}), packed)


def test_of_a_mixture_of_experts_peft_tells_it(adapter: Callable[..., CheckpointFiles], tmp_path: Path) -> None:
    """Its experts are fused and renamed while it is loaded, so that headers know nothing of peft's names."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text('{"model_type": "mixtral"}')
    save_file({"model.layers.0.block_sparse_moe.experts.0.w1.weight": torch.zeros(4, 4)}, base / "model.safetensors")
    fused = {f"base_model.model.model.layers.0.mlp.experts.lora_{side}.weight": torch.zeros(4, 4) for side in "AB"}
    require_fit(adapter(fused), CheckpointFiles.at(base))


def test_the_facts_are_bounded(adapter: Callable[..., CheckpointFiles]) -> None:
    odd = {f"base_model.model.{'x' * 500}{number}.lora_A.weight": torch.zeros(3, 2) for number in range(50)}
    facts = adapter_facts(adapter({**lora(0), **odd}, base_model_name_or_path="b" * 900))
    assert (facts["type"], facts["rank"], facts["ranks"], facts["alpha"], facts["scaling"]) == (
        "LORA",
        4,
        [3, 4],
        8,
        2.0,
    )
    assert facts["modules"] == 51
    assert len(json.dumps(facts)) < 6000


def test_the_scaling_of_a_rank_stabilised_one(adapter: Callable[..., CheckpointFiles]) -> None:
    assert adapter_facts(adapter(lora(0), use_rslora=True))["scaling"] == 4.0
