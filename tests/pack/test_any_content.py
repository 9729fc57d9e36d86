"""Whatever manifest, certificates and checksums hold, verification ends with an answer, and the answer is no."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import Status, VerificationReport, verify_pack
from tests.support.certificates import make_run_directory
from tests.support.forgery import load, reseal
from tests.support.mutations import at, leaves
from tests.support.packs import copy_of, pack_of

CERTIFICATE = "certs/acme__tiny-1m/calibration/run_1/evaluation.cert.json"
FEW = settings(
    max_examples=40, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_directory(
        tmp_path_factory.mktemp("run"), runs={"calibration": 2, "clean": 0, "stress": 0, "error": 0}
    )
    return pack_of(run.directory, tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture
def fresh(original: Path) -> Iterator[Callable[[], Path]]:
    """Return what gives a new copy of the pack: a test is run many times."""
    with tempfile.TemporaryDirectory() as folder:
        copies = iter(range(10**6))
        yield lambda: copy_of(original, Path(folder) / str(next(copies)))


def answered(pack: Path, demands: Demands | None = None) -> VerificationReport:
    """Verify; every text of the report can be shown, and a step behind one that failed was not reached."""
    report = verify_pack(pack, demands)
    json.dumps(report.to_json())
    lines = (line for step in report.steps for line in (*step.findings, *step.warnings, step.note))
    assert all(line.isprintable() for line in lines)
    return report


@FEW
@given(data=st.binary(max_size=300))
@pytest.mark.parametrize("name", ["manifest.json", CERTIFICATE, "checksums.sha256", "state/scenarios.json"])
def test_any_bytes(fresh: Callable[[], Path], name: str, data: bytes) -> None:
    pack = fresh()
    (pack / name).write_bytes(data)
    report = answered(pack)
    assert not report.ok
    assert report.steps[-1].status is Status.NOT_REACHED


@FEW
@given(value=st.dictionaries(st.text(max_size=8), JSON, max_size=6))
@pytest.mark.parametrize("name", [CERTIFICATE, "state/scenarios.json", "state/tuned_edit_params.json"])
def test_any_json_that_the_manifest_lists(fresh: Callable[[], Path], name: str, value: JsonObject) -> None:
    pack = fresh()
    (pack / name).write_text(json.dumps(value), encoding="utf-8")  # NaN and infinities too
    reseal(pack)
    assert not answered(pack).ok


@FEW
@given(data=st.data())
def test_any_value_at_any_place_of_a_certificate(fresh: Callable[[], Path], data: st.DataObject) -> None:
    pack = fresh()
    document = load(pack / CERTIFICATE)
    changed = replaced_somewhere(document, data)
    (pack / CERTIFICATE).write_text(json.dumps(changed), encoding="utf-8")
    reseal(pack)
    same = json.dumps(changed, sort_keys=True) == json.dumps(document, sort_keys=True)
    assert answered(pack).ok == same


@FEW
@given(data=st.data())
@pytest.mark.parametrize("demands", [Demands(), Demands(accept_unbound=True)])
def test_any_value_at_any_place_of_a_manifest(fresh: Callable[[], Path], demands: Demands, data: st.DataObject) -> None:
    pack = fresh()
    document = load(pack / "manifest.json")
    changed = replaced_somewhere(document, data)
    (pack / "manifest.json").write_text(json.dumps(changed), encoding="utf-8")
    assert not answered(pack, demands).ok  # at the least, the checksums have another digest


@FEW
@given(lines=st.lists(st.text(max_size=90), max_size=5), number=st.integers(0, 10))
def test_any_lines_among_the_checksums(fresh: Callable[[], Path], lines: list[str], number: int) -> None:
    pack = fresh()
    before = (pack / "checksums.sha256").read_text(encoding="utf-8").split("\n")
    text = "\n".join([*before[:number], *lines, *before[number:]])
    (pack / "checksums.sha256").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert answered(pack).ok == (not any(lines))


def replaced_somewhere(document: JsonObject, data: st.DataObject) -> JsonObject:
    """Return a copy with any value at any place but the block that no digest covers."""
    places = [place for place in leaves(document) if place[0] != "volatile"]
    place = data.draw(st.sampled_from(places))
    changed = copy.deepcopy(document)
    length = data.draw(st.integers(1, len(place)))
    target: Any = at(changed, place[: length - 1])
    target[place[length - 1]] = data.draw(JSON)
    return changed


def test_the_pack_itself_holds(original: Path) -> None:
    assert answered(original).ok
