"""A small real model, a text and a suite of a few scenarios that a session can certify in seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text.synthetic import generate
from tests.support.model_files import build_model_directory
from tests.support.warm_sessions import fork_sessions

PASSING = ("quant_4bit_clean", "fp8_e5m2_clean", "fp8_e5m2_stress", "nan_injection", "shape_mismatch")
"""Scenarios that even a model that has learned next to nothing answers as it should."""

UNCAUGHT = "quant_8bit_stress"
"""A scenario of the tests' own that demands to be caught, and is far too mild for it."""
_UNCAUGHT: JsonObject = {
    "id": UNCAUGHT,
    "category": "stress",
    "strictness": "must_fail",
    "generation": {"kind": "edit", "edit_spec": "quant_rtn:8:32:ffn"},
    "requirements": {
        "detectors_any_of": [{"kind": "validation_flag", "flag": "primary_metric_acceptable", "expected": False}]
    },
}


@dataclass(frozen=True)
class SmallSuite:
    """Files of a suite that a test may change before it runs pytest."""

    folder: Path
    suite: Path
    model: Path
    text: Path

    def write(
        self, scenarios: tuple[str, ...] = PASSING, *, clean: int = 1, seq_len: int = 32, extra: str = ""
    ) -> None:
        """Write the suite file and its scenarios."""
        document = json.loads((suites_directory() / "scenarios.json").read_text())
        known = [*document["scenarios"], _UNCAUGHT]
        document["scenarios"] = [entry for entry in known if entry["id"] in scenarios]
        (self.folder / "scenarios.json").write_text(json.dumps(document))
        self.suite.write_text(
            f"""
            schema = "proof_pack_suite_v1"
            name = "small"
            scenarios = "scenarios.json"
            [[models]]
            id = "acme/small"
            path = "model"
            [text]
            provider = "local_text"
            path = "text.txt"
            [windows]
            seq_len = {seq_len}
            [runs]
            calibration = 1
            clean = {clean}
            stress = 1
            error = 1
            {extra}
            """
        )


@pytest.fixture(scope="session")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a saved tiny model that has learned a little."""
    return build_model_directory(tmp_path_factory.mktemp("model") / "model", taught=True)


@pytest.fixture(scope="session")
def sample_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a text file that is long enough for every window a policy demands."""
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n\n".join(document.text for document in generate(3, 700)))
    return path


@pytest.fixture
def warm_sessions(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare sessions and their workers the import of torch and transformers; see ``warm_sessions``."""
    fork_sessions(pytester, monkeypatch)


@pytest.fixture
def small(pytester: pytest.Pytester, saved_model: Path, sample_text: Path) -> SmallSuite:
    """Return a suite in an empty directory; model and text are links to the shared ones."""
    return small_suite(pytester.mkdir("given"), saved_model, sample_text)


def small_suite(folder: Path, saved_model: Path, sample_text: Path) -> SmallSuite:
    """Write a suite into an empty directory; model and text are links."""
    (folder / "model").symlink_to(saved_model)
    (folder / "text.txt").symlink_to(sample_text)
    suite = SmallSuite(folder, folder / "small.toml", folder / "model", folder / "text.txt")
    suite.write()
    return suite


def certificates(run: Path) -> dict[str, JsonObject]:
    """Return every certificate of a run directory by its folder."""
    return {
        str(path.parent.relative_to(run)): json.loads(path.read_text())
        for path in sorted(run.glob("*/certificates/**/evaluation.cert.json"))
    }
