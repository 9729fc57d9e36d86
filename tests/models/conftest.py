"""A model in several files, which a test may damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.model_files import build_model_directory


@pytest.fixture(scope="module")
def saved_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_model_directory(tmp_path_factory.mktemp("models") / "sharded", shard_size="60KB")


@pytest.fixture
def sharded(saved_shards: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved_shards, tmp_path / "model")
