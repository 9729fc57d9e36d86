"""Runs the shell blocks of documentation pages as a reader would: those of a page in one shell and an empty folder.

    python .ci/documented.py PAGE... --bin=DIRECTORY

A block is fenced as ``sh``. A block that makes an environment or installs into it is passed over: here that is done
already, and ``--bin`` names its commands. The first command that fails ends the run.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
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


def main() -> int:
    """Run the blocks of all pages and return the status of the last command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--bin", type=Path, required=True, help="directory of the commands")
    given = parser.parse_args()
    environment = {**os.environ, "PATH": f"{given.bin.absolute()}{os.pathsep}{os.environ['PATH']}"}
    for page in given.pages:
        command = ["bash", "-c", script(page)]
        with tempfile.TemporaryDirectory() as folder:
            status = subprocess.run(command, cwd=folder, env=environment, check=False).returncode  # noqa: S603 - our pages
        if status:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
