"""What a command line names beside options: ids of the suite, as earlier output showed them, and the user's paths."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.plugin.junit import ANNOTATED
from pytest_proofpack.plugin.making import nodeids
from pytest_proofpack.runs.run import Run


def require_named(config: pytest.Config, run: Run) -> None:
    """Make sure, before anything is begun, that there is what the command line names.

    pytest looks for it only when it collects, and then in every worker by itself.

    Raises:
        ConfigurationError: a path is not there, or an id is none of the run's.
    """
    for argument in _named(config):
        path, _, rest = argument.partition("::")
        if path == f"proofpack/{run.suite.name}" and rest:
            ids = nodeids(run)
            if argument not in {*ids, ids[0].partition("[")[0]}:
                raise ConfigurationError(
                    f"not found: {argument} is no item of this run. Its items are listed by --collect-only -q."
                )
        elif not config.option.pyargs and not (config.invocation_params.dir / path).exists():
            raise ConfigurationError(
                f"file or directory not found: {path}. What is named beside options are tests of your own, or items of "
                f"the suite (proofpack/{run.suite.name}::...)."
            )


def collect_suite(config: pytest.Config, run: Run) -> None:
    """Make the run's suite what is collected, beside paths that the user named."""
    prefix = f"proofpack/{run.suite.name}"
    config.stash[ANNOTATED] = prefix, _annotated(config, run)
    collect_only(config, suites_directory() / "test_certificates.py", prefix)


def _annotated(config: pytest.Config, run: Run) -> str:
    """Return the file that annotations point to: the user's own suite where it lies below pytest's root."""
    given = Path(run.settings.suite or "")
    if given.suffix == ".toml" and given.is_file() and given.resolve().is_relative_to(config.rootpath):
        return given.resolve().relative_to(config.rootpath).as_posix()
    return os.path.relpath(suites_directory() / "test_certificates.py", config.rootpath)


def collect_only(config: pytest.Config, path: Path, prefix: str) -> None:
    """Make ``path`` what is collected, beside paths that the user named; translate ids that earlier output showed."""
    ours: list[str] = []
    others: list[str] = []
    for argument in _named(config):
        head, separator, rest = argument.partition("::")
        if separator and head == prefix:
            ours.append(f"{path}::{rest}")
        else:
            others.append(argument)
    config.args = [*others, *(ours or [str(path)])]


def _named(config: pytest.Config) -> Sequence[str]:
    return config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
