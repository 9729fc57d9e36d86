"""The digest of a loaded model is that of the bytes it was made of, whatever becomes of its files meanwhile."""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models import hashed_file, reading, stored_bytes
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.load import LoadedModel, load_model
from pytest_proofpack.models.safetensors_files import read_stored
from pytest_proofpack.models.stored_bytes import bytes_of
from pytest_proofpack.plan.records import ModelSpec
from tests.support.file_changes import CHANGES, overwrite, truncate
from tests.support.model_files import build_model_directory
from tests.support.small_models import weights_digest

WEIGHTS = "model.safetensors"
STRAIGHT = -1.0
ROOMS = pytest.mark.parametrize(
    "room", [0.5, 3e-6, 0.0, STRAIGHT], ids=["room for all", "for some", "for none", "straight to a GPU"]
)
"""Parts of the free memory that may be held; the second holds some tensors of the small model. The last one is how
weights go to a GPU, with the CPU in its place."""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return build_model_directory(tmp_path / "model", "llama")


@pytest.fixture
def room(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    monkeypatch.setattr(reading, "_HELD_SHARE", abs(request.param))
    monkeypatch.setattr(reading, "_is_gpu", lambda _device: request.param == STRAIGHT)
    return float(request.param)


def load(directory: Path) -> LoadedModel:
    return load_model(ModelSpec("m", directory), "cpu")


def at_read(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> None:
    """Do something just before a reading of a piece of a weight file; 0 is the first."""
    numbers, lock = itertools.count(), threading.Lock()

    def preadv(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        with lock:
            if next(numbers) == number:
                act()
        return os.preadv(descriptor, buffers, offset)

    monkeypatch.setattr(stored_bytes, "os", SimpleNamespace(preadv=preadv))


def digest_of_tensors(model: torch.nn.Module, like: Path) -> str:
    """Return the SHA-256 that a file has with this model's values, in the places of another file."""
    raw = bytearray(like.read_bytes())
    for name, stored in read_stored(like).tensors.items():
        raw[stored.start : stored.end] = bytes_of(model.get_parameter(name).detach())
    return hashlib.sha256(raw).hexdigest()


@ROOMS
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_it_is_the_digest_of_the_directory(room: float, architecture: str, tmp_path: Path) -> None:
    directory = build_model_directory(tmp_path / "model", architecture, shard_size="40KB")
    tensors = load_file(next(directory.glob("*.safetensors")))
    save_file(tensors, directory / "unused.safetensors")
    loaded = load(directory)
    assert loaded.reading.digest() == CheckpointFiles.at(directory).digest
    assert len(loaded.reading.opened) > 1
    again = load(directory).model
    assert weights_digest(again) == weights_digest(loaded.model)


@ROOMS
def test_tensors_that_nobody_takes_and_odd_types_are_hashed_too(room: float, directory: Path) -> None:
    file = directory / WEIGHTS
    odd = {
        "a.flag": torch.tensor([True] * 3),
        "b.float8": torch.ones(5).to(torch.float8_e4m3fn),
        "c.none": torch.ones(0),
    }
    save_file(load_file(file) | odd, file, metadata={"format": "pt"})
    loaded = load(directory)
    assert loaded.unexpected == tuple(odd)
    assert loaded.reading.digest() == CheckpointFiles.at(directory).digest


@pytest.mark.parametrize("name", list(CHANGES))
def test_no_file_is_mapped_once_it_is_loaded(name: str, directory: Path) -> None:
    loaded = load(directory)
    loaded.reading.digest()
    before = weights_digest(loaded.model)
    assert str(directory) not in Path("/proc/self/maps").read_text()
    assert not any(directory in fd.resolve().parents for fd in Path("/proc/self/fd").iterdir())
    CHANGES[name](directory / WEIGHTS)
    assert weights_digest(loaded.model) == before


@ROOMS
@pytest.mark.parametrize("number", [0, 3, 14])
@pytest.mark.parametrize("name", list(CHANGES))
def test_a_change_while_it_is_read_names_the_file(
    room: float, name: str, number: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = directory / WEIGHTS
    at_read(monkeypatch, number, lambda: CHANGES[name](file))
    with pytest.raises(EvaluationError, match=r"model\.safetensors: changed on disk while it was in use"):
        load(directory).reading.digest()


@ROOMS
@pytest.mark.parametrize("number", [0, 5, 14, 25])
def test_without_the_files_times_the_bytes_alone_tell(
    room: float, number: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that stays dirty in somebody's mapping changes without a new time: what is hashed is what was loaded."""
    file = directory / WEIGHTS
    original = copied(file)
    monkeypatch.setattr(CheckpointFiles, "changed", ())
    at_read(monkeypatch, number, lambda: overwrite(file))
    try:
        loaded = load(directory)
        found = loaded.reading.digest()
    except EvaluationError:  # two readings of a tensor differed
        assert room < 0.5
        return
    raw = b"".join(
        bytes.fromhex(digest_of_tensors(loaded.model, original) if name.name == WEIGHTS else sha256(directory / name))
        for name in loaded.reading.files.content
    )
    assert found == hashlib.sha256(raw).hexdigest()


def copied(file: Path) -> Path:
    copy = file.parent.parent / "original.safetensors"
    copy.write_bytes(file.read_bytes())
    return copy


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_a_small_file_that_changes_meanwhile_is_named(
    name: str, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_read(monkeypatch, 3, lambda: (directory / name).write_bytes((directory / name).read_bytes() + b"\n"))
    with pytest.raises(EvaluationError, match=rf"{name}: changed on disk"):
        load(directory).reading.digest()


def test_cut_short_between_check_and_load(directory: Path) -> None:
    files = CheckpointFiles.at(directory)
    files.headers  # noqa: B018 - checked
    truncate(directory / WEIGHTS)
    with pytest.raises(EvaluationError, match=r"model\.safetensors"):
        reading.CheckpointReading(files).open(directory / WEIGHTS)


@pytest.mark.parametrize(
    ("architecture", "dtype", "apart"),
    [
        ("llama", None, ()),
        ("gpt2", None, ()),
        ("mixtral", None, (".experts.", ".block_sparse_moe.")),  # merged, or of another name than the parameter
        ("llama", torch.bfloat16, ("",)),
    ],
)
def test_what_stays_as_it_is_stored_goes_straight_to_a_gpu(
    architecture: str,
    dtype: torch.dtype | None,
    apart: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = build_model_directory(tmp_path / "model", architecture)
    taken: dict[str, torch.device | None] = {}
    take = hashed_file.HashedFile.take

    def watched(self: hashed_file.HashedFile, name: str, device: torch.device | None = None) -> torch.Tensor:
        taken[name] = device
        return take(self, name, device)

    monkeypatch.setattr(hashed_file.HashedFile, "take", watched)
    monkeypatch.setattr(reading, "_is_gpu", lambda _device: True)
    loaded = load_model(ModelSpec("m", directory), "cpu", dtype)
    straight = {name for name, device in taken.items() if device is not None}
    assert taken.keys() - straight == {name for name in taken if any(part in name for part in apart)}
    assert loaded.reading.digest() == CheckpointFiles.at(directory).digest


def test_a_transformers_that_reads_in_another_way_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.CheckpointReading, "open", reading.modeling_utils.safe_open)  # type: ignore[attr-defined]
    with pytest.raises(EvaluationError, match="reads weights in a way that can't be followed"):
        load(directory)
