"""The fork server of a session, as its controller has it: started first of all, named to execnet, ended last.

Only Linux forks a process safely in which torch is loaded, and ends it with another.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.plugin.xdist_hosts import host_of, worker_specs

LIBRARIES = (
    "torch",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",  # with most of what other architectures import
    "safetensors.torch",
    "accelerate",
)
"""What workers import first, and takes them longest."""
_HERE = Path(__file__).parent
_ASKED_FOR = ("id", "execmodel", "popen")
"""What a worker's spec may say for it to be forked: that it is a process of this host, like the server itself."""
_MOST_WAITING = 1024
_PATIENCE = 10.0
"""Seconds for the server to end its workers and itself."""
_NVML = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}
"""Lets torch see whether there is a GPU without initialising CUDA, which would not survive the fork."""


class ForkServer:
    """Registered in the controller of a session with workers of this host."""

    def __init__(self, config: pytest.Config, environment: Callable[[int], Mapping[str, str]]) -> None:
        """Start nothing yet.

        Args:
            config: of the session.
            environment: returns what so many workers of this host start with, each.
        """
        self._config = config
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._name = ""
        self._begun_with: Mapping[str, str] = {}

    @pytest.hookimpl(trylast=True)
    def pytest_configure(self) -> None:
        """Start it, as soon as xdist knows how many workers there are to be."""
        if sys.platform != "linux" or self._config.option.collectonly:
            return
        if forked := [spec for spec in worker_specs(self._config) if may_be_forked(spec)]:
            with contextlib.suppress(OSError):  # then workers start as usual, and say what is wrong
                self._start(len(forked))

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_setupnodes(self, specs: Sequence[Any]) -> None:
        """Have execnet start workers by its client once it can fork; unless it never can, or a plugin has changed what
        libraries read when imported.

        Whoever waited in a worker's place would be one process more that can be killed before there is a worker.
        """
        if self._process is None or _own(os.environ) != self._begun_with:
            return
        assert self._process.stdout is not None
        with self._process.stdout as ready:
            if not ready.read(1):
                return
        client = [sys.executable, "-IS", str(_HERE / "client.py"), self._name, str(os.getpid()), sys.executable]
        for spec in specs:
            if may_be_forked(spec):
                spec.python = shlex.join(client)

    def end(self) -> None:
        """End it, and every worker that is left; again does nothing."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _start(self, workers: int) -> None:
        self._name, self._begun_with = f"pytest-proofpack-{secrets.token_hex(16)}", _own(os.environ)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"\0{self._name}")
            listener.listen(_MOST_WAITING)
            command = [sys.executable, "-P", str(_HERE / "server.py"), str(listener.fileno()), str(os.getpid())]
            command += LIBRARIES
            self._process = subprocess.Popen(  # noqa: S603 - our own
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what is wrong with an import, a worker says that is started as usual
                env={**os.environ, **_NVML, **self._environment(workers)},
                pass_fds=[listener.fileno()],
            )
        self._config.add_cleanup(self.end)


def _own(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without what pytest notes down in it."""
    return {name: value for name, value in environment.items() if not name.startswith("PYTEST_")}


def may_be_forked(spec: Any) -> bool:
    """Tell whether a worker is to be like the server: nobody has given it another Python, folder or environment."""
    more = vars(spec).keys() - {*_ASKED_FOR, "env", "_spec"}
    return bool(spec.popen) and not host_of(spec) and not spec.env and not more
