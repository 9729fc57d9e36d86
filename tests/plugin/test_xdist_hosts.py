"""Which of xdist's workers run on this host."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import execnet
import pytest

from pytest_proofpack.plugin.xdist_hosts import all_here, host_of


@pytest.mark.parametrize(
    ("spec", "host"),
    [
        ("popen", ""),
        ("popen//python=python3.11//env:CUDA_VISIBLE_DEVICES=0", ""),
        ("ssh=me@far//python=python3", "me@far"),
        ("socket=192.168.1.4:8888", "192.168.1.4:8888"),
        ("popen//via=bridge", "bridge"),
    ],
)
def test_the_host_of_a_worker(spec: str, host: str) -> None:
    assert host_of(execnet.XSpec(spec)) == host


@pytest.mark.parametrize(
    ("tx", "here"), [(None, True), ([], True), (["3*popen"], True), (["popen", "2*ssh=far"], False)]
)
def test_whether_all_are_here(tx: list[str] | None, here: bool) -> None:
    config: Any = SimpleNamespace(option=SimpleNamespace(tx=tx), getvalue=lambda _: tx)
    assert all_here(cast("pytest.Config", config)) is here
