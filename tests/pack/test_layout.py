from __future__ import annotations

import pytest

from pytest_proofpack.pack.layout import LAYOUTS, V1, V2, expected_path, is_certificate, layout_of
from tests.support.certificates import make_plan

RUN_FILES = [
    "reports/final_verdict.txt",
    "reports/final_verdict.json",
    "analysis/determinism_repeats.json",
    "state/scenarios.json",
    "state/tuned_edit_params.json",
    "state/model_revisions.json",
    "presets/calibrated_preset_acme__tiny.json",
    "acme__tiny/certificates/quant_4bit_clean/run_2/evaluation.cert.json",
    "acme__tiny/certificates/errors/nan_injection/evaluation.cert.json",
    "acme__tiny/certificates/calibration/run_1/evaluation.cert.json",
]
NOT_PACKED = [
    "state/run.json",
    "acme__tiny/baseline/windows_43.safetensors",
    "acme__tiny/certificates/quant_4bit_clean/run_2/notes.json",
    "presets/other.json",
    "conftest.py",
]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_packed_file_finds_its_way_back(name: str) -> None:
    layout = LAYOUTS[name]
    paths = [layout.pack_path(path) for path in RUN_FILES]
    assert None not in paths
    assert len(set(paths)) == len(RUN_FILES)
    assert [layout.run_path(path) for path in paths if path] == RUN_FILES


@pytest.mark.parametrize("path", NOT_PACKED)
def test_nothing_else_of_a_run_is_packed(path: str) -> None:
    assert V1.pack_path(path) is None


@pytest.mark.parametrize(
    "path",
    [
        "conftest.py",
        "state/run.json",
        "certs/conftest.py",
        "certs/m/e/run_1/evil.pth",
        "certs/evaluation.html",
        "a.json",
    ],
)
def test_a_pack_has_no_place_for_other_files(path: str) -> None:
    assert not V1.knows(path)


def test_the_two_layouts_are_told_apart() -> None:
    assert layout_of(["results/final_verdict.json"]) is V1
    assert layout_of(["results/verdicts/final_verdict.json"]) is V2
    assert V2.scenarios == "metadata/scenarios.json"


def test_a_certificates_path_follows_from_its_content() -> None:
    """The planned folders of a run, packed, are the paths that verification expects."""
    models = ["acme/Tiny", "acme/tiny", "other"]
    _, plan = make_plan(models, {"calibration": 2, "clean": 2, "stress": 1, "error": 1})
    for request in plan.requests:
        scenario = {"id": request.scenario.id, "category": request.scenario.category.value, "run": request.run}
        certificate = {"meta": {"model_id": request.model.id}, "scenario": scenario}
        expected = V1.pack_path(f"{request.folder}/evaluation.cert.json")
        assert expected is not None
        assert is_certificate(expected)
        assert expected_path(certificate, models) == expected
    assert expected_path({"meta": {"model_id": "unknown"}, "scenario": {}}, models) is None
