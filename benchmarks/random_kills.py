"""Sessions that are killed at random moments: what is finished stays, nothing half written is left, and a resumed run
ends with the pack of one that nobody disturbed.

    python -m benchmarks.random_kills --count 200              # --jobs 16: so many rounds side by side
    python -m benchmarks.random_kills --count 20 --canned

Every round begins a session of the embedded suite, without workers or with two, and kills at a random moment the
controller, a worker, or all of them; or whoever writes the pack; or the session that resumes a killed one; or one that
makes a shard. Where it is the controller, it may be SIGTERM or SIGINT instead of SIGKILL. Then nobody may be left over,
no finished certificate may be gone or another one, and no file half written. The run is resumed, unless it has gone on
by itself, and compared with an undisturbed one; shards are assembled first.

With ``--canned`` items hand out the undisturbed run's certificates instead of making them, so no model is loaded, and
what was killed is resumed without workers; whatever deals with certificates that are made is the real thing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pytest_proofpack import verify
from pytest_proofpack.certificate.formats import certificate_digest
from pytest_proofpack.common.files import sha256_file

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("controller", "worker", "group", "pack", "resume", "shard")
SHARDS = 2
OPTIONS = ("--proofpack-sign=off", "--proofpack-no-html")
EMBEDDED = ("--proofpack-suite=tiny", "--proofpack-runs=calibration:1,clean:1,stress:1,error:0")
CANNED = "PROOFPACK_CANNED"
"""Variable that names the directory of the undisturbed run, where certificates are not to be made."""
_CERTIFICATE = "evaluation.cert.json"
_FORKED_OF = 4
"""Of so many rounds with canned certificates one forks its workers: it waits for torch, which nobody uses there."""
_PATIENCE = 120.0
_STARTING = re.compile(
    r'Traceback \(most recent call last\):\n(  File "<string>", line \d+, in <module>\n)+BrokenPipeError: .*\n'
)
"""What Python says of a worker whose controller is killed before execnet has begun in it, and so before any of ours."""
_SHARE = {"resume": 0.5}
"""Share of an undisturbed run's time in which it is struck; what is resumed has less to do."""
_ORPHANS = 10.0
"""Seconds that workers have to be gone after their controller: one that is only starting looks when it has started."""


class Round(NamedTuple):
    """How one round went: what was killed, where, how, after how many seconds, with which findings."""

    target: str
    workers: int
    signal: str
    after: float
    finished: int
    findings: list[str]


