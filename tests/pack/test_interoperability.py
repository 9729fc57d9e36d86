"""Certificates are a superset of InvarLock 0.3.7's: its own ``invarlock verify`` reads and recomputes them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from tests.support.certificates import make_run_directory

VERSION = "0.3.7"
PROFILES = ("dev", "ci", "release")

pytestmark = pytest.mark.network  # InvarLock is installed, unless PROOFPACK_INVARLOCK names its command


def _interpreters() -> Iterator[str]:
    """Yield what may be a Python 3.12, on the path or installed by pyenv."""
    if on_path := shutil.which("python3.12"):
        yield on_path
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(root.glob("versions/3.12*/bin/python")))


def _is_python(command: str) -> bool:
    return subprocess.run([command, "-c", ""], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def invarlock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the command ``invarlock``, from PROOFPACK_INVARLOCK or from an environment made for it."""
    if given := os.environ.get("PROOFPACK_INVARLOCK"):
        return Path(given)
    python = next(filter(_is_python, _interpreters()), None)
    if python is None:
        pytest.skip("InvarLock 0.3.7 needs a Python 3.12 interpreter, and there is none here")
    environment = tmp_path_factory.mktemp("invarlock") / "venv"
    subprocess.run([python, "-m", "venv", environment], check=True, capture_output=True)
    install = [str(environment / "bin" / "pip"), "install", "--quiet", f"invarlock=={VERSION}"]
    subprocess.run(install, check=True, capture_output=True)
    return environment / "bin" / "invarlock"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, JsonObject]:
    files = make_run_directory(tmp_path_factory.mktemp("run") / "run")
    return {certificate["scenario"]["id"]: certificate for certificate in files.certificates.values()}


def verify(invarlock: Path, folder: Path, profile: str, **certificates: JsonObject) -> JsonObject:
    """Let InvarLock verify certificates, all in one process; return its answer, results under the given names."""
    for name, certificate in certificates.items():
        (folder / f"{name}.json").write_text(compact_json(certificate))
    paths = [str(folder / f"{name}.json") for name in certificates]
    command = [str(invarlock), "verify", "--profile", profile, "--json", *paths]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    answer: JsonObject = json.loads(run.stdout)
    answer["results"] = {Path(entry["id"]).stem: entry for entry in answer["results"]}
    return answer


@pytest.mark.parametrize("profile", PROFILES)
def test_clean_certificates_are_accepted_and_recomputed(
    invarlock: Path, certificates: dict[str, JsonObject], tmp_path: Path, profile: str
) -> None:
    kinds = {"clean", "calibration"}
    clean = {name: entry for name, entry in certificates.items() if entry["scenario"]["category"] in kinds}
    assert len(clean) == 5
    answer = verify(invarlock, tmp_path, profile, **clean)
    assert answer["summary"] == {"ok": True, "reason": "ok"}
    assert answer["results"].keys() == clean.keys()
    for name, result in answer["results"].items():
        assert (result["ok"], result["reason"]) == (True, "ok"), name
        assert result["recompute"] == {"family": "ppl", "ok": True, "reason": None}, name


def test_a_changed_ratio_is_rejected_there_too(
    invarlock: Path, certificates: dict[str, JsonObject], tmp_path: Path
) -> None:
    honest = certificates["quant_4bit_clean"]
    metric = {**honest["primary_metric"], "ratio_vs_baseline": 0.99}
    answer = verify(invarlock, tmp_path, "dev", forged=finish_certificate({**honest, "primary_metric": metric}))
    assert answer["summary"]["ok"] is False


def test_a_drift_out_of_the_band_is_rejected_there_too(
    invarlock: Path, certificates: dict[str, JsonObject], tmp_path: Path
) -> None:
    honest = certificates["quant_4bit_clean"]
    metric = {**honest["primary_metric"], "drift_band": {"min": 0.5, "max": 0.6}}
    answer = verify(invarlock, tmp_path, "ci", forged=finish_certificate({**honest, "primary_metric": metric}))
    assert answer["summary"]["ok"] is False


def test_damage_that_leaves_the_losses_alone_is_consistent_and_so_accepted(
    invarlock: Path, certificates: dict[str, JsonObject], tmp_path: Path
) -> None:
    """``invarlock verify`` checks that a certificate agrees with itself, not its gates: those are ours to judge."""
    answer = verify(invarlock, tmp_path, "release", damaged=certificates["shape_mismatch"])
    assert answer["summary"]["ok"] is True
    assert certificates["shape_mismatch"]["outcome"]["passed"] is False
