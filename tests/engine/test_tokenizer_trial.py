"""A stranger's tokenizer.json can neither take the machine nor end the session: it is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.engine import tokenizer_trial
from pytest_proofpack.engine.tokenizer_trial import require_tame_tokenizer
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import bounded_process
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.tokenizer import read_tokenizer
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text.windows import tokenize

EMBEDDED = suites_directory() / "tiny_model"
BACKTRACKS = {
    "type": "Split",
    "pattern": {"Regex": r"(a+)+(a*)*(?=x)y$|((\w+\s?)*)*!"},
    "behavior": "Isolated",
    "invert": False,
}
MULTIPLIES = {
    "type": "Sequence",
    "normalizers": [{"type": "Replace", "pattern": {"String": "e"}, "content": "e" * 1000}] * 5,
}


def model(path: Path, **sections: Any) -> CheckpointFiles:
    """Return a copy of the embedded model's directory with other sections in its tokenizer.json."""
    shutil.copytree(EMBEDDED, path)
    definition = json.loads((path / "tokenizer.json").read_text())
    (path / "tokenizer.json").write_text(json.dumps(definition | sections))
    return CheckpointFiles.at(path)


def test_one_that_multiplies_text_dies_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_process, "MEMORY", 2**29)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: a process of .* GiB died of splitting"):
        require_tame_tokenizer(model(tmp_path / "model", normalizer=MULTIPLIES))


def test_a_panic_of_its_library_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot split text \(Onig: Regex search error"):
        require_tame_tokenizer(model(tmp_path / "model", pre_tokenizer=BACKTRACKS))


def test_a_panic_on_the_text_is_told(tmp_path: Path) -> None:
    tokenizer: Any = read_tokenizer(model(tmp_path / "model", pre_tokenizer=BACKTRACKS).path)
    with pytest.raises(ConfigurationError, match="cannot split a document of the text"):
        tokenize(["a" * 60], tokenizer)


def test_one_that_takes_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer_trial, "PATIENCE", 0.001)
    with pytest.raises(ConfigurationError, match="takes more than"):
        require_tame_tokenizer(model(tmp_path / "model", version="1.0", normalizer={"type": "NFKD"}))


def test_honest_ones_are_tried_once_and_the_embedded_one_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = model(tmp_path / "model", normalizer={"type": "NFC"})
    require_tame_tokenizer(files)
    again = CheckpointFiles.at(Path(shutil.copytree(files.path, tmp_path / "again")))
    monkeypatch.setattr(tokenizer_trial, "bounded_answer", None)
    for known in (again, CheckpointFiles.at(EMBEDDED)):
        require_tame_tokenizer(known)
