"""Sessions of pytest in processes of their own, forked from one that has imported torch and transformers already.

Importing them takes four seconds of a core, for each session and each of its workers, and is nothing that these tests
ask about. Whatever else a session does is its own: it imports pytest, xdist and this package anew, in its own folder
and environment. Tests that look at the start of a session, or kill parts of it, begin one as usual.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_READ_AT_IMPORT = ("HF_", "TRANSFORMERS_", "OMP_", "MKL_", "OPENBLAS_", "TORCH", "PYTORCH_", "CUDA_", "TOKENIZERS_")
"""Variables that begin so are read by libraries when they are imported."""


class WarmSession:
    """A session that runs, as far as :class:`subprocess.Popen` is used for one."""

    stdin = None

    def __init__(self, command: Sequence[str], folder: Path, said: tuple[Path, Path]) -> None:
        """Begin it.

        Args:
            command: what would start it, ``python -mpytest`` and arguments.
            folder: where.
            said: the files for its output and for its errors.
        """
        self._server = _server()
        request = {
            "arguments": [str(argument) for argument in command[2:]],
            "folder": str(folder),
            "environment": dict(os.environ),
            "output": str(said[0]),
            "errors": str(said[1]),
        }
        self._server.ask.write(json.dumps(request) + "\n")
        self._server.ask.flush()
        self.pid = int(self._server.answers.readline())

    def wait(self) -> int:
        """Return its exit status, negative for a signal."""
        return int(self._server.answers.readline())


class _Server:
    """The process that sessions are forked from, with a home of its own for what libraries read when imported."""

    def __init__(self) -> None:
        home = tempfile.TemporaryDirectory()
        self.variables = _read_at_import()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.warm_server"],
            cwd=ROOT,
            env={**os.environ, "HOME": home.name},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.ask, self.answers = self.process.stdin, self.process.stdout
        atexit.register(home.cleanup)
        atexit.register(self.process.communicate)


_server = cache(_Server)


def _read_at_import() -> dict[str, str]:
    return {name: os.environ[name] for name in os.environ if name.startswith(_READ_AT_IMPORT) and name != "HF_TOKEN"}


def is_warm(command: Sequence[str]) -> bool:
    """Tell whether a command is a session that may be forked: pytest, with what libraries have read from variables."""
    return tuple(command[:2]) == (sys.executable, "-mpytest") and _read_at_import() == _server().variables


def run_pytest(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -mpytest`` with options in a folder, and return what it said and its status."""
    command = [sys.executable, "-mpytest", *options]
    if not is_warm(command):
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    with tempfile.TemporaryDirectory() as place:
        said = Path(place, "output"), Path(place, "errors")
        for path in said:
            path.touch()
        status = WarmSession(command, folder, said).wait()
        return subprocess.CompletedProcess(command, status, *(path.read_text() for path in said))


def fork_sessions(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ``pytester.runpytest_subprocess`` run such sessions."""
    usual = pytester.popen

    def popen(command: Sequence[str], stdout: Any, stderr: Any, **more: Any) -> Any:
        if not is_warm(command):
            return usual(command, stdout=stdout, stderr=stderr, **more)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(Path.cwd()), prepend=os.pathsep)  # as pytester has it
            return WarmSession(command, Path.cwd(), (Path(stdout.name), Path(stderr.name)))

    monkeypatch.setattr(pytester, "popen", popen)
