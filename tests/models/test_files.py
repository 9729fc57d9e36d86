"""Model directories that are incomplete, damaged or hostile are refused before torch loads anything."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_proofpack.devices.model_shapes import read_shape
from pytest_proofpack.edits.stored import StoredWeights
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import files as files_module
from pytest_proofpack.models import safetensors_files
from pytest_proofpack.models.files import CheckpointFiles, check_model_directory
from pytest_proofpack.models.load import load_tokenizer
from pytest_proofpack.plan.records import ModelSpec, WindowPlan
from pytest_proofpack.scheduling.workload import model_size
from tests.support.model_files import build_model_directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "single")


@pytest.fixture
def directory(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "model")


def check(path: Path | None, **pins: str) -> None:
    check_model_directory(
        ModelSpec("org/model", path, sha256={name.replace("__", "."): pin for name, pin in pins.items()})
    )


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        check(path)
    assert path.name in str(caught.value)


def test_what_save_pretrained_writes_is_accepted(saved: Path, saved_shards: Path) -> None:
    check(saved)
    assert len(list(saved_shards.glob("*.safetensors"))) > 1
    check(saved_shards)


def test_the_check_needs_no_torch(saved: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pytest_proofpack.models.files import *\n"
        "from pytest_proofpack.plan.records import ModelSpec\n"
        "check_model_directory(ModelSpec('m', Path(sys.argv[1]))); CheckpointFiles.at(Path(sys.argv[1])).digest\n"
        "assert not {'torch', 'transformers', 'pytest'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(saved)], check=True)


def test_links_into_a_blob_store_are_accepted(directory: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    before = CheckpointFiles.at(directory).digest
    for number, file in enumerate(sorted(directory.iterdir())):
        file.rename(blobs / str(number))
        file.symlink_to(blobs / str(number))
    check(directory)
    assert CheckpointFiles.at(directory).digest == before


def test_a_dangling_link_is_not_a_file(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").symlink_to("../gone")
    refused(directory, r"has links that lead nowhere \(model\.safetensors\)")


def test_no_directory(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "does not exist")
    (tmp_path / "file").touch()
    refused(tmp_path / "file", "is neither a directory nor a GGUF file")
    with pytest.raises(ConfigurationError, match="org/model: no local directory"):
        check(None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        (b"{", "not valid JSON"),
        (b'{"model_type": "llama", "model_type": "gpt2"}', "stands twice"),
        (b'{"model_type": "llama", "rms_norm_eps": NaN}', "NaN"),
        (b"\xff\xfe", "not UTF-8"),
        (b"[]", "expected a JSON object"),
        (b'{"vocab_size": 3}', "names no model_type"),
    ],
)
def test_broken_config(directory: Path, content: bytes | None, message: str) -> None:
    (directory / "config.json").unlink()
    if content is not None:
        (directory / "config.json").write_bytes(content)
    refused(directory, message)


class TestWeights:
    def test_truncated(self, directory: Path) -> None:
        file = directory / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-1])
        refused(directory, r"model\.safetensors: not a complete safetensors file")

    @pytest.mark.parametrize(
        "content",
        [b"", b"\x00" * 7, (2**60).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little") + b"not json!"],
        ids=["empty", "half a length", "huge header", "no header"],
    )
    def test_nonsense(self, directory: Path, content: bytes) -> None:
        (directory / "model.safetensors").write_bytes(content)
        refused(directory, r"model\.safetensors: not a complete safetensors file")

    def test_offsets_beyond_the_file(self, directory: Path) -> None:
        header = json.dumps({"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}).encode()
        (directory / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
        refused(directory, r"model\.safetensors: not a complete safetensors file")

    def test_without_tensors(self, directory: Path) -> None:
        (directory / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        refused(directory, "holds no tensors")

    def test_pickles_alone_are_refused(self, directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        torch.save({}, directory / "pytorch_model.bin")
        refused(directory, r"pickled weights \(pytorch_model\.bin\).*refused")

    def test_none_at_all(self, directory: Path) -> None:
        (directory / "model.safetensors").unlink()
        refused(directory, "has no weights at all")

    def test_under_another_name(self, directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "consolidated.safetensors")
        refused(directory, r"has consolidated\.safetensors; rename")

    def test_a_missing_shard_is_named(self, sharded: Path) -> None:
        shard = sorted(sharded.glob("model-*.safetensors"))[1]
        shard.unlink()
        refused(sharded, rf"1 of \d+ weight files are missing \({shard.name}\)")

    def test_a_truncated_shard_is_named(self, sharded: Path) -> None:
        shard = sorted(sharded.glob("model-*.safetensors"))[1]
        shard.write_bytes(shard.read_bytes()[:100])
        refused(sharded, re.escape(f"{shard.name}: not a complete"))

    @pytest.mark.parametrize("evil", ["../outside.safetensors", "/etc/x.safetensors", "a/../../b.safetensors", "x.bin"])
    def test_an_index_must_stay_inside(self, sharded: Path, evil: str) -> None:
        shutil.copy(next(sharded.glob("model-*.safetensors")), sharded.parent / "outside.safetensors")
        (sharded / "x.bin").touch()
        index = sharded / "model.safetensors.index.json"
        content = json.loads(index.read_text())
        content["weight_map"]["lm_head.weight"] = evil
        index.write_text(json.dumps(content))
        refused(sharded, re.escape(f"refers to {evil!r}"))

    @pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 1}}'])
    def test_broken_index(self, sharded: Path, content: str) -> None:
        (sharded / "model.safetensors.index.json").write_text(content)
        refused(sharded, r"index\.json: .*(not valid JSON|has no weight_map)")


def _index(path: Path, name: str, *shards: str) -> None:
    (path / name).write_text(json.dumps({"weight_map": {f"tensor.{shard}": shard for shard in shards}}))


def _copy(path: Path, *names: str) -> None:
    for name in names:
        shutil.copy(next(path.glob("model*.safetensors")), path / name)


def _sharded_beside(path: Path) -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    _copy(path, *shards)
    _index(path, "model.safetensors.index.json", *shards)


def _variant(path: Path) -> None:
    _copy(path, "model.fp16-00001-of-00001.safetensors")
    _index(path, "model.fp16.safetensors.index.json", "model.fp16-00001-of-00001.safetensors")


def _pickled(path: Path, age: int) -> None:
    (path / "pytorch_model.bin").write_bytes(b"pickled")
    loaded = (path / "model.safetensors").stat().st_mtime_ns
    os.utime(path / "pytorch_model.bin", ns=(loaded - age, loaded - age))


class TestOneSet:
    @pytest.mark.parametrize(
        ("add", "named"),
        [
            (_sharded_beside, r"model\.safetensors; model\.safetensors\.index\.json \(model-00001-of-00002"),
            (_variant, r"model\.safetensors; model\.fp16\.safetensors\.index\.json"),
            (lambda path: _copy(path, "model.fp16.safetensors"), r"model\.safetensors; model\.fp16\.safetensors"),
            (lambda path: _copy(path, "consolidated.safetensors"), r"consolidated\.\* \(consolidated\.safetensors\)"),
            (lambda path: (path / "consolidated.00.pth").touch(), r"consolidated\.\* \(consolidated\.00\.pth\)"),
            (
                lambda path: _copy(path, *(f"model-0000{number}-of-00002.safetensors" for number in (1, 2))),
                r"model-\*-of-00002\.safetensors \(model-00001",
            ),
            (lambda path: _copy(path, "model-zz.safetensors"), r"model\.safetensors; model-zz\.safetensors"),
            (lambda path: _pickled(path, -(10**9)), r"pytorch_model\*\.bin, newer \(pytorch_model\.bin\)"),
        ],
    )
    def test_a_second_one_is_refused_and_named(
        self, directory: Path, add: Callable[[Path], object], named: str
    ) -> None:
        add(directory)
        refused(directory, f"holds 2 sets of weights: .*{named}")

    @pytest.mark.parametrize(
        "add",
        [
            lambda path: _index(path, "model.safetensors.index.json", "model.safetensors"),  # the same set, named again
            lambda path: _index(path, "model.safetensors.index.json", "model-00001-of-00001.safetensors"),  # a leftover
            lambda path: (path / "model.fp16.safetensors.index.json").write_text("{"),
            lambda path: _copy(path, "model-00001-of-00002.safetensors"),
            lambda path: _copy(path, "optimizer.safetensors"),
            lambda path: save_file({"lora_A": torch.ones(2)}, path / "adapter_model.safetensors"),
            lambda path: _pickled(path, 10**9),
            lambda path: [(path / name).touch() for name in ("training_args.bin", "optimizer.pt")],
            lambda path: ((path / "original").mkdir(), (path / "original" / "consolidated.00.pth").touch()),
        ],
    )
    def test_what_is_no_other_set_is_fine(self, directory: Path, add: Callable[[Path], object]) -> None:
        add(directory)
        check(directory)

    def test_of_a_snapshot_only_what_the_model_consists_of_counts(self, directory: Path) -> None:
        """Mistral's repositories hold two sets; transformers loads one, and only that one is fetched."""
        needed = {file.name for file in directory.iterdir()}
        _copy(directory, "consolidated.safetensors")
        refused(directory, "holds 2 sets")
        check_model_directory(ModelSpec("org/model", directory, files=tuple(sorted(needed))))