@dataclass
class Suite:
    """What every session runs.

    Attributes:
        folder: where the runs go.
        canned: whether certificates are handed out once there is an undisturbed run, instead of being made.
        suite: the options that say what is certified.
    """

    folder: Path
    canned: bool
    suite: tuple[str, ...] = EMBEDDED

    def begin(self, name: str, workers: int, *more: str) -> subprocess.Popen[bytes]:
        """Begin a session in a process group of its own."""
        options = ("-p", "benchmarks.random_kills", "-p", "no:cacheprovider", "-q", f"-n{workers}", *OPTIONS, *more)
        return self._start(name, "pytest", *self.suite, f"--proofpack-out={name}", *options)

    def assemble(self, name: str, shards: Sequence[str]) -> subprocess.Popen[bytes]:
        """Begin to assemble shards to a run."""
        return self._start(name, "pytest_proofpack", "assemble", *shards, f"--out={name}", "--sign=off", "--no-html")

    def _start(self, name: str, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
        if self.canned:
            environment[CANNED] = str(self.folder / "undisturbed")
            if zlib.crc32(name.encode()) % _FORKED_OF:
                environment["PACK_NO_FORK"] = "1"
        command = [sys.executable, "-m", module, *arguments]
        with (self.folder / f"{name}.txt").open("ab") as output:
            return subprocess.Popen(  # noqa: S603 - our own command
                command, cwd=self.folder, env=environment, stdout=output, stderr=output, start_new_session=True
            )

    def said(self, name: str) -> str:
        """Return the end of what a run's sessions printed."""
        return (self.folder / f"{name}.txt").read_text(errors="replace")[-3000:]


def certificates(run: Path) -> dict[str, str]:
    """Return the digest of every certificate file of a run directory."""
    return {str(path.relative_to(run)): sha256_file(path) for path in run.glob(f"*/certificates/**/{_CERTIFICATE}")}


def contents(run: Path) -> dict[str, str]:
    """Return what two runs that went alike have in common: every certificate's digest, computed anew, and verdicts."""
    found = {}
    for name in [*certificates(run), *certificates_of_pack(run / "proof_pack")]:
        document = json.loads((run / name).read_text())
        found[name] = certificate_digest(document)
    found["verdict"] = json.loads((run / "reports/final_verdict.json").read_text())["verdict"]
    return found


def certificates_of_pack(pack: Path) -> list[str]:
    """Return the certificates of a pack, as paths from its run directory."""
    return [str(path.relative_to(pack.parent)) for path in pack.glob(f"certs/**/{_CERTIFICATE}")]


def damage(run: Path) -> list[str]:
    """Return what is half written in a run directory: leftovers under temporary names are not."""
    findings = []
    for path in run.rglob("*.json"):
        if ".tmp" not in str(path.relative_to(run)):
            try:
                json.loads(path.read_bytes())
            except ValueError:
                findings.append(f"{path.relative_to(run)} is half written")
    if (run / "proof_pack").is_dir() and not verify(run / "proof_pack").ok:
        findings.append("there is half a pack")
    return findings


def members(group: int) -> list[int]:
    """Return the processes of a group that run."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, IndexError):
                state, _, pgrp = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if int(pgrp) == group and state != "Z":
                    found.append(int(entry.name))
    return found


def strike(session: subprocess.Popen[bytes], target: str, number: signal.Signals, chance: random.Random) -> bool:
    """Kill what is to be killed; tell whether it was there."""
    with contextlib.suppress(ProcessLookupError):
        if target == "group":
            os.killpg(session.pid, number)
            return True
        others = [process for process in members(session.pid) if process != session.pid]
        if target == "worker" and others:
            os.kill(chance.choice(others), number)
            return True
        if target != "worker" and session.poll() is None:
            os.kill(session.pid, number)
            return True
    return False


def wait_for_pack(session: subprocess.Popen[bytes], run: Path) -> None:
    """Wait until a pack is being written."""
    while session.poll() is None and not list(run.glob(".proof_pack.*.tmp")):
        time.sleep(0.002)


def disturb(suite: Suite, name: str, case: tuple[str, int], seconds: float, chance: random.Random) -> Round:
    """Run, kill, look, resume, compare."""
    target, workers = case
    if target == "shard":
        return disturb_shard(suite, name, workers, seconds, chance)
    run = suite.folder / name
    number = signal.SIGKILL
    if target in {"controller", "pack", "resume"} and chance.random() < 0.25:
        number = chance.choice([signal.SIGTERM, signal.SIGINT])
    if target == "resume":
        first = suite.begin(name, workers)
        time.sleep(chance.uniform(0, seconds))
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    session = suite.begin(name, workers, *(["--proofpack-resume"] if target == "resume" else []))
    begin = time.monotonic()
    if target == "pack":
        wait_for_pack(session, run)
        time.sleep(chance.uniform(0, 0.1))
    else:
        time.sleep(chance.uniform(0, seconds * _SHARE.get(target, 0.8)))
    before, after = certificates(run), time.monotonic() - begin
    there = strike(session, target, number, chance)
    findings = look(suite, name, session, before, goes_on=target == "worker" or not there)
    finished = len(before)
    findings += finish(suite, name, workers if not suite.canned else 0, certificates(run))
    return Round(target, workers, number.name if there else "too late", after, finished, findings)


def disturb_shard(suite: Suite, name: str, workers: int, seconds: float, chance: random.Random) -> Round:
    """Kill a session that makes a shard, look, resume it, make the others, assemble, compare."""
    names = [f"{name}-{number}" for number in range(1, SHARDS + 1)]
    shards = [f"--proofpack-shard={number}/{SHARDS}" for number in range(1, SHARDS + 1)]
    session, begin = suite.begin(names[0], workers, shards[0]), time.monotonic()
    time.sleep(chance.uniform(0, seconds * 0.8))
    before, after = certificates(suite.folder / names[0]), time.monotonic() - begin
    there = strike(session, "group", signal.SIGKILL, chance) if session.poll() is None else False
    findings = look(suite, names[0], session, before, goes_on=not there)
    now = certificates(suite.folder / names[0])
    for own, shard in zip(names, shards, strict=True):
        status = suite.begin(own, 0 if suite.canned else workers, shard, "--proofpack-resume").wait(_PATIENCE)
        if status != 0:
            findings.append(f"{own} could not be made, exit status {status}: {suite.said(own)}")
    later = certificates(suite.folder / names[0])
    findings += [f"{path} was made again" for path, digest in now.items() if later.get(path) != digest]
    if (status := suite.assemble(name, names).wait(_PATIENCE)) != 0:
        findings.append(f"it could not be assembled, exit status {status}: {suite.said(name)}")
    elif contents(suite.folder / name) != contents(suite.folder / "undisturbed"):
        findings.append("the pack is another one")
    killed = signal.SIGKILL.name if there else "too late"
    return Round("shard", workers, killed, after, len(before), findings)


def look(
    suite: Suite, name: str, session: subprocess.Popen[bytes], before: dict[str, str], *, goes_on: bool
) -> list[str]:
    """Wait for the end of a session, and return what is not as it should be then."""
    run, findings = suite.folder / name, []
    try:
        status = session.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        os.killpg(session.pid, signal.SIGKILL)
        session.wait()
        return [f"it hung: {suite.said(name)}"]
    deadline = time.monotonic() + _ORPHANS
    while members(session.pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    if members(session.pid):
        findings.append(f"{len(members(session.pid))} processes are left over")
        os.killpg(session.pid, signal.SIGKILL)
    if goes_on and status != 0:
        findings.append(f"it did not go on, exit status {status}: {suite.said(name)}")
    now = certificates(run)
    findings += [f"{path} is gone or another one" for path, digest in before.items() if now.get(path) != digest]
    return findings + damage(run)


def finish(suite: Suite, name: str, workers: int, before: dict[str, str]) -> list[str]:
    """Resume a run, unless it is complete, and return where it differs from the undisturbed one."""
    run = suite.folder / name
    if not (run / "proof_pack").is_dir():
        status = suite.begin(name, workers, "--proofpack-resume").wait(_PATIENCE)
        if status != 0:
            return [f"it could not be resumed, exit status {status}: {suite.said(name)}"]
    now, findings = certificates(run), damage(run)
    findings += [f"{path} was made again" for path, digest in before.items() if now.get(path) != digest]
    if contents(run) != contents(suite.folder / "undisturbed"):
        findings.append("the pack is another one")
    if "Traceback" in _STARTING.sub("", suite.said(name)):
        findings.append(f"a traceback: {suite.said(name)}")
    return findings


def rounds(suite: Suite, count: int, seed: int, jobs: int = 1, seconds: float = math.inf) -> Iterator[Round]:
    """Yield rounds as they end; kinds and numbers of workers take turns, and every round has moments of its own.

    After so many seconds none begins any more.
    """
    deadline = time.monotonic() + seconds
    if suite.begin("undisturbed", 0).wait(600) != 0:
        raise SystemExit(suite.said("undisturbed"))

    def undisturbed(workers: int) -> float:
        begin = time.monotonic()
        if suite.begin(f"timed-{workers}", workers).wait(600) != 0:
            raise SystemExit(suite.said(f"timed-{workers}"))
        return time.monotonic() - begin

    def play(number: int) -> Round | None:
        target, workers = cases[number % len(cases)]
        if time.monotonic() > deadline:
            return None
        return disturb(suite, f"run-{number}", (target, workers), took[workers], random.Random(f"{seed} {number}"))

    cases = [(target, workers) for target in TARGETS for workers in (0, 2) if (target, workers) != ("worker", 0)]
    with ThreadPoolExecutor(jobs) as pool:
        took = dict(zip((0, 2), pool.map(undisturbed, (0, 2)), strict=True))
        for ended in as_completed([pool.submit(play, number) for number in range(count)]):
            if (one := ended.result()) is not None:
                yield one


def main() -> int:
    """Run the rounds and print a table; the exit status is 1 if anything was not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="rounds")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at a time")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no round after so many")
    parser.add_argument("--canned", action="store_true", help="hand certificates out instead of making them")
    asked = parser.parse_args()
    done: list[Round] = []
    with tempfile.TemporaryDirectory() as folder:
        suite = Suite(Path(folder), canned=asked.canned)
        for one in rounds(suite, asked.count, asked.seed, asked.jobs, asked.seconds):
            done.append(one)
            print(f"{len(done)}: {one.target} -n{one.workers} {one.signal} at {one.after:.1f} s", file=sys.stderr)
            for finding in one.findings:
                print(f"{one}: {finding}", flush=True)
    print_table(done)
    return 1 if any(one.findings for one in done) else 0


