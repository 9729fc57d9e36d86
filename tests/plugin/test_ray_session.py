"""A session whose certificates are made in a real Ray cluster of two nodes on this host, one of which is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack import verify
from pytest_proofpack.plugin.ray_cluster import Event, RayCluster
from tests.plugin.conftest import SmallSuite
from tests.support.pack_documents import documents

pytestmark = pytest.mark.slow  # sessions that certify a model, and a cluster

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
OPTIONS = ("--proofpack-sign=off", "--proofpack-no-html", "-p", "no:cacheprovider")


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Return a cluster of two nodes with a CPU each."""
    import ray
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        started = Cluster(initialize_head=True, head_node_args=NODE)
        try:
            yield started
        finally:
            ray.shutdown()
            started.shutdown()


class KillsANode:
    """Costs the cluster a node, once a certificate has come, at the moment when a process there is given another."""

    def __init__(self, cluster: Any, node: Any, patch: pytest.MonkeyPatch) -> None:
        self.seen = 0
        nodes: dict[str, str] = {}
        events, make = RayCluster.events, RayCluster.make

        def noting_nodes(own: RayCluster, seconds: float) -> Iterator[Event]:
            for event in events(own, seconds):
                if event.kind == "ready":
                    nodes[event.slot] = event.node
                yield event

        def killing(own: RayCluster, slot: str, number: int, borrowed: tuple[str, ...]) -> None:
            make(own, slot, number, borrowed)
            if self.seen and nodes[slot] == node.node_id and node in cluster.worker_nodes:
                cluster.remove_node(node, allow_graceful=False)

        patch.setattr(RayCluster, "events", noting_nodes)
        patch.setattr(RayCluster, "make", killing)

    def pytest_proofpack_certificate(self) -> None:
        self.seen += 1


def session(suite: Path, folder: Path, *more: str, plugins: tuple[object, ...] = ()) -> int:
    folder.mkdir()
    options = ["-c", "/dev/null", f"--proofpack-suite={suite}", "--proofpack-out=run", *OPTIONS, *more]
    with contextlib.chdir(folder):
        return int(pytest.main(options, plugins=list(plugins)))


@pytest.mark.filterwarnings("ignore")  # of Ray's own threads and files
def test_a_cluster_that_loses_a_node_makes_the_pack_of_one_session(
    small: SmallSuite,
    tmp_path: Path,
    cluster: Any,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (small.folder / "other").symlink_to(small.model)
    model = '[[models]]\nid = "acme/other"\npath = "other"'  # one for each node
    small.write(("quant_4bit_clean", "nan_injection"), extra=model)
    killer = KillsANode(cluster, cluster.add_node(**NODE), monkeypatch)
    status = session(small.suite, tmp_path / "ray", f"--proofpack-ray={cluster.address}", plugins=(killer,))
    said = capfd.readouterr().out

    assert status == pytest.ExitCode.OK, said
    assert killer.seen == 6
    assert "it is made again" in said
    assert session(small.suite, tmp_path / "alone") == pytest.ExitCode.OK
    packs = [tmp_path / name / "run/proof_pack" for name in ("ray", "alone")]
    assert verify(packs[0]).verdict == "PASS"
    assert documents(packs[0]) == documents(packs[1])
