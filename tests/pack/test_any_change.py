"""Whatever one value of a pack is changed to, verification ends with an answer, and the answer is no."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.pack.verify import verify_pack
from tests.support.certificates import make_run_directory
from tests.support.forgery import load, reseal
from tests.support.packs import copy_of, pack_of

Place = tuple[str | int, ...]
VALUES: tuple[object, ...] = (
    None, True, False, 0, -1, 2**70, 1e308, 5e-324, "", "\ud800", "\x1b[2J", "../x", "a" * 500, "0" * 64,
    [], [[]], {}, {"a": 1},
)  # fmt: skip
CERTIFICATE = "certs/acme__tiny-1m/calibration/run_1/evaluation.cert.json"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_directory(
        tmp_path_factory.mktemp("run"), runs={"calibration": 2, "clean": 0, "stress": 0, "error": 0}
    )
    return pack_of(run.directory, tmp_path_factory.mktemp("packs") / "pack")


def places(value: object, above: Place = ()) -> Iterator[Place]:
    """Yield the place of every value below a document's top."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*above, key)
        yield from places(child, (*above, key))


def change_one_value(document: JsonObject, rng: random.Random) -> None:
    """Delete or replace one value, anywhere but in the block that no digest covers."""
    *above, last = rng.choice([place for place in places(document) if place[0] != "volatile"])
    target: Any = document
    for key in above:
        target = target[key]
    if rng.random() < 0.2:
        del target[last]
    else:
        target[last] = rng.choice(VALUES)


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize("name", [CERTIFICATE, "results/final_verdict.json", "state/scenarios.json"])
def test_any_one_change_is_found(original: Path, tmp_path: Path, name: str, seed: int) -> None:
    """Digests, manifest and checksums are made to agree; only the change itself is left to be found."""
    pack = copy_of(original, tmp_path / "pack")
    rng = random.Random(seed)
    document = load(pack / name)
    before = compact_json(document)
    while compact_json(document) == before:
        change_one_value(document, rng)
    (pack / name).write_text(json.dumps(document), encoding="utf-8")
    reseal(pack)
    report = verify_pack(pack)
    assert not report.ok
    assert json.dumps(report.to_json()).isascii()
