"""A whole session with an edit of the user's own: certified, packed, and verified by a stranger without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates

pytestmark = pytest.mark.usefixtures("warm_sessions")

SOURCE = Path(__file__).parents[1] / "support/own_edit.py"


def scenario(name: str, category: str, spec: str) -> dict[str, object]:
    generation = {"kind": "edit", "edit_spec": spec}
    strictness = "must_pass" if category == "clean" else "informational"
    return {"id": name, "category": category, "strictness": strictness, "generation": generation}


def test_an_own_edit_is_certified_and_verified_without_it(pytester: pytest.Pytester, small: SmallSuite) -> None:
    small.write(("nan_injection",))
    path = small.folder / "scenarios.json"
    document = json.loads(path.read_text())
    document["scenarios"] += [
        scenario("soft", "clean", "soft_threshold:clean:ffn"),
        scenario("softer", "stress", "soft_threshold:0.01:attn@layer=1"),
    ]
    path.write_text(json.dumps(document))
    pytester.makepyfile(own_edit=SOURCE.read_text())
    arguments = (f"--proofpack-suite={small.suite}", "--proofpack-out=run", "-v")

    refused = pytester.runpytest_subprocess(*arguments)
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*the edit 'soft_threshold' is unknown; expected one of noop, *"])

    result = pytester.runpytest_subprocess("-p", "own_edit", *arguments)
    assert result.ret == pytest.ExitCode.OK
    found = certificates(pytester.path / "run")
    soft = found["acme__small/certificates/soft/run_1"]
    softer = found["acme__small/certificates/softer/run_1"]
    assert soft["edit_name"] == "soft_threshold"
    assert soft["provenance"]["edit"]["parameters"] == {"threshold": 0.0001}
    assert softer["provenance"]["edit"]["scope"] == "attn@layer=1"
    assert all("layers.1.self_attn" in name for name in softer["structure"]["parameters_changed"])
    assert softer["structure"]["edit_details"]["zeros"] > 0
    page = (pytester.path / "run/proof_pack/certs/acme__small/soft/run_1/evaluation.html").read_text()
    assert "every magnitude reduced by a threshold, and those below it set to zero" in page

    verification = pytester.runpytest_subprocess("--proofpack-verify=run/proof_pack")
    assert verification.ret == pytest.ExitCode.OK
    verification.stdout.fnmatch_lines(["*the edit 'soft_threshold' of 2 certificates is not known here*"])
