"""Runs the shell steps of CI files as they stand: what a runner does around them is done here, in a few words."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EXPRESSION = re.compile(r"\$\{\{\s*([^}]*?)\s*\}\}")
_SH_STEP = re.compile(r"\bsh '''\n(.*?)'''", re.DOTALL)
_OF_THE_TESTS = {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"}
PIP = """#!/bin/sh
echo "pip $*" >> "$INSTALLED"
"""
"""In place of pip: what is asked for is written down. That it installs is shown by .ci/run."""
PYTHON_OF_A_VENV = """#!/bin/sh
[ "$1 $2" = "-m venv" ] || exec real-python3 "$@"
mkdir -p "$3" && ln -sfn "$TOOLS" "$3/bin"
"""
"""In place of python3: an environment that it makes holds the tools that the test has."""


@dataclass
class Runner:
    """A machine on which steps run, one after another, in one directory.

    Attributes:
        folder: where they run: a checkout of the user's repository.
        tools: a directory of commands that comes first in PATH.
        expressions: what stands for every ``${{ ... }}``.
        environment: variables of every step.
    """

    folder: Path
    tools: Path
    expressions: Mapping[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, script: str, variables: Mapping[str, str] | None = None, interpreter: str = "bash") -> str:
        """Run a script as CI does, ended by the first command that fails, and return what it printed."""
        for name in ("GITHUB_OUTPUT", "GITHUB_ENV", "GITHUB_STEP_SUMMARY"):
            (self.folder / f".{name}").touch()
        own = {
            **{name: value for name, value in os.environ.items() if name not in _OF_THE_TESTS},
            "PATH": os.pathsep.join([str(self.tools), os.environ["PATH"]]),
            "PYTEST_XDIST_AUTO_NUM_WORKERS": "0",  # a machine of one core: a process less to start
            "TOOLS": str(self.tools),
            "INSTALLED": str(self.folder / ".installed"),
            "GITHUB_OUTPUT": str(self.folder / ".GITHUB_OUTPUT"),
            "GITHUB_STEP_SUMMARY": str(self.folder / ".GITHUB_STEP_SUMMARY"),
            **self.environment,
            **(variables or {}),
        }
        result = subprocess.run(
            [interpreter, "-e", "-c", script], cwd=self.folder, env=own, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{script}\n{result.stdout}{result.stderr}"
        return result.stdout

    def steps(self, steps: Sequence[Mapping[str, Any]]) -> str:
        """Run the ``run`` steps of a GitHub job; those that use an action are somebody else's code."""
        said = []
        for step in steps:
            if "run" in step:
                variables = {name: self.filled(value) for name, value in step.get("env", {}).items()}
                said.append(self.run(self.filled(step["run"]), variables))
        return "".join(said)

    def filled(self, text: str) -> str:
        """Return a text with every expression replaced; one that is not known is an error."""
        return _EXPRESSION.sub(lambda match: self.expressions[match[1]], text)

    @property
    def installed(self) -> list[str]:
        """What was asked of pip."""
        return (self.folder / ".installed").read_text().splitlines()


def sh_steps(jenkinsfile: str) -> Iterator[str]:
    """Yield the scripts of a Jenkinsfile, with Groovy's escapes undone."""
    for match in _SH_STEP.finditer(jenkinsfile):
        yield match[1].replace("\\\\", "\\")
