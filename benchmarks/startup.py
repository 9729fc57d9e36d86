"""What the installed but inactive plugin adds to pytest's start.

    python benchmarks/startup.py

Runs ``pytest --collect-only`` in an empty directory, with the plugin and with ``-p no:proofpack``, in turn, and prints
the medians and the median of the paired differences, in milliseconds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time


def start(folder: str, *options: str) -> float:
    """Return the milliseconds of one start."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *options]
    before = time.perf_counter()
    subprocess.run(command, cwd=folder, check=False, capture_output=True)  # noqa: S603 - our own command
    return (time.perf_counter() - before) * 1000


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=30)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        start(folder), start(folder, "-p", "no:proofpack")
        timed = [(start(folder), start(folder, "-p", "no:proofpack")) for _ in range(pairs)]
    with_plugin, without = (statistics.median(column) for column in zip(*timed, strict=True))
    added = statistics.median(a - b for a, b in timed)
    print(f"with the plugin {with_plugin:.0f} ms, without {without:.0f} ms, added {added:.1f} ms")
    print(f"(medians of {pairs} pairs)")


if __name__ == "__main__":
    main()
