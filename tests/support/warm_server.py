"""A process that has imported what certifying takes from other packages, and forks sessions of pytest off itself.

    python -m tests.support.warm_server

It reads a request a line from standard input, as JSON: ``arguments`` of pytest, ``folder`` to run in, ``environment``,
files for ``output`` and ``errors``. It answers each with two lines: the session's process, and its exit status,
negative for a signal. See ``warm_sessions``, which asks it.

Nothing of this package, of pytest or of xdist is imported before the fork: that part of a start is each session's own.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import runpy
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

LIBRARIES = (
    "torch",
    "transformers",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.modeling_utils",
    "safetensors.torch",
    "huggingface_hub",
    "accelerate",
    "pyarrow.parquet",
    "scipy.stats",
    "execnet.gateway_io",
)
PLUGINS = ("anyio",)
"""Those of them that are plugins of pytest too, which wants to be the first that imports them."""
SPARE = 1
"""Processes that stand by for workers that are replaced."""


def main() -> None:
    """Import, then serve until nobody asks any more."""
    for name in LIBRARIES:
        importlib.import_module(name)
    for name in [name for name in sys.modules if name.partition(".")[0] in PLUGINS]:
        del sys.modules[name]
    gc.freeze()  # what is there stays shared with the processes that are forked
    library_path = [entry for entry in sys.path if entry not in _python_path(os.environ) and entry != str(Path.cwd())]
    answers = os.fdopen(os.dup(1), "w")
    while line := _line():
        request = json.loads(line)
        process = os.fork()
        if process == 0:
            answers.close()
            _become(request, library_path)
            _run(lambda: runpy.run_module("pytest", run_name="__main__", alter_sys=True))
        print(process, file=answers, flush=True)
        _, status = os.waitpid(process, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


def _line() -> bytes:
    """Read a line and not a byte more, so that no child inherits what is another's."""
    line = b""
    while (byte := os.read(0, 1)) not in {b"", b"\n"}:
        line += byte
    return line


def _python_path(environment: Any) -> list[str]:
    return [entry for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]


def _become(request: dict[str, Any], library_path: list[str]) -> None:
    """Make this process what ``python -m pytest`` would be, in another folder and environment."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["output"], os.O_WRONLY),
        (2, request["errors"], os.O_WRONLY),
    ):
        opened = os.open(path, flags)
        os.dup2(opened, descriptor)
        os.close(opened)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    os.environ["PACK_NO_FORK"] = "1"  # its workers stand by already
    sys.path[:] = [request["folder"], *_python_path(os.environ), *library_path]
    importlib.invalidate_caches()
    workers = _workers(request["arguments"])
    if workers:
        _stand_by(workers + SPARE)
    sys.argv[:] = ["pytest", *request["arguments"]]


def _workers(arguments: list[str]) -> int:
    """Return the number that ``-n`` asks for; 0 without it, or if it is no number."""
    for option, value in zip(arguments, [*arguments[1:], ""], strict=True):
        if option.startswith("-n"):
            number = option.removeprefix("-n") or value
            return int(number) if number.isdecimal() else 0
    return 0


class Worker(subprocess.Popen[bytes]):
    """A process that was forked off this one to be a worker: it waits for its environment, and then for execnet."""

    ends: tuple[int, int, int]

    def __init__(self, others: list[Worker]) -> None:
        theirs, self._order = os.pipe()
        their_input, our_output = os.pipe()
        our_input, their_output = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for descriptor in (self._order, our_output, our_input, *(end for other in others for end in other.ends)):
                os.close(descriptor)
            _work(theirs, their_input, their_output)
        for descriptor in (theirs, their_input, their_output):
            os.close(descriptor)
        self.ends = (self._order, our_output, our_input)
        self.args = ["python", "-c"]
        self.returncode = None
        self.stdin, self.stdout, self.stderr = os.fdopen(our_output, "wb", -1), os.fdopen(our_input, "rb", -1), None
        self._child_created = True
        self._waitpid_lock = threading.Lock()

    def begin(self) -> None:
        """Have it begin, with the environment of this process."""
        with os.fdopen(self._order, "w") as order:
            json.dump({"environment": dict(os.environ), "folder": str(Path.cwd())}, order)


def _work(order: int, own_input: int, own_output: int) -> NoReturn:
    """Be ``python -u -c BOOTSTRAP``, once told to."""
    with os.fdopen(order) as file:
        told = file.read()
    if not told:
        os._exit(0)  # the session has ended and did not need it
    facts = json.loads(told)
    os.chdir(facts["folder"])
    os.environ.clear()
    os.environ.update(facts["environment"])
    for inherited, descriptor in ((own_input, 0), (own_output, 1)):
        os.dup2(inherited, descriptor)
        os.close(inherited)
    sys.argv[:] = ["-c"]
    sys.path[0] = ""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - for as long as the process is there
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    bootstrap = eval(sys.stdin.readline())  # noqa: S307 - execnet's own words
    _run(lambda: exec(compile(bootstrap, "<execnet>", "exec"), {"__name__": "__main__"}))  # noqa: S102


def _run(program: Callable[[], object]) -> NoReturn:
    """Run a program to its end and leave without taking apart all that was imported, which would copy it first."""
    status: object = 0
    try:
        program()
    except SystemExit as end:
        status = end.code
    except BaseException:  # noqa: BLE001 - said and told as Python itself does
        traceback.print_exc()
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0) if isinstance(status, int | None) else 1)


def _stand_by(count: int) -> None:
    """Fork so many workers in advance, and give them to execnet instead of new processes as long as there are some."""
    import execnet.gateway_io
    from execnet.gateway_base import Popen2IO

    waiting: list[Worker] = []
    for _ in range(count):
        waiting.append(Worker(waiting))
    usual = execnet.gateway_io.Popen2IOMaster.__init__

    def begin(self: Any, args: list[str], execmodel: Any) -> None:
        if not waiting:
            usual(self, args, execmodel)
            return
        self.popen = waiting.pop(0)
        self.popen.begin()
        Popen2IO.__init__(self, self.popen.stdin, self.popen.stdout, execmodel=execmodel)

    setattr(execnet.gateway_io.Popen2IOMaster, "__init__", begin)  # noqa: B010 - typed


if __name__ == "__main__":
    main()
