"""The model that an adapter names is held against the baseline; nothing of it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_proofpack.models.adapter_base import base_warnings
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import ModelSpec
from tests.support.edited_checkpoints import EMBEDDED
from tests.support.gguf_files import write_gguf

BASE = CheckpointFiles.at(EMBEDDED)
LOCAL = ModelSpec("tiny", path=EMBEDDED)
HUB = ModelSpec("Acme/Model", path=EMBEDDED, revision="a" * 40)


def warnings(
    tmp_path: Path, baseline: ModelSpec, named: object, revision: str | None = None, base: CheckpointFiles = BASE
) -> tuple[str, ...]:
    own = tmp_path / "adapter"
    own.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": named, "revision": revision}
    (own / "adapter_config.json").write_text(json.dumps(config))
    return base_warnings(CheckpointFiles.at(own), baseline, base)


@pytest.mark.parametrize(
    ("baseline", "base", "revision"),
    [
        (LOCAL, str(EMBEDDED), None),
        (HUB, "acme/model", None),
        (HUB, "Acme/Model", "a" * 40),
        (HUB, "Acme/Model", "main"),
    ],
)
def test_the_model_that_it_names(tmp_path: Path, baseline: ModelSpec, base: str, revision: str | None) -> None:
    assert warnings(tmp_path, baseline, base, revision) == ()


@pytest.mark.parametrize(
    ("baseline", "base", "revision", "message"),
    [
        (HUB, "acme/other", None, "was trained on acme/other, and the baseline is Acme/Model: another model"),
        (HUB, "Acme/Model", "b" * 40, f"Acme/Model at {'b' * 40}, and the baseline is that model at {'a' * 40}"),
        (LOCAL, "acme/model", None, "whether the baseline, tiny, is that model can't be told here"),
        (LOCAL, "/nowhere/llama", None, "was trained on llama; whether the baseline"),
        (LOCAL, None, None, "does not say which model it was trained on"),
        (LOCAL, "\0", None, "can't be told here"),
    ],
)
def test_another_one(tmp_path: Path, baseline: ModelSpec, base: object, revision: str | None, message: str) -> None:
    (warning,) = warnings(tmp_path, baseline, base, revision)
    assert message in warning


def test_of_several_models_in_a_directory_nobody_can_tell_which_is_meant(tmp_path: Path) -> None:
    file = write_gguf(tmp_path / "tiny-Q8_0.gguf", EMBEDDED, "Q8_0", tokenizer=False)
    base = CheckpointFiles.at(file)
    assert warnings(tmp_path, ModelSpec("tiny", path=file), str(tmp_path), base=base) == ()
    (tmp_path / "tiny-F16.gguf").touch()
    (warning,) = warnings(tmp_path, ModelSpec("tiny", path=file), str(tmp_path), base=base)
    assert "a directory that holds other models besides tiny-Q8_0.gguf: which, can't be told here" in warning


def test_a_directory_is_known_by_its_bytes(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(EMBEDDED, copy)
    assert warnings(tmp_path, LOCAL, str(copy)) == ()
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes().replace(b"5", b"6"))
    (warning,) = warnings(tmp_path, LOCAL, str(copy))
    assert warning == "the adapter was trained on copy, whose files in that directory are not the baseline's."
    (warning,) = warnings(tmp_path, LOCAL, "/proc")
    assert "whose files in that directory are not the baseline's" in warning
