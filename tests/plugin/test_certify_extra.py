from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from _pytest.pytester import Pytester

from pytest_proofpack.plugin.certify_extra import MODULES, require_certify

HIDDEN = f"import sys\nfor name in {tuple(MODULES.values())}:\n    sys.modules[name] = None\n"
"""A plugin with which nothing of the extra can be imported."""


def test_the_extra_is_what_is_looked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extra = project["optional-dependencies"]["certify"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in extra}  # type: ignore[index]
    assert names == set(MODULES)
    assert not names & {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}  # type: ignore[index]
    require_certify()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--proofpack-suite=tiny"],
        ["--proofpack-suite=tiny", "-n", "2"],
        ["--proofpack-suite=tiny", "--collect-only"],
        ["--proofpack-baseline=a", "--proofpack-subject=b"],
    ],
)
def test_a_run_without_it_ends_with_the_command_that_installs_it(pytester: Pytester, arguments: list[str]) -> None:
    pytester.makepyfile(hidden=HIDDEN)
    pytester.syspathinsert()
    result = pytester.runpytest_subprocess("-p", "hidden", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    (message,) = [line for line in result.errlines if line]
    assert message == (
        f"ERROR: to certify, install what verification does without ({', '.join(MODULES)}): "
        "pip install 'pytest-proofpack[certify]'"
    )


def test_help_and_verification_do_without_it(pytester: Pytester) -> None:
    pytester.makepyfile(hidden=HIDDEN)
    pytester.syspathinsert()
    for arguments in (["--help"], ["--proofpack-suite=tiny", "--help"]):
        result = pytester.runpytest_subprocess("-p", "hidden", *arguments)
        result.stdout.fnmatch_lines(["*--proofpack-suite=*"])
        assert result.ret == pytest.ExitCode.OK
    result = pytester.runpytest_subprocess("-p", "hidden", "--proofpack-verify=absent")
    result.stderr.fnmatch_lines(["ERROR: *absent: there is no such directory*"])
