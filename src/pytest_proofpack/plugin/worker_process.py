"""What makes a process a good worker: it leaves signals to the controller, dies with it, keeps its standard error."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import pytest

from pytest_proofpack.plan.pins import now
from pytest_proofpack.runs.paths import MARKER, errors_path
from pytest_proofpack.runs.run import Run

TERMINAL = pytest.StashKey[int]()
"""Of a worker's config: descriptor of the controller's standard error, which was the worker's own before."""
_PR_SET_PDEATHSIG = 1


def leave_signals_to_the_controller() -> None:
    """Ignore what a terminal sends every process of its group: the controller gets it too, and ends its workers."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def die_with(controller: int | None) -> None:
    """Have the kernel end this process when the one that started it ends, however that does; or now, if it has.

    Only Linux can. Elsewhere execnet ends it within 15 s once the connection is lost, unless what runs never lets go of
    the interpreter.

    Args:
        controller: the process that started this one; None if that is none of this host.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if controller not in {None, os.getppid()}:
        os._exit(1)


def is_worker() -> bool:
    """Tell, before pytest has told it, whether this process is one of xdist's workers and not started by one."""
    return "PYTEST_XDIST_WORKER" in os.environ and sys.argv[:1] == ["-c"]


def keep_errors(config: pytest.Config, run: Run, worker: str) -> Path | None:
    """Let standard error go into a file of the run directory, where the controller finds it if this process dies.

    pytest's capture of a worker is ``tee-sys``, so that what an item writes there goes to its report and, at once, to
    the file. With ``-s``, everything stays as it is.

    Returns:
        the file; None where there is none: with ``-s``, or on another host, which does not have the directory.
    """
    if config.option.capture == "no":
        return None
    here = (run.out / MARKER).is_file()
    try:
        stream = _opened(errors_path(run.out, worker)) if here else tempfile.TemporaryFile()  # noqa: SIM115 - kept
    except OSError:
        return None
    with stream:
        config.stash[TERMINAL] = os.dup(2)
        os.dup2(stream.fileno(), 2)
    os.write(2, f"--- {worker}, process {os.getpid()}, {now()}\n".encode())
    return errors_path(run.out, worker) if here else None


def _opened(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab", buffering=0)
