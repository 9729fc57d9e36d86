"""The examples of docs/extending.md, run as they stand there."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates
from tests.support.model_files import build_model_directory, story

pytestmark = pytest.mark.usefixtures("warm_sessions")

Pytester = pytest.Pytester
PAGE = Path(__file__).resolve().parents[2] / "docs/extending.md"
LONGEST = 40
"""Lines that an example may have."""


def examples() -> dict[str, str]:
    """Return the page's blocks of code by the file that their first line names; the one of JSON is the scenarios."""
    blocks = re.findall(r"^```(?:python|toml|json)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    named = {}
    for block in blocks:
        name = re.match(r"# (\S+)\n", block)
        named[name[1] if name else "scenarios.json"] = block
    return named


def test_every_example_is_short() -> None:
    assert len(examples()) == 8
    assert {name for name, block in examples().items() if len(block.splitlines()) >= LONGEST} == set()


def test_a_listener_beside_tests_of_ones_own(pytester: Pytester, small: SmallSuite) -> None:
    small.write(("quant_4bit_clean",))
    for name in ("my_listener.py", "test_mine.py"):
        (pytester.path / name).write_text(examples()[name])
    pytester.syspathinsert(pytester.path)
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}",
        "--proofpack-runs=calibration:0",
        "--proofpack-out=run",
        "-p",
        "my_listener",
        "proofpack/small::test_certificate",
        "test_mine.py",
    )

    assert result.ret == pytest.ExitCode.OK, result.stdout.str()
    ((_, certificate),) = certificates(pytester.path / "run").items()
    ratio = certificate["primary_metric"]["ratio_vs_baseline"]
    assert (pytester.path / "ratios.txt").read_text() == f"acme/small-quant_4bit_clean-run_1 {ratio}\n"
    assert (pytester.path / "verdict.txt").read_text() == "PASS: proof_pack\n"
    assert "extensions" not in certificate["provenance"]


def test_an_edit_a_guard_and_a_text_of_ones_own(pytester: Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edit by the suite's file, the guard by ``-p``, the text by the entry point of an installed package."""
    given, library = pytester.mkdir("given"), pytester.mkdir("library")
    words = tomllib.loads(examples()["mine.toml"])["text"]["words"]
    build_model_directory(given / "model", taught=story(words))
    for name in ("mine.toml", "scenarios.json", "my_edits.py"):
        (given / name).write_text(examples()[name])
    for name in ("my_guard.py", "my_texts.py"):
        (library / name).write_text(examples()[name])
    entry_points = re.search(r"my_texts = \"(\w+)\"", examples()["pyproject.toml"])
    assert entry_points is not None
    installed = library / "my_texts-1.2.3.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-texts\nVersion: 1.2.3\n")
    (installed / "entry_points.txt").write_text(f"[pytest_proofpack]\nmy_texts = {entry_points[1]}\n")
    (installed / "top_level.txt").write_text("my_texts\n")
    monkeypatch.setenv("PYTHONPATH", str(library), prepend=os.pathsep)
    options = (f"--proofpack-suite={given / 'mine.toml'}", "--proofpack-out=run", "-n1", "-p", "my_guard")
    result = pytester.runpytest_subprocess(*options)

    assert result.ret == pytest.ExitCode.OK, result.stdout.str() + result.stderr.str()
    (certificate,) = certificates(pytester.path / "run").values()
    assert certificate["provenance"]["edit"]["type"] == "round_mantissa"
    assert certificate["structure"]["edit_details"]["changed_values"] > 0
    assert certificate["validation"]["largest_weight_ok"] is True
    assert certificate["dataset"]["provider"] == "stories"
    named = certificate["provenance"]["extensions"]
    assert [(entry["name"], entry["version"]) for entry in named] == [
        ("my_edits.py", None),
        ("my_guard", None),
        ("my_texts", "1.2.3"),
    ]
    assert json.loads((pytester.path / "run/proof_pack/manifest.json").read_bytes())["extensions"] == named

    verify = ("--proofpack-verify=run/proof_pack", "-q")
    stranger = pytester.runpytest_subprocess(*verify)
    assert stranger.ret == pytest.ExitCode.TESTS_FAILED
    assert "largest_weight" in stranger.stdout.str()
    assert pytester.runpytest_subprocess(*verify, "--proofpack-allow-unknown-guards").ret == pytest.ExitCode.OK
    assert pytester.runpytest_subprocess(*verify, "-p", "my_guard").ret == pytest.ExitCode.OK