def print_table(done: list[Round]) -> None:
    """Print the rounds, one row a kind."""
    groups: defaultdict[tuple[str, int], list[Round]] = defaultdict(list)
    for one in done:
        groups[one.target, one.workers].append(one)
    print("killed      workers  rounds  too late  certificates there (median, most)  findings")
    for (target, workers), some in sorted(groups.items()):
        there = [one.finished for one in some]
        late, findings = sum(one.signal == "too late" for one in some), sum(len(one.findings) for one in some)
        middle = f"{statistics.median(there):g}, {max(there)}"
        print(f"{target:<10}  {workers:>7}  {len(some):>6}  {late:>8}  {middle:>33}  {findings:>8}")
    print(f"{len(done)} rounds, {sum(bool(one.findings) for one in done)} with findings")


# ------------------------------------------------------------------- as a plugin of the sessions: canned certificates


class Canned:
    """The way to a certificate that another run has made."""

    def __init__(self, file: Path) -> None:
        self._text = file.read_text()

    def baseline(self) -> None:
        """Return nothing."""

    def edited(self, _baseline: None) -> contextlib.AbstractContextManager[None]:
        """Return a context with nothing."""
        return contextlib.nullcontext()

    def certificate(self, _subject: None, item: pytest.Item) -> dict[str, Any]:
        """Leave the certificate for the item's report, after a moment."""
        from pytest_proofpack.plugin.making import MADE, REPEAT_ATTRIBUTE, REPORT_ATTRIBUTE

        time.sleep(0.1)
        item.stash[MADE] = {REPORT_ATTRIBUTE: self._text, REPEAT_ATTRIBUTE: 0}
        document: dict[str, Any] = json.loads(self._text)
        return document


def pytest_configure() -> None:
    """Have certificates handed out, where a directory of them is named."""
    folder = os.environ.get(CANNED)
    if folder is None or not Path(folder, "proof_pack").is_dir():
        return
    from pytest_proofpack.plugin import making
    from pytest_proofpack.runs.paths import certificate_path

    usual = making.certificate_source

    def source(config: pytest.Config, request: Any) -> Any:
        if request.id in config.stash[making.WORKBENCH].run.reused:
            return usual(config, request)
        return Canned(certificate_path(Path(folder), request))

    making.certificate_source = source


if __name__ == "__main__":
    raise SystemExit(main())
