"""The examples of docs/scale.md: their shell steps run as they stand there, with shards that were made before."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pytest_proofpack import verify
from tests.support.shard_runs import make_shards

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/scale.md").read_text()
STAND_IN = """#!{python}
import re, shutil, sys
words = " ".join(sys.argv[1:])
number = re.search("--proofpack-shard=([0-9]+)/4 ", words + " ")[1]
assert "--proofpack-suite=small " in words
shutil.copytree(f"{made}/{{number}}", re.search("--proofpack-out=([^ ]+)", words)[1])
"""


def blocks(language: str) -> list[str]:
    return re.findall(f"```{language}\n(.*?)```", PAGE, re.DOTALL)


def job(kind: str) -> Any:
    (found,) = (document for text in blocks("yaml") if kind in (document := yaml.safe_load(text)))
    return found


@pytest.fixture
def there(tmp_path: Path) -> dict[str, str]:
    """Return an environment whose pytest hands out shards of a run, and whose proofpack is the real one."""
    make_shards(tmp_path / "made", 4)
    programs = tmp_path / "bin"
    programs.mkdir()
    python = f"#!/bin/sh\nexec {sys.executable} -m pytest_proofpack "
    for name, text in (
        ("pytest", STAND_IN.format(python=sys.executable, made=tmp_path / "made")),
        ("proofpack", f'{python}"$@"\n'),
    ):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "GNUPGHOME": str(tmp_path / "keys"), "SUITE": "small"}


def shell(text: str, folder: Path, environment: dict[str, str]) -> None:
    subprocess.run(["bash", "-e", "-c", text], cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)


def test_the_matrix_of_github(tmp_path: Path, there: dict[str, str]) -> None:
    document = job("jobs")
    shard, assemble = document["jobs"]["shard"], document["jobs"]["assemble"]
    (certify,) = (step["run"] for step in shard["steps"] if step.get("name") == "certify")
    for number in shard["strategy"]["matrix"]["shard"]:
        host = tmp_path / f"host-{number}"
        host.mkdir()
        shell(certify.replace("${{ matrix.shard }}", str(number)), host, there)
        shutil.copytree(host / f"shard-{number}", tmp_path / "shards" / f"shard-{number}")
    (put_together,) = (step["run"] for step in assemble["steps"] if step.get("name") == "assemble")
    shell(put_together, tmp_path, there)

    assert verify(tmp_path / "run/proof_pack").ok


def test_the_array_of_slurm(tmp_path: Path, there: dict[str, str]) -> None:
    scripts = [text for text in blocks("bash") if text.startswith("#!/bin/bash")]
    there["RUNS"] = str(tmp_path / "runs")
    for number in range(1, 5):
        shell(scripts[0], tmp_path, {**there, "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "4"})
    shell(scripts[1], tmp_path, there)

    assert verify(tmp_path / "runs/run/proof_pack").ok


def test_the_job_of_kubernetes_makes_the_same_shards() -> None:
    spec = job("apiVersion")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    told = subprocess.run(
        ["bash", "-c", container["args"][0].replace("pytest ", "echo ", 1)],
        env={**os.environ, "JOB_COMPLETION_INDEX": "3"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert spec["completions"] == 4
    assert "--proofpack-shard=4/4 --proofpack-out=/runs/shard-4" in told.stdout
