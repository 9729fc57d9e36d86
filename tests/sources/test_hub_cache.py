"""Offline: what lies in the cache is compared with the pinned commit, without a question to the hub."""

from __future__ import annotations

import shutil

import pytest

from pytest_proofpack.sources.hub_cache import snapshot_problem
from pytest_proofpack.sources.hub_client import Hub
from pytest_proofpack.sources.source import Snapshot
from tests.support.hosted_model import NEEDED, SOURCE, fetch_one
from tests.support.hub_server import HubServer


class TestCache:
    """Offline: what lies in the cache is compared with the pinned commit, without a question to the hub."""

    @pytest.fixture
    def found(self, hub: Hub, server: HubServer) -> Snapshot:
        result = fetch_one(hub)
        server.requests.clear()
        return result

    def check(self, hub: Hub, found: Snapshot) -> str | None:
        return snapshot_problem(SOURCE, str(found.pin.revision), None, hub.cache)

    def test_whole(self, hub: Hub, found: Snapshot, server: HubServer) -> None:
        assert self.check(hub, found) is None
        assert server.requests == []

    @pytest.mark.parametrize("listed", [True, False])
    @pytest.mark.parametrize("name", sorted(NEEDED))
    def test_a_changed_file_is_named(self, hub: Hub, found: Snapshot, name: str, *, listed: bool) -> None:
        if not listed:  # as older versions of the client leave it
            shutil.rmtree(hub.cache / "models--acme--small" / "trees")
        assert found.path is not None
        file = (found.path / name).resolve()
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        assert f"{name} has the" in str(self.check(hub, found))

    def test_a_link_to_another_blob(self, hub: Hub, found: Snapshot) -> None:
        assert found.path is not None
        (found.path / "config.json").unlink()
        (found.path / "config.json").symlink_to((found.path / "tokenizer.json").readlink())
        assert "config.json has 2 bytes instead of 23" in str(self.check(hub, found))

    def test_a_missing_file(self, hub: Hub, found: Snapshot) -> None:
        assert found.path is not None
        (found.path / "tokenizer.json").unlink()
        assert "lacks tokenizer.json of commit" in str(self.check(hub, found))

    @pytest.mark.usefixtures("found")
    def test_another_commit(self, hub: Hub) -> None:
        line = str(snapshot_problem(SOURCE, "0" * 40, None, hub.cache))
        assert line == f"acme/small: commit {'0' * 40} is not in the cache ({hub.cache}/models--acme--small)"

    def test_a_cache_that_was_copied_without_links(self, hub: Hub, found: Snapshot) -> None:
        repository = hub.cache / "models--acme--small"
        shutil.rmtree(repository / "trees")
        assert found.path is not None
        copy = shutil.copytree(found.path, repository / "copy")
        shutil.rmtree(found.path)
        copy.rename(found.path)
        line = str(self.check(hub, found))
        assert "was copied without its links" in line
        assert f"--proofpack-model={found.path}" in line

    def test_copies_without_a_listing_cannot_be_checked(self, hub: Hub, found: Snapshot) -> None:
        shutil.rmtree(hub.cache / "models--acme--small" / "trees")
        assert found.path is not None
        content = (found.path / "config.json").read_bytes()
        (found.path / "config.json").unlink()
        (found.path / "config.json").write_bytes(content)
        assert "config.json cannot be checked" in str(self.check(hub, found))
