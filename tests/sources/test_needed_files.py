"""Which files of a repository are fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Role
from pytest_proofpack.sources.needed_files import needed_files
from pytest_proofpack.sources.source import Source

SOURCE = Source(Role.SUBJECT, "acme/adapter", "acme/adapter", None)
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def test_of_an_adapter(tmp_path: Path) -> None:
    names = [*ADAPTER, "adapter_model.bin", "optimizer.pt", "tokenizer.json", "README.md"]
    assert needed_files(SOURCE, names, tmp_path) == (*ADAPTER, "tokenizer.json")


def test_an_adapter_beside_a_model_is_left_alone(tmp_path: Path) -> None:
    wanted = needed_files(SOURCE, [*ADAPTER, "config.json", "model.safetensors"], tmp_path)
    assert wanted == ("config.json", "model.safetensors")


def test_one_that_is_only_pickled_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"only pickled ones \(adapter_model\.bin\)"):
        needed_files(SOURCE, ["adapter_config.json", "adapter_model.bin"], tmp_path)


def test_chat_templates_with_names_of_their_own_belong_to_a_model(tmp_path: Path) -> None:
    folder = "additional_chat_templates"
    names = ["config.json", "model.safetensors", f"{folder}/rag.jinja", f"{folder}/deep/x.jinja", f"{folder}/notes.md"]
    assert needed_files(SOURCE, names, tmp_path) == (f"{folder}/rag.jinja", "config.json", "model.safetensors")
