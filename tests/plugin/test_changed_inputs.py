"""Sessions whose files change on the way: what was made of others is not stored, and the message names them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model

Pytester = pytest.Pytester
CHANGE_THEN_DIE = """
import os
from pathlib import Path

import pytest

FILE = Path({file!r})

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    marker = Path("died")
    if "nan_injection" in item.nodeid and not marker.exists():
        marker.touch()
        {change}
        {end}
"""
APPEND = 'FILE.write_text(FILE.read_text() + "\\n\\nOne document more, which nobody has read before.\\n")'


def own(small: SmallSuite) -> None:
    """Give the suite files of its own, which a test may change."""
    for link in (small.text, *small.model.resolve().iterdir()):
        content = link.read_bytes()
        target = small.text if link == small.text else small.folder / "own" / link.name
        target.parent.mkdir(exist_ok=True)
        if target.is_symlink():
            target.unlink()
        target.write_bytes(content)
    small.model.unlink()
    (small.folder / "own").rename(small.model)


def plugin(pytester: Pytester, file: Path, change: str, end: str) -> tuple[str, str]:
    code = CHANGE_THEN_DIE.format(file=str(file), change=change, end=end)
    pytester.syspathinsert(pytester.makepyfile(disturb=code).parent)
    return "-p", "disturb"


def test_a_text_that_changes_while_a_worker_is_replaced(pytester: Pytester, small: SmallSuite) -> None:
    own(small)
    options = plugin(pytester, small.text, APPEND, "os._exit(1)")
    result = pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-n1", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*its certificate is not stored: its text has text_sha256 *, the run's *text.txt: changed on disk since*",
        ]
    )
    stored = certificates(pytester.path / "run")
    assert len({json.dumps(certificate["dataset"]["hash"]) for certificate in stored.values()}) == 1
    assert json.loads((pytester.path / "run/reports/final_verdict.json").read_text())["missing"]


def test_weights_that_change_between_items(pytester: Pytester, small: SmallSuite) -> None:
    own(small)
    weights = small.model / "model.safetensors"
    change = "raw = bytearray(FILE.read_bytes()); raw[-9] ^= 1; FILE.write_bytes(raw)"
    options = plugin(pytester, weights, change, "")
    result = pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run", *options)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "*model.safetensors: changed on disk while it was in use, so nothing was certified*",
            "*its certificate is not stored: its model's digest is *, the run's *",
        ]
    )
    stored = certificates(pytester.path / "run")
    assert len({certificate["provenance"]["model_digest"]["baseline"] for certificate in stored.values()}) == 1
