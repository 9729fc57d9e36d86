"""An adapter on a second copy of its baseline is what peft makes of it, and is known by the bytes that were read."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.adapter_fit import require_fit
from pytest_proofpack.models.additions import load_on_baseline
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.load import LoadedModel
from pytest_proofpack.plan.records import ModelSpec
from tests.support.adapters import merged_by_peft, reconfigure, save_adapter
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.gguf_files import write_gguf
from tests.support.model_files import build_model_directory

BASELINE = ModelSpec("tiny", path=EMBEDDED)
DIGEST = CheckpointFiles.of(BASELINE).digest


def loaded(adapter: Path, digest: str = DIGEST) -> LoadedModel:
    return load_on_baseline(ModelSpec(adapter.name, path=adapter), BASELINE, digest, "cpu")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("LORA", {"r": 4, "target_modules": r".*\.[01]\..*(q_proj|up_proj)", "rank_pattern": {"q_proj": 2}}),
        ("LORA", {"r": 4, "use_dora": True, "modules_to_save": ["input_layernorm"]}),
        ("LORA", {"r": 4, "target_modules": ["embed_tokens", "lm_head"], "use_rslora": True}),
        ("IA3", {"feedforward_modules": ["down_proj"]}),
        ("VERA", {"r": 4, "target_modules": ["q_proj"]}),
    ],
)
def test_it_is_what_peft_makes_of_it(tmp_path: Path, kind: str, values: dict[str, Any]) -> None:
    adapter = save_adapter(tmp_path / "adapter", kind, **values)
    ours, theirs = loaded(adapter), merged_by_peft(adapter)
    expected = dict(theirs.named_parameters())
    own = dict(ours.model.named_parameters())
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], value) for name, value in expected.items())
    assert ours.reading.digest() == CheckpointFiles.at(adapter).digest
    assert not any(parameter.requires_grad for parameter in own.values())


def test_on_a_gguf_file_it_is_what_peft_makes_of_the_dequantized_model(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny-Q8_0.gguf", EMBEDDED, "Q8_0")
    adapter = save_adapter(tmp_path / "adapter", base=file, r=4)
    baseline = ModelSpec("tiny", path=file)
    require_fit(CheckpointFiles.at(adapter), CheckpointFiles.of(baseline))
    ours = load_on_baseline(ModelSpec("adapter", path=adapter), baseline, CheckpointFiles.of(baseline).digest, "cpu")
    own, theirs = dict(ours.model.named_parameters()), dict(merged_by_peft(adapter, file).named_parameters())
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[name], value) for name, value in theirs.items())

    other = save_adapter(tmp_path / "other", base=build_model_directory(tmp_path / "small"), r=4)
    with pytest.raises(
        EvaluationError, match=r"other: cannot be merged into tiny \(RuntimeError: .*: size mismatch for"
    ):
        load_on_baseline(ModelSpec("other", path=other), baseline, CheckpointFiles.of(baseline).digest, "cpu")


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_adapter(tmp_path_factory.mktemp("adapters") / "lora", r=4, target_modules=["q_proj"])


@pytest.fixture
def copy(lora: Path, tmp_path: Path) -> Path:
    shutil.copytree(lora, tmp_path / "copy")
    return tmp_path / "copy"


def test_nothing_is_fetched_or_imported(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base that an adapter names is only a name, and so is the library that its class would be imported from."""
    marker = copy / "ran"
    (copy / "evil.py").write_text(f"open({str(marker)!r}, 'w')")
    monkeypatch.syspath_prepend(copy)

    def refuse(*_args: object, **_options: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    reconfigure(
        copy,
        base_model_name_or_path="someone/else",
        auto_mapping={"base_model_class": "Evil", "parent_library": "evil"},
        megatron_core="evil",
        eva_config={"rho": 2.0},
    )
    assert loaded(copy).model.num_parameters() > 0
    assert not marker.exists()


def test_peft_is_given_names_and_no_expression(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a stranger's expression matches is found in a process that can be ended; peft never matches one itself."""
    adapter = save_adapter(tmp_path / "adapter", r=4, target_modules=r".*layers\.1\..*q_proj")
    expected = dict(merged_by_peft(adapter).named_parameters())

    def refuse(*_given: object) -> None:
        raise AssertionError("peft matched an expression")

    monkeypatch.setattr("peft.tuners.tuners_utils.match_target_against_key", refuse)
    own = dict(loaded(adapter).model.named_parameters())
    assert all(torch.equal(own[name], value) for name, value in expected.items())


def test_a_baseline_that_changed_is_no_copy_of_the_one_that_was_measured(lora: Path) -> None:
    with pytest.raises(EvaluationError, match="changed on disk while it was in use"):
        loaded(lora, digest="0" * 64)


def test_a_missing_tensor_is_named(copy: Path) -> None:
    tensors = load_file(copy / "adapter_model.safetensors")
    gone = next(name for name in tensors if "layers.2" in name and "lora_B" in name)
    del tensors[gone]
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(EvaluationError, match=r"the adapter lacks .*layers\.2\.self_attn\.q_proj\.lora_B"):
        loaded(copy)


def test_a_tensor_that_nobody_asks_for_is_named(copy: Path) -> None:
    reconfigure(copy, layers_to_transform=[0, 1, 2])
    with pytest.raises(EvaluationError, match=r"holds, besides what its configuration asks for, .*layers\.3"):
        loaded(copy)


def test_a_key_that_the_installed_peft_does_not_know(copy: Path) -> None:
    reconfigure(copy, use_something_new=True, use_nothing_new=False)
    with pytest.raises(EvaluationError, match=r"the installed peft does not know use_something_new\."):
        loaded(copy)


def test_what_peft_cannot_merge_is_one_sentence(copy: Path) -> None:
    reconfigure(copy, lora_alpha="high")
    with pytest.raises(EvaluationError, match=r"copy: cannot be merged into tiny \(TypeError"):
        loaded(copy)
    assert json.loads((copy / "adapter_config.json").read_text())["lora_alpha"] == "high"
