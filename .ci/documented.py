"""Runs the shell blocks of documentation pages as a reader would: those of a page in one shell and an empty folder.

    python .ci/documented.py PAGE... --bin=DIRECTORY

A block is fenced as ``sh``. A block that makes an environment or installs into it is passed over: here that is done
already, and ``--bin`` names its commands. The first command that fails ends its page. Pages run beside each other, and
what they print is shown page by page.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INSTALLS = re.compile(r"\bpip install\b|-m venv\b")


def blocks(page: str) -> list[str]:
    """Return the shell blocks of a page, without those that install."""
    return [block for block in _BLOCK.findall(page) if not _INSTALLS.search(block)]


def script(page: Path) -> str:
    """Return one script of all blocks of a page; every line is shown before it runs."""
    found = blocks(page.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{page}: no shell block")
    return "set -euvo pipefail\n" + "\n".join(found)


def run(page: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a page; what it prints to standard output and error is what its process has as output."""
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(  # noqa: S603 - our pages
            ["bash", "-c", script(page)],  # noqa: S607
            cwd=folder,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def main() -> int:
    """Run the blocks of all pages and return the status of the first one that failed, or 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--bin", type=Path, required=True, help="directory of the commands")
    given = parser.parse_args()
    environment = {**os.environ, "PATH": f"{given.bin.absolute()}{os.pathsep}{os.environ['PATH']}"}
    with ThreadPoolExecutor() as pool:
        for done in pool.map(lambda page: run(page, environment), given.pages):
            sys.stdout.write(done.stdout)
            sys.stdout.flush()
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
