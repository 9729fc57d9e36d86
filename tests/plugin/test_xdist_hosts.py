"""Which of xdist's workers run on this host."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import execnet
import pytest

from pytest_proofpack.plugin.xdist_hosts import all_here, any_here, host_of
from tests.plugin.conftest import SmallSuite, certificates

WHERE = """
import os, pathlib

def pytest_collection_finish():
    name = os.environ.get("PYTEST_XDIST_WORKER")
    if name:
        pathlib.Path(os.environ["HOME"], "was-here").write_text(f"{name} {os.environ['HF_HOME']}")
"""
"""A plugin that leaves the name of a worker, and its cache, in its home."""


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


@pytest.mark.parametrize(
    ("tx", "here"),
    [(None, False), ([], False), (["popen"], True), (["ssh=far", "popen"], True), (["2*ssh=far"], False)],
)
def test_whether_any_is_here(tx: list[str] | None, here: bool) -> None:
    plugins = SimpleNamespace(hasplugin=lambda name: name == "dsession")
    config: Any = SimpleNamespace(option=SimpleNamespace(tx=tx), getvalue=lambda _: tx, pluginmanager=plugins)
    assert any_here(cast("pytest.Config", config)) is here
    plugins.hasplugin = lambda _name: False  # workers are named, and not used
    assert not any_here(cast("pytest.Config", config))


@pytest.mark.slow
def test_workers_with_homes_and_caches_of_their_own_make_one_run(
    pytester: pytest.Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pytester.path / "where.py").write_text(WHERE)
    (small.folder / "other").symlink_to(small.model)
    small.write(extra='[[models]]\nid = "acme/other"\npath = "other"')  # a model for each worker
    homes = [pytester.mkdir(name) for name in ("one", "two")]
    specs = [f"--tx=popen//python={sys.executable}//env:HOME={home}//env:HF_HOME={home}/cache" for home in homes]
    monkeypatch.setenv("PYTHONPATH", str(pytester.path), prepend=":")
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--dist=load", "-p", "where", *specs
    )
    assert result.ret == pytest.ExitCode.OK
    assert [Path(home, "was-here").read_text() for home in homes] == [
        f"gw{number} {home}/cache" for number, home in enumerate(homes)
    ]
    assert len(certificates(pytester.path / "run")) == 12
    assert (pytester.path / "run/proof_pack/manifest.json").is_file()