@pytest.mark.parametrize(
    ("mislead", "message"),
    [
        (lambda path: (path / "adapter_config.json").write_text("{}"), "holds a model and an adapter"),
        (lambda path: (path / "shard-00001-model-00001-of-00001.safetensors").touch(), "distributed checkpoint"),
        (
            lambda path: (path / "config.json").write_text('{"model_type": "llama", "transformers_weights": "x"}'),
            "names other weights",
        ),
    ],
    ids=["adapter", "distributed", "named weights"],
)
def test_weights_other_than_those_checked_are_refused(
    directory: Path, mislead: Callable[[Path], object], message: str
) -> None:
    mislead(directory)
    refused(directory, message)


def test_without_tokenizer(directory: Path) -> None:
    (directory / "tokenizer.json").unlink()
    refused(directory, "holds no tokenizer")


def test_pins(directory: Path) -> None:
    pin = hashlib.sha256((directory / "model.safetensors").read_bytes()).hexdigest()
    check(directory, model__safetensors=pin)
    with pytest.raises(ConfigurationError, match=r"gone\.txt is pinned for org/model but not there"):
        check(directory, gone__txt=pin)
    with pytest.raises(ConfigurationError, match=rf"config\.json: its SHA-256 is .* but {pin} is pinned"):
        check(directory, config__json=pin)


