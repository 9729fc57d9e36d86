"""Weights in several files: every tensor is in one, and an index that says something else is refused or told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.file_warnings import file_warnings
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint
from pytest_proofpack.models.safetensors_files import INDEX
from pytest_proofpack.plan.records import ModelSpec

NORM = "model.norm.weight"


def warnings(path: Path) -> tuple[str, ...]:
    spec = ModelSpec("org/model", path)
    check_checkpoint(spec)
    return file_warnings(spec, CheckpointFiles.of(spec))


def refused(path: Path, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        check_checkpoint(ModelSpec("org/model", path))


def rewrite(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((path / INDEX).read_text())
    change(index["weight_map"])
    (path / INDEX).write_text(json.dumps(index))


def places(path: Path) -> tuple[str, str]:
    """Return the file that holds the last norm, and another one."""
    own = json.loads((path / INDEX).read_text())["weight_map"][NORM]
    return own, next(file.name for file in sorted(path.glob("*.safetensors")) if file.name != own)


def test_what_is_saved_needs_no_word(sharded: Path) -> None:
    assert warnings(sharded) == ()


@pytest.mark.parametrize("says_the_other", [False, True])
def test_a_tensor_in_two_files_is_refused_whatever_the_index_says(sharded: Path, says_the_other: bool) -> None:
    own, other = places(sharded)
    doubled = {**load_file(sharded / other), NORM: load_file(sharded / own)[NORM] * 2}
    save_file(doubled, sharded / other, metadata={"format": "pt"})
    if says_the_other:
        rewrite(sharded, lambda weight_map: weight_map.update({NORM: other}))
    first, second = sorted((own, other))
    refused(sharded, rf"{second}: holds model\.norm\.weight, which {first} holds as well")


def test_an_index_that_names_another_file_is_refused(sharded: Path) -> None:
    own, other = places(sharded)
    rewrite(sharded, lambda weight_map: weight_map.update({NORM: other}))
    refused(sharded, rf"index\.json: says that model\.norm\.weight is in {other}, but it is in {own}")


def test_what_an_index_leaves_out_or_adds_is_told(sharded: Path) -> None:
    own, _ = places(sharded)
    rewrite(sharded, lambda weight_map: (weight_map.pop(NORM), weight_map.update(ghost=own)))
    left_out, added = warnings(sharded)
    assert left_out.startswith(f"{INDEX} leaves out tensors that its files hold, and that were loaded: {NORM}. ")
    assert added == f"{INDEX} lists tensors that none of its files holds: ghost."


def test_the_digest_covers_the_weights_or_they_are_refused(sharded: Path, tmp_path: Path) -> None:
    own, _ = places(sharded)
    (tmp_path / "elsewhere").mkdir()
    shutil.move(sharded / own, tmp_path / "elsewhere")
    (sharded / "link").symlink_to(tmp_path / "elsewhere")
    rewrite(
        sharded,
        lambda weight_map: weight_map.update({name: f"link/{own}" for name in weight_map if weight_map[name] == own}),
    )
    refused(sharded, rf"link/{own}: is not among the files that the model's digest is made of: it lies behind a link")
