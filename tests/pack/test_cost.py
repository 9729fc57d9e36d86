"""What a hostile pack costs, in processor time and memory, beside an honest one: each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject
from tests.support.certificates import make_run_directory
from tests.support.forgery import change_document, files_of, forge_certificate, reseal
from tests.support.packs import copy_of, pack_of
from tests.support.tampering import REVISIONS, SCENARIOS, TUNED, VERDICT, checksum_line, written

CERTIFICATE = "certs/acme__tiny-1m/calibration/run_1/evaluation.cert.json"
MEASURE = """
import resource, sys
from pytest_proofpack.commands.verify import main
status = main(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_SELF)
highest = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print("COST", status, used.ru_utime + used.ru_stime, highest)
"""
MOST_TIME, MOST_MEMORY = 20.0, 500.0
"""Times the processor time of the honest pack, which is half a second; MB beyond its memory."""

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")


class Cost(NamedTuple):
    """Processor seconds, megabytes at the peak, exit status and output of one verification."""

    seconds: float
    megabytes: float
    status: int
    output: str


def cost_of(pack: Path, *options: str) -> Cost:
    """Verify in a process of its own."""
    command = [sys.executable, "-P", "-c", MEASURE, str(pack), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    output, _, figures = done.stdout.rpartition("COST")
    status, seconds, kilobytes = figures.split()
    return Cost(float(seconds), int(kilobytes) / 1024, int(status), output)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = {"calibration": 6, "clean": 0, "stress": 0, "error": 0}
    run = make_run_directory(tmp_path_factory.mktemp("run"), runs=runs)
    return pack_of(run.directory, tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(scope="module")
def honest(original: Path) -> Cost:
    cost = cost_of(original)
    assert cost.status == 0
    return cost


def in_every_certificate(change: Callable[[JsonObject], object], pack: Path) -> None:
    for name in files_of(pack):
        if name.endswith(".cert.json"):
            forge_certificate(pack, name, change)


def many_windows(windows: int, certificate: JsonObject) -> None:
    """Ask for the costliest bootstrap that one certificate may."""
    final = certificate["evaluation_windows"]["final"]
    for key, values in final.items():
        final[key] = values * (windows // len(values))
    final["window_ids"] = [f"{number:064d}" for number in range(len(final["window_ids"]))]
    certificate["dataset"]["windows"]["available"] = 10**6
    replicates = BUDGETS.resamples // windows - windows
    certificate["dataset"]["windows"]["stats"]["bootstrap"]["replicates"] = min(100_000, replicates)


def numbered(count: int) -> JsonObject:
    return {f"k{number}": number for number in range(count)}


def of_many(count: int) -> JsonObject:
    return {f"k{number}": {} for number in range(count)}


def update(key: str, value: object, document: JsonObject) -> None:
    document[key] = value


def plan_of(models: int, document: JsonObject) -> None:
    document["plan"]["models"] = [f"{number:0400d}" for number in range(models)]


def many_files(pack: Path) -> None:
    for number in range(BUDGETS.files - len(files_of(pack)) - 50):
        (pack / f"x{number}").touch()


def checksums(text: str, pack: Path) -> None:
    reseal(pack)
    (pack / "checksums.sha256").write_text(text, encoding="utf-8")


def manifest_of_names(pack: Path) -> None:
    entry = {"sha256": "0" * 64, "size": 1}
    names = {f"certs/{'é' * 200}/{number}/x/x/x": entry for number in range(14_000)}
    reseal(pack, lambda manifest: manifest["artifact_digests"].update(names))


BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "60 MB of brackets": (written(CERTIFICATE, "[" * 60_000_000), "bytes, more than"),
    "4 MB of brackets": (written(VERDICT, "[" * 4_000_000), "values, more than"),
    "as many lists as may be": (written(VERDICT, f'{{"x": [{"[]," * 120_000}0]}}'), "final_verdict.json: "),
    "deep and wide": (written(VERDICT, f'{{"x": [{("[" * 30 + "]" * 30 + ",") * 8000}0]}}'), "final_verdict.json: "),
    "a long number": (written(VERDICT, f'{{"x": 1.{"1" * 4_000_000}}}'), "final_verdict.json: "),
    "a long string": (written(VERDICT, '{"x": "' + "\\u0001" * 690_000 + '"}'), "final_verdict.json: "),
    "lists that nothing looks at": (
        partial(in_every_certificate, partial(update, "volatile", {"x": [[]] * 100_000})), "\nVERIFIED: "),
    "keys that nothing looks at": (
        partial(in_every_certificate, partial(update, "plugins", numbered(100_000))), "\nVERIFIED: "),
    "100,000 schema errors": (
        partial(forge_certificate, path=CERTIFICATE, change=partial(update, "validation", numbered(100_000))),
        "validation"),
    "100,000 numbers for a map of few": (
        partial(in_every_certificate, lambda c: c["meta"]["seeds"].update(numbered(100_000))), "too many properties"),
    "a model list of two kinds": (
        partial(reseal, change=partial(update, "model_list", ["x" if n % 2 else n for n in range(6000)])),
        "model_list"),
    "a bootstrap of 100 million": (
        partial(in_every_certificate, partial(many_windows, 2000)), "certificates  failed"),
    "a bootstrap of many windows": (
        partial(in_every_certificate, partial(many_windows, 7000)), "certificates  failed"),
    "700,000 checksums": (partial(checksums, checksum_line("x") * 700_000), "checksums.sha256"),
    "as many checksums as may be": (
        partial(checksums, "".join(f"{n:064x}  {'é' * 50}{n}\n" for n in range(BUDGETS.files - 9))),
        "checksums.sha256"),
    "14,000 long names": (manifest_of_names, "too long or too deep"),
    "as many files as may be": (many_files, "no file of a pack has this name"),
    "a thousand models": (
        lambda pack: change_document(pack / SCENARIOS, partial(plan_of, 1000)), "plans more than 20000 certificates"),
    "notes in the scenarios": (
        lambda pack: change_document(pack / SCENARIOS, partial(update, "_meta", numbered(100_000))), "final_verdict"),
    "a scenario of 100,000 keys": (
        lambda pack: change_document(pack / SCENARIOS, lambda s: s["scenarios"][0].update(
            generation=numbered(100_000))), "is not valid under any"),
    "tuned parameters of 60,000 models": (
        lambda pack: change_document(pack / TUNED, partial(update, "models", of_many(60_000))),
        "too many properties"),
    "revisions of 60,000 models": (
        lambda pack: change_document(pack / REVISIONS, partial(update, "models", of_many(60_000))),
        "the pack gives {'acme/Tiny-1M': None}"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_costs_little_more_than_an_honest_pack(original: Path, honest: Cost, tmp_path: Path, name: str) -> None:
    bomb, expected = BOMBS[name]
    pack = copy_of(original, tmp_path / "pack")
    bomb(pack)
    if "checksums" not in name and "model list" not in name and "names" not in name:
        reseal(pack)
    cost = cost_of(pack)
    assert expected in cost.output
    assert cost.seconds <= MOST_TIME * honest.seconds, cost
    assert cost.megabytes <= honest.megabytes + MOST_MEMORY, cost


@pytest.mark.parametrize("name", ["60 MB of brackets", "as many lists as may be"])
def test_where_a_signature_is_demanded_nothing_is_parsed(
    original: Path, honest: Cost, tmp_path: Path, name: str
) -> None:
    """The unsigned bomb is turned away for less than an honest pack costs, whatever it holds."""
    pack = copy_of(original, tmp_path / "pack")
    BOMBS[name][0](pack)
    reseal(pack)
    cost = cost_of(pack, "--require-signature")
    assert "the pack is unsigned, and a signature is required" in cost.output
    assert " passed " not in cost.output
    assert cost.seconds < honest.seconds
    assert cost.megabytes <= honest.megabytes


def test_a_file_that_the_manifest_does_not_list_is_never_parsed(original: Path, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    (pack / "state/other.json").write_text("no JSON", encoding="utf-8")
    cost = cost_of(pack)
    assert "'state/other.json': an extra file that manifest.json does not name" in cost.output
    assert "not JSON" not in cost.output
    assert "not valid" not in cost.output


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a file of 1 TB that takes no room, made where only root may")
def test_a_file_of_a_terabyte_is_not_read(original: Path, honest: Cost, tmp_path: Path) -> None:
    pack = copy_of(original, tmp_path / "pack")
    os.truncate(pack / "README.md", 1 << 40)
    cost = cost_of(pack)
    assert "'README.md': 1099511627776 bytes, more than" in cost.output
    assert cost.seconds < honest.seconds
