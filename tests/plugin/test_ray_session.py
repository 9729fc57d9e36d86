"""A session whose certificates are made in a real Ray cluster of two nodes on this host, one of which is killed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack import verify
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
    """A plugin of the session: the second certificate that comes costs the cluster a node."""

    def __init__(self, cluster: Any, node: Any) -> None:
        self._cluster = cluster
        self._node = node
        self.seen = 0

    def pytest_proofpack_certificate(self) -> None:
        self.seen += 1
        if self.seen == 2:
            self._cluster.remove_node(self._node, allow_graceful=False)


def session(suite: Path, folder: Path, *more: str, plugins: tuple[object, ...] = ()) -> int:
    folder.mkdir()
    options = ["-c", "/dev/null", f"--proofpack-suite={suite}", "--proofpack-out=run", *OPTIONS, *more]
    with contextlib.chdir(folder):
        return int(pytest.main(options, plugins=list(plugins)))


@pytest.mark.filterwarnings("ignore")  # of Ray's own threads and files
def test_a_cluster_that_loses_a_node_makes_the_pack_of_one_session(
    small: SmallSuite, tmp_path: Path, cluster: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    killer = KillsANode(cluster, cluster.add_node(**NODE))
    status = session(small.suite, tmp_path / "ray", f"--proofpack-ray={cluster.address}", plugins=(killer,))
    said = capfd.readouterr().out

    assert status == pytest.ExitCode.OK, said
    assert killer.seen == 6
    assert "it is made again" in said or "a process did not start" in said
    assert session(small.suite, tmp_path / "alone") == pytest.ExitCode.OK
    packs = [tmp_path / name / "run/proof_pack" for name in ("ray", "alone")]
    assert verify(packs[0]).verdict == "PASS"
    assert documents(packs[0]) == documents(packs[1])
