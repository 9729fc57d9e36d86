"""What a stranger's files make a library do, tried in a process of its own: bounded in time and memory, free to die.

Python cannot interrupt a regular expression, and a library that was not written in Python may abort the process that it
runs in. What comes back is data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

MEMORY = 2 * 1024**3
"""Bytes of address space. A tokenizer of 150,000 tokens takes a sixth of that."""
_ONE_THREAD = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "RUST_BACKTRACE": "0"}
_LIMITED = """
import json, sys
given = json.load(sys.stdin)
try:
    import resource
    for kind, most in ((resource.RLIMIT_AS, given["memory"]), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (most if hard < 0 else min(most, hard),) * 2)
except (ImportError, OSError, ValueError):
    pass  # no such limits on this system; the one in time holds
given = given["given"]
"""


def bounded_answer(script: str, given: Mapping[str, Any], patience: float) -> Any:
    """Return what a script answers.

    Args:
        script: lines of Python that find what they were given as ``given``, know ``json`` and ``sys``, and write JSON
            to the standard output. No site packages are on their path.
        given: plain JSON.
        patience: seconds.

    Raises:
        subprocess.TimeoutExpired: it takes longer.
        subprocess.CalledProcessError: it ended by an error, or died, say of memory: it has :data:`MEMORY`.
    """
    command = [sys.executable, "-I", "-S", "-c", _LIMITED + script]
    done = subprocess.run(  # noqa: S603 - this Python, with the lines above
        command,
        input=json.dumps({"memory": MEMORY, "given": given}),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=patience,
        check=True,
        env={**os.environ, **_ONE_THREAD},
    )
    return json.loads(done.stdout)
