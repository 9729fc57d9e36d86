"""GGUF as a checkpoint's form: the same model wherever it lies, hashed as it is read, refused before it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models import checkpoint_formats
from pytest_proofpack.models.chosen_tokenizer import choose_tokenizer
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint, check_model_directory
from pytest_proofpack.models.limits import read_limits
from pytest_proofpack.models.load import load_model, require_every_key
from pytest_proofpack.models.private_copy import PrivateCopy
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.text.windows import tokenizer_fingerprint
from tests.support.gguf_files import quantized, write_gguf
from tests.support.model_files import build_model_directory

SIZES: dict[str, Any] = {"intermediate_size": 64, "num_hidden_layers": 2, "rope_theta": 50_000.0}
KEPT = ("tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "llama", **SIZES)


@pytest.fixture
def file(saved: Path, tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    return write_gguf(tmp_path / "own" / "small-Q8_0.gguf", saved, "Q8_0")


def write(path: Path, mode: str) -> None:
    with path.open(mode) as stream:
        stream.write(b"x")


def spec(path: Path) -> ModelSpec:
    return ModelSpec("acme/small", path)


def parameters(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters())


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0"])
def test_it_is_the_model_with_its_matrices_rounded(saved: Path, tmp_path: Path, kind: str) -> None:
    path = write_gguf(tmp_path / "a.gguf", saved, kind)
    check_model_directory(spec(path))
    loaded = load_model(spec(path), "cpu")
    require_every_key(spec(path), loaded)
    original = parameters(load_model(spec(saved), "cpu").model)
    found = parameters(loaded.model)
    assert found.keys() == original.keys()
    stored = gguf.GGMLQuantizationType[kind]
    for name, tensor in original.items():
        # Rows are quantized each for itself, so that of rotary ones the order does not matter.
        own = gguf.dequantize(gguf.quantize(tensor.detach().numpy(), stored), stored) if tensor.ndim > 1 else tensor
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], torch.as_tensor(own), rtol=0, atol=0, msg=name)
    files = CheckpointFiles.at(path)
    assert files.format.edit_label(files) == f"gguf:{kind}"
    quantized = files.format.quantization(files)
    assert quantized is not None
    assert quantized.words.startswith(f"gguf {kind}; ")
    assert quantized.bits == (int(kind[1]) if kind.startswith("Q") else int(kind[-2:]))
    assert loaded.reading.digest() == files.digest


@pytest.mark.parametrize(("kind", "label"), [("Q4_K", "Q4_K_M"), ("Q6_K", "Q6_K")])
def test_types_that_only_llama_cpp_makes(tmp_path: Path, kind: str, label: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
    model = build_model_directory(tmp_path / "model", **sizes)
    path = write_gguf(tmp_path / "a.gguf", model, kind)
    files, stored = CheckpointFiles.at(path), gguf.GGMLQuantizationType[kind]
    assert files.format.edit_label(files) == f"gguf:{label}"
    found = parameters(load_model(spec(path), "cpu").model)["model.layers.0.mlp.up_proj.weight"]
    own = gguf.dequantize(quantized(np.zeros((256, 256)), stored), stored)
    assert torch.equal(found, torch.as_tensor(own))
    assert len(np.unique(own)) > 16


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gemma2", "mistral"])
def test_other_architectures(saved: Path, tmp_path: Path, architecture: str) -> None:
    known = AutoConfig.from_pretrained(saved).to_diff_dict()
    own = {key: value for key, value in known.items() if key not in {"model_type", "architectures"}}
    changed = {"head_dim": 16, "tie_word_embeddings": architecture != "qwen3"}
    config = AutoConfig.for_model(architecture, **{**own, **changed})
    torch.manual_seed(0)
    model = tmp_path / "model"
    made: PreTrainedModel = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    made.save_pretrained(model)
    for name in KEPT:
        shutil.copy(saved / name, model / name)
    path = write_gguf(tmp_path / "a.gguf", model)
    if architecture == "mistral":  # whose files say llama
        (tmp_path / "both").mkdir()
        path = path.rename(tmp_path / "both" / "a.gguf").parent
        shutil.copy(model / "config.json", path)
    loaded = load_model(spec(path), "cpu")
    require_every_key(spec(path), loaded)
    original = AutoModelForCausalLM.from_pretrained(model)
    assert type(loaded.model) is type(original)
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(tokens).logits, original(tokens).logits)


@pytest.mark.parametrize("layout", ["file", "directory", "with tokenizer", "with configuration", "beside others"])
def test_wherever_it_lies_it_is_the_same(saved: Path, file: Path, layout: str) -> None:
    folder = file.parent
    if layout == "with tokenizer":
        for name in KEPT:
            shutil.copy(saved / name, folder / name)
    elif layout == "with configuration":
        for name in (*KEPT, "config.json"):
            shutil.copy(saved / name, folder / name)
    elif layout == "beside others":
        (folder / "config.json").write_text("{}")
        (folder / "tokenizer_config.json").write_text("[]")
        (folder / "model.safetensors").touch()
        (folder / "other.gguf").touch()
    path = file if layout in {"file", "beside others"} else folder
    check_model_directory(spec(path))
    files = CheckpointFiles.of(spec(path))
    assert files.format.name == "gguf"
    limits, chosen = read_limits(spec(path), files), choose_tokenizer(spec(path), files)
    original = choose_tokenizer(spec(saved), CheckpointFiles.at(saved))
    assert (limits.positions, limits.vocabulary) == (256, 384)
    assert original.tokenizer.get_vocab().items() <= chosen.tokenizer.get_vocab().items()
    assert chosen.tokenizer.eos_token_id == original.tokenizer.eos_token_id
    if files.tokenizer_files:
        assert tokenizer_fingerprint(chosen.tokenizer) == tokenizer_fingerprint(original.tokenizer)
    else:  # how text is split, the file does not say
        own = files.format.single_file
        assert own is not None
        assert own.has_tokens(files, original.tokenizer.get_vocab())
        assert not own.has_tokens(files, {**original.tokenizer.get_vocab(), "other": 5})
    model = load_model(spec(path), "cpu").model
    assert model.dtype == torch.float32
    alone = load_model(spec(file), "cpu").model
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens).logits, alone(tokens).logits)


def test_the_file_is_not_mapped_and_no_bar_is_drawn(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    mapped: list[str] = []

    class Watching(PrivateCopy):
        def __exit__(self, *error: object) -> None:
            mapped.append(Path("/proc/self/maps").read_text())
            super().__exit__(*error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytest_proofpack.models.single_file.PrivateCopy", Watching)
        load_model(spec(file), "cpu")
    assert len(mapped) == 1
    assert file.name not in mapped[0]
    assert capfd.readouterr() == ("", "")


def test_a_copy_is_what_was_hashed_and_nobody_changes_it(file: Path) -> None:
    raw = file.read_bytes()
    with PrivateCopy(file) as whole, PrivateCopy(file, 100) as begin:
        file.write_bytes(b"other")
        assert whole.path.read_bytes() == raw
        assert begin.path.read_bytes() == raw[:100] + bytes(len(raw) - 100)
        for mode in ("r+b", "wb", "ab"):
            with pytest.raises(PermissionError):
                write(whole.path, mode)
        path = whole.path
    assert not path.exists()


@pytest.mark.parametrize("change", ["written", "cut short", "replaced", "gone"])
def test_a_file_that_has_changed_is_not_loaded(file: Path, change: str) -> None:
    raw = file.read_bytes()
    files = CheckpointFiles.of(spec(file))
    assert files.headers
    assert files.config
    if change == "gone":
        file.unlink()
    elif change == "replaced":
        file.rename(file.with_suffix(".old"))
        file.write_bytes(raw)
    else:
        file.write_bytes(raw[:-32] + (b"x" * 32 if change == "written" else b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CheckpointFiles, "of", lambda _spec: files)
        with pytest.raises(EvaluationError, match=r"small-Q8_0\.gguf: (changed on disk|can't be copied into memory)"):
            load_model(spec(file), "cpu")


def rewritten(saved: Path, file: Path, **values: Any) -> None:
    keys = {name.replace("__", "."): value for name, value in values.items()}
    write_gguf(file, saved, keys=keys)


def with_config(saved: Path, file: Path, **values: object) -> None:
    document = json.loads((saved / "config.json").read_text())
    (file.parent / "config.json").write_text(json.dumps({**document, **values}))


def unknown_type(_saved: Path, file: Path) -> None:
    raw = bytearray(file.read_bytes())
    place = raw.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 16
    raw[place : place + 4] = (77).to_bytes(4, "little")
    file.write_bytes(raw)


FACTORS = {"rope_freqs.weight": np.ones(4, np.float32)}
REFUSED: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "several": (lambda _, file: shutil.copy(file, file.with_name("b.gguf")), r"holds 2 GGUF files \(b\.gguf, small"),
    "split": (
        lambda _, file: file.rename(file.with_name("a-00001-of-00003.gguf")),
        r"is split in 3 \(a-00001-of-00003\.gguf\)\. Join them: llama-gguf-split --merge",
    ),
    "safetensors too": (
        lambda saved, file: shutil.copytree(saved, file.parent, dirs_exist_ok=True),
        r"holds 2 sets of weights: model\.safetensors; small-Q8_0\.gguf",
    ),
    "cut short": (lambda _, file: file.write_bytes(file.read_bytes()[:-999]), "not a GGUF file that can be read"),
    "big-endian": (lambda _, file: file.write_bytes(b"GGUF\0\0\0\3" + file.read_bytes()[8:]), "it is big-endian"),
    "another type": (unknown_type, "of the type 77, which nothing here dequantizes"),
    "another architecture": (
        lambda _, file: file.write_bytes(file.read_bytes().replace(b"llama", b"abcde")),
        r"no model of a GGUF file of the architecture abcde \(.*\)\. Certify the model that it was made of",
    ),
    "scaled positions": (
        lambda saved, file: rewritten(saved, file, llama__rope__scaling__type="yarn", llama__rope__scaling__factor=4.0),
        r"scales rotary positions, which transformers does not read .* Put the config\.json",
    ),
    "factors": (lambda saved, file: write_gguf(file, saved, tensors=FACTORS), "scales rotary positions"),
    "experts": (lambda saved, file: rewritten(saved, file, llama__expert_count=8), "is a mixture of experts"),
    "another model": (
        lambda saved, file: with_config(saved, file, num_attention_heads=8),
        r"config\.json: is not of the model in small-Q8_0\.gguf \(num_attention_heads 8, not 4\)",
    ),
    "quantized besides": (
        lambda saved, file: with_config(saved, file, quantization_config={"quant_method": "gptq"}),
        "is not of the model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_loaded(
    saved: Path, file: Path, spoil: Callable[[Path, Path], object], message: str
) -> None:
    spoil(saved, file)
    with pytest.raises(ConfigurationError, match=message) as caught:
        check_checkpoint(spec(file.parent))
    assert "\n" not in str(caught.value)


def test_factors_are_the_configurations_matter_where_there_is_one(saved: Path, file: Path) -> None:
    write_gguf(file, saved, tensors=FACTORS)
    with_config(saved, file)
    check_checkpoint(spec(file.parent))
    assert load_model(spec(file.parent), "cpu").unexpected == ()


def test_the_package_is_named_where_it_is_missing(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_formats, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"the package gguf .*pip install \"pytest-proofpack\[gguf\]\""):
        check_checkpoint(spec(file))
    with pytest.raises(ConfigurationError, match="the package gguf loads, and that is not installed"):
        CheckpointFiles.of(spec(file)).config  # noqa: B018 - as a listing reads it, without the check


def test_another_package_than_this_needs_is_no_traceback(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise ImportError("needs gguf>=99")

    monkeypatch.setattr("transformers.modeling_gguf_pytorch_utils.load_gguf_checkpoint", refuse)
    with pytest.raises(ConfigurationError, match=r"makes no model of .*needs gguf>=99"):
        CheckpointFiles.of(spec(file)).config  # noqa: B018


def test_a_tensor_that_has_no_place_is_told(saved: Path, file: Path) -> None:
    write_gguf(file, saved, tensors={"blk.0.attn_q.bias": np.ones(32, np.float32)})
    loaded = load_model(spec(file), "cpu")
    assert loaded.unexpected == ("blk.0.attn_q.bias",)
    with pytest.raises(ConfigurationError, match=r"1 unexpected \(blk\.0\.attn_q\.bias\)"):
        require_every_key(spec(file), loaded)


def test_without_a_tokenizer_it_is_a_subject_but_no_baseline(saved: Path, file: Path) -> None:
    write_gguf(file, saved, tokenizer=False)
    check_checkpoint(spec(file))
    with pytest.raises(ConfigurationError, match="holds no tokenizer"):
        check_model_directory(spec(file))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_hostile_header_is_one_of_our_errors_or_a_configuration(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[float, int]]
) -> None:
    path = tmp_path_factory.mktemp("hostile") / "a.gguf"
    raw = bytearray(write_gguf(path, saved, tokenizer=False).read_bytes())
    for place, value in changes:
        raw[int(place * 1700)] = value  # within the header
    path.write_bytes(raw)
    try:
        check_checkpoint(spec(path))
        read_limits(spec(path), CheckpointFiles.at(path))
    except ConfigurationError:
        return
    assert CheckpointFiles.at(path).config["dtype"] == "float32"
