"""A hub on this machine that hosts one small model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.sources.hub_client import Hub
from tests.support.hosted_model import FILES, PATIENCE
from tests.support.hub_server import HostedRepo, HubServer, hub_server


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server() as running:
        yield running


@pytest.fixture
def hub(server: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    monkeypatch.setattr("time.sleep", lambda _: None)  # neither the client nor we need to pause here
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no_token"))
    return Hub(server.url, tmp_path / "cache", PATIENCE)


@pytest.fixture(autouse=True)
def repo(server: HubServer) -> HostedRepo:
    hosted = server.add("acme/small", card={"license": "apache-2.0"})
    hosted.commit(FILES)
    return hosted
