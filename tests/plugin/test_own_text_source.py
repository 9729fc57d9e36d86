"""A whole run on a text source from outside, and a stranger who verifies its pack without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugin.conftest import SmallSuite, certificates
from tests.support.model_files import build_model_directory, story

pytestmark = pytest.mark.usefixtures("warm_sessions")

SOURCE = Path(__file__).parents[1] / "support/own_text_source.py"
WORDS = ["owl", "moss", "tin", "ember", "lamp", "river", "stone", "glass", "wolf", "rain"]
OWN_TEXT = f"""provider = "stories"
            words = {json.dumps(WORDS)}
            documents = 500"""


def test_it_is_certified_on_resumed_and_verified_by_a_stranger(pytester: pytest.Pytester, small: SmallSuite) -> None:
    local = 'provider = "local_text"\n            path = "text.txt"'
    small.write(("nan_injection",))
    assert local in small.suite.read_text()
    small.model.unlink()
    build_model_directory(small.model, taught=story(WORDS))
    small.suite.write_text(small.suite.read_text().replace(local, OWN_TEXT))
    pytester.makepyfile(own_text_source=SOURCE.read_text())
    options = ("-p", "own_text_source", f"--proofpack-suite={small.suite}", "--proofpack-out=run")

    assert pytester.runpytest_subprocess(*options).ret == pytest.ExitCode.OK
    found = certificates(pytester.path / "run")
    assert len(found) == 2
    for certificate in found.values():
        facts = certificate["dataset"]
        assert (facts["provider"], facts["documents"]) == ("stories", 500)
        assert facts["options"]["length"] == 60
        assert facts["options"]["words"][:2] == ["owl", "moss"]
        assert "source" not in facts
        (extension,) = certificate["provenance"]["extensions"]
        assert extension["name"] == "own_text_source"

    again = pytester.runpytest_subprocess(*options, "--proofpack-resume")
    assert again.ret == pytest.ExitCode.OK
    again.stdout.fnmatch_lines(["proofpack: resumed: 2 of 2 certificates reused"])

    program = "import sys; from pytest_proofpack.commands.verify import main; sys.exit(main())"
    command = [sys.executable, "-c", program, str(pytester.path / "run/proof_pack")]
    verify = subprocess.run(command, capture_output=True, text=True, check=False)
    assert verify.returncode == 0, verify.stdout + verify.stderr
