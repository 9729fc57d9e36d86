"""The client: what it reads is bounded, and afterwards it is what it was before."""

from __future__ import annotations

import gzip
import logging
import sys

import httpx2
import pytest
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import _http as hub_http

from pytest_proofpack.sources.hub_client import Hub
from tests.support.hosted_model import WEIGHTS, fetch_one, model, problem
from tests.support.hub_server import Fault, HubServer


class TestBounds:
    """A hub may send what it likes: what is read of it is bounded."""

    def test_an_answer_without_an_end(self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pytest_proofpack.sources.hub_client.MAX_ANSWER", 100_000)
        server.faults.append(Fault(200, "GET /api", body=b"[" * 200_000))
        assert "the hub sends more than 100 kB, which nothing that is needed has" in problem(hub)

    def test_a_file_longer_than_any_that_is_listed(
        self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pytest_proofpack.sources.hub_client.MAX_ANSWER", 20_000)
        server.faults.append(Fault(200, r"GET .*model\.safetensors", body=WEIGHTS + bytes(2000)))
        assert "the hub sends more than 1.02 MB" in problem(hub)

    def test_an_answer_that_unfolds(self, hub: Hub, server: HubServer) -> None:
        bomb = gzip.compress(bytes(10_000_000))
        server.faults.append(Fault(200, "GET /api", body=bomb, headers={"Content-Encoding": "gzip"}))
        assert "the hub answers compressed (gzip, HTTP 200), unasked" in problem(hub)

    @pytest.mark.parametrize(
        ("proxy", "reason"), [("socks5://127.0.0.1:1", "socksio"), ("gopher://127.0.0.1:1", "gopher")]
    )
    def test_a_proxy_that_cannot_be_used(
        self, hub: Hub, proxy: str, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "socksio", None)
        monkeypatch.setenv("ALL_PROXY", proxy)
        line = problem(hub)
        assert "the proxy in ALL_PROXY cannot be used" in line
        assert reason in line


class TestAfterwards:
    """What the process has made of huggingface_hub's client is as it was."""

    def test_the_client_is_offline_again(self, hub: Hub, server: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        fetch_one(hub)
        with pytest.raises(OfflineModeIsEnabled):
            get_session().get(server.url)

    @pytest.mark.parametrize("fails", [False, True])
    def test_a_factory_and_a_client_of_the_users_own(
        self, hub: Hub, monkeypatch: pytest.MonkeyPatch, *, fails: bool
    ) -> None:
        for name in ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_CLIENT"):  # put back after the test
            monkeypatch.setattr(f"huggingface_hub.utils._http.{name}", getattr(hub_http, name))
        made: list[httpx2.Client] = []

        def own_factory() -> httpx2.Client:
            made.append(httpx2.Client(headers={"X-Proxy": "ours"}))
            return made[-1]

        set_client_factory(own_factory)
        own = get_session()
        problem(hub, model("acme/gone")) if fails else fetch_one(hub)
        assert get_session() is own
        assert not own.is_closed
        set_client_factory(hub_http._GLOBAL_CLIENT_FACTORY)  # closes the client
        assert get_session() is made[1]
        assert get_session().headers["X-Proxy"] == "ours"

    @pytest.mark.parametrize("level", [logging.NOTSET, logging.INFO])
    def test_how_much_it_says(self, hub: Hub, level: int) -> None:
        logger = logging.getLogger("huggingface_hub")
        before = logger.level
        try:
            logger.setLevel(level)
            fetch_one(hub)
            assert logger.level == level
        finally:
            logger.setLevel(before)