class TestDigest:
    def test_is_the_root_over_file_digests_in_path_order(self, tmp_path: Path) -> None:
        # Part by part "a/z" precedes "a-b"; as plain strings it would follow.
        contents = {"a/z": b"1", "a-b": b"2", "b": b"3"}
        (tmp_path / "a").mkdir()
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
        raw = b"".join(hashlib.sha256(content).digest() for content in contents.values())
        assert CheckpointFiles.at(tmp_path).digest == hashlib.sha256(raw).hexdigest()

    def test_ignores_what_is_not_the_model(self, directory: Path) -> None:
        before = CheckpointFiles.at(directory).digest
        for name in (".git/config", ".gitattributes", ".cache/huggingface/x.metadata", "model.sig"):
            (directory / name).parent.mkdir(parents=True, exist_ok=True)
            (directory / name).write_text("x")
        assert CheckpointFiles.at(directory).digest == before
        (directory / "extra.txt").write_text("x")
        assert CheckpointFiles.at(directory).digest != before


class TestReadOnce:
    def test_headers_are_the_tensors(self, sharded: Path) -> None:
        files = CheckpointFiles.at(sharded)
        expected = {name: t for file in sharded.glob("*.safetensors") for name, t in load_file(file).items()}
        assert {name: header.shape for name, header in files.tensors.items()} == {
            name: tuple(tensor.shape) for name, tensor in expected.items()
        }
        assert {header.dtype for header in files.tensors.values()} == {"F32"}
        assert files.parameters == sum(tensor.numel() for tensor in expected.values())
        assert files.size == sum(file.stat().st_size for file in sharded.glob("*.safetensors"))
        assert files.generation_config.keys() >= {"eos_token_id"}
        (sharded / "LICENSE.txt").touch()
        assert CheckpointFiles.at(sharded).license_files == ("LICENSE.txt",)

    def test_a_whole_session_reads_each_file_once(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        read: list[str] = []
        for module, name in (
            (files_module, "read_json"),
            (files_module, "sha256_file"),
            (safetensors_files, "read_stored"),
        ):
            original = getattr(module, name)

            def counted(path: Path, *given: object, original: Any = original, **options: object) -> object:
                read.append(path.name)
                return original(path, *given, **options)

            monkeypatch.setattr(module, name, counted)
        spec = ModelSpec("org/model", directory)
        for _ in range(2):
            check_model_directory(spec)
            read_shape(spec)
            model_size(spec, WindowPlan(16, 1, 1, 0), 1)
            load_tokenizer(spec)
            StoredWeights(directory)
        assert sorted(read) == ["config.json", "generation_config.json", "model.safetensors"]
        read.clear()
        assert CheckpointFiles.of(spec).digest == CheckpointFiles.of(spec).digest
        assert sorted(read) == sorted(file.name for file in directory.iterdir())

    def test_a_file_that_changes_is_read_again(self, directory: Path) -> None:
        before = CheckpointFiles.at(directory)
        assert CheckpointFiles.at(directory) is before
        digest, config = before.digest, (directory / "config.json").read_text()
        (directory / "config.json").write_text(config.replace('"llama"', '"gemma"'))
        after = CheckpointFiles.at(directory)
        assert after.config["model_type"] == "gemma"
        assert after.digest != digest

    def test_of_a_snapshot_only_its_own_files_count(self, directory: Path) -> None:
        chosen = ("config.json", "model.safetensors")
        found = CheckpointFiles.of(ModelSpec("org/model", directory, files=chosen))
        raw = b"".join(hashlib.sha256((directory / name).read_bytes()).digest() for name in chosen)
        assert found.digest == hashlib.sha256(raw).hexdigest()
        assert CheckpointFiles.at(directory).digest != found.digest
