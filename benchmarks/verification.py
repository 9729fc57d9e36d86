"""What verification takes: a pack of a hundred certificates, and ten thousand files beside ``sha256sum``.

    python -m benchmarks.verification                    # a made-up pack: certificates of 200 + 200 windows
    python -m benchmarks.verification --pack DIR         # one of your own, such as a run of the embedded suite makes

Processor seconds of ``proofpack verify`` in a process of its own, its start included, least of several; peak of memory;
the modules whose import takes longest. Files: how fast they are read and hashed, against ``sha256sum -c``.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pytest_proofpack.pack.check_files import check_files
from pytest_proofpack.pack.check_manifest import check_manifest
from pytest_proofpack.pack.snapshot import take_snapshot
from tests.support.certificates import make_run_directory
from tests.support.forgery import reseal
from tests.support.packs import pack_of

_MEASURE = """
import resource, sys
from pytest_proofpack.commands.verify import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
highest = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("COST", status, used.ru_utime + used.ru_stime, highest)
"""
_SIZES = {"evaluation.cert.json": 100_000, "evaluation.html": 33_000, "verify.json": 400}
"""Bytes of a certificate's three files, as the embedded suite writes them."""


def measure_verification(pack: Path, repetitions: int) -> None:
    """Print processor time and memory of verifying a pack, and what of its start is importing."""
    command = [sys.executable, "-P", "-c", _MEASURE, str(pack)]
    best, peak = float("inf"), 0
    for _ in range(repetitions):
        line = subprocess.run(command, capture_output=True, text=True, check=True).stdout.rpartition("COST")[2]  # noqa: S603
        status, seconds, kilobytes = line.split()
        if status != "0":
            raise SystemExit(f"{pack} does not verify")
        best, peak = min(best, float(seconds)), max(peak, int(kilobytes))
    count = len(list(pack.rglob("*.cert.json")))
    print(f"{count} certificates: {best:.2f} s of processor time, start included; peak of memory {peak / 1024:.0f} MB")
    print("slowest imports, with what they import:")
    for microseconds, name in _imports(pack)[:6]:
        print(f"    {microseconds / 1e6:.3f} s  {name}")


def _imports(pack: Path) -> list[tuple[int, str]]:
    command = [sys.executable, "-P", "-X", "importtime", "-c", _MEASURE, str(pack)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stderr.split("\n")  # noqa: S603
    rows = [line.removeprefix("import time:").split("|") for line in lines if line.startswith("import time:")]
    return sorted(((int(row[1]), row[2].strip()) for row in rows if row[1].strip().isdecimal()), reverse=True)


def measure_files(pack: Path, repetitions: int) -> None:
    """Print how fast a pack's files are read and compared, and how fast ``sha256sum`` is."""

    def ours() -> None:
        _, opened = check_manifest(take_snapshot(pack))
        assert opened is not None
        check_files(opened)

    def theirs() -> None:
        subprocess.run(["sha256sum", "-c", "--quiet", "checksums.sha256"], cwd=pack, check=True)  # noqa: S607

    sizes = [path.stat().st_size for path in pack.rglob("*") if path.is_file()]
    mine, other = _least(ours, repetitions), _least(theirs, repetitions)
    print(f"{len(sizes)} files, {sum(sizes) / 1e6:.0f} MB: {mine:.2f} s, sha256sum -c {other:.2f} s;")
    print(f"    {other / mine:.0%} of its rate, {sum(sizes) / mine / 1e6:.0f} MB/s")


def _least(work: Callable[[], object], repetitions: int) -> float:
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def many_files(original: Path, target: Path, count: int) -> Path:
    """Return a pack whose files are those of ``original`` and made-up ones, ``count`` in all."""
    shutil.copytree(original, target)
    rng = random.Random(0)
    present = sum(path.is_file() for path in target.rglob("*"))
    for number in range(-(-(count - present) // len(_SIZES))):
        folder = target / f"certs/made_up/edit_{number % 40}/run_{number}"
        folder.mkdir(parents=True)
        for name, size in _SIZES.items():
            (folder / name).write_bytes(rng.randbytes(size))
    reseal(target)
    return target


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pack", type=Path, help="a pack to verify; default: a made-up one of a hundred certificates")
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repetitions", type=int, default=5)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, {hashlib.new('sha256').name} by {_hash_library()}")
    with tempfile.TemporaryDirectory() as folder:
        runs = {"calibration": 3, "clean": 20, "stress": 2, "error": 1}
        run = make_run_directory(Path(folder) / "run", runs=runs, windows=200)
        made_up = pack_of(run.directory, Path(folder) / "pack")
        measure_verification(options.pack or made_up, options.repetitions)
        measure_files(many_files(made_up, Path(folder) / "many", options.files), options.repetitions)


def _hash_library() -> str:
    import ssl

    return ssl.OPENSSL_VERSION


if __name__ == "__main__":
    main()
