"""A model on a small hub of the tests' own, and what fetches it."""

from __future__ import annotations

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Role
from pytest_proofpack.sources.hub import fetch
from pytest_proofpack.sources.hub_client import Hub, Patience
from pytest_proofpack.sources.source import Snapshot, Source

WEIGHTS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"pickled",
    "modeling_small.py": b"print('run')",
    "README.md": b"# A model",
}
NEEDED = {"config.json", "tokenizer.json", "model.safetensors"}
PATIENCE = Patience(timeout=5.0, tries=2, longest_wait=2.0)


SOURCE = Source(Role.MODEL, "acme/small", "acme/small", None)


def model(id_: str, asked: str | None = None) -> Source:
    return Source(Role.MODEL, id_, id_, asked)


def fetch_one(hub: Hub, source: Source = SOURCE, pin: Pin | None = None) -> Snapshot:
    return fetch(hub, [source], {source.key: pin} if pin else {}, lambda _: None)[source.key]


def problem(hub: Hub, source: Source = SOURCE) -> str:
    with pytest.raises(ConfigurationError) as caught:
        fetch_one(hub, source)
    return str(caught.value)


def stored(found: Snapshot) -> set[str]:
    assert found.path is not None
    return {path.relative_to(found.path).as_posix() for path in found.path.rglob("*") if path.is_file()}
