"""Setting up a proof-pack session: what the controller and what the workers get.

The controller resolves the options once; workers get the result in ``workerinput`` and never read the environment or
an ini file themselves, so that all of them certify the same run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.run import resolve_run
from pytest_proofpack.settings import WORKER_INPUT, Settings, resolve
from pytest_proofpack.suites import suites_directory


def activate(config: pytest.Config) -> None:
    """Register what the session needs.

    Raises:
        pytest.UsageError: the options, or a file that they name, cannot be used.
    """
    workerinput = getattr(config, "workerinput", None)
    try:
        settings = Settings.from_text(workerinput[WORKER_INPUT]) if workerinput else resolve(config, os.environ)
        _activate(config, settings, is_worker=workerinput is not None)
    except ConfigurationError as error:
        raise pytest.UsageError(str(error)) from error


def _activate(config: pytest.Config, settings: Settings, *, is_worker: bool) -> None:
    if settings.verify is None:
        _activate_suite(config, settings, is_worker=is_worker)
    elif settings.suite is None:
        _activate_verification(config, settings)
    else:
        raise ConfigurationError("--proofpack-suite and --proofpack-verify exclude each other: name one of them.")


def _activate_suite(config: pytest.Config, settings: Settings, *, is_worker: bool) -> None:
    from pytest_proofpack.controller import Controller
    from pytest_proofpack.items import SuiteItems, Workbench, register_markers

    run = resolve_run(settings)
    register_markers(config)
    _collect_only(config, suites_directory() / "test_certificates.py", f"proofpack/{run.suite.name}")
    bench = Workbench(run)
    config.pluginmanager.register(SuiteItems(run, bench), "proofpack-items")
    if not is_worker:
        config.pluginmanager.register(Controller(config, run, bench), "proofpack-controller")


def _activate_verification(config: pytest.Config, settings: Settings) -> None:
    from pytest_proofpack.verification import ANCHOR, VerificationItems

    config.pluginmanager.register(VerificationItems(config, settings), "proofpack-verification")
    _collect_only(config, ANCHOR, "proofpack/verify")


def _collect_only(config: pytest.Config, path: Path, prefix: str) -> None:
    """Make ``path`` what is collected, beside paths that the user named; translate ids that earlier output showed."""
    named = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    ours: list[str] = []
    others: list[str] = []
    for argument in named:
        head, separator, rest = argument.partition("::")
        if separator and head == prefix:
            ours.append(f"{path}::{rest}")
        else:
            others.append(argument)
    config.args = [*others, *(ours or [str(path)])]
