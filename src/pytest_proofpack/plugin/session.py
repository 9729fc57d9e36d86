"""Setting up a proof-pack session: what the controller and what the workers get.

The controller resolves the options once; workers get the result in ``workerinput`` and never read the environment or
an ini file themselves, so that all of them certify the same run.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pytest_proofpack.common.environment import go_offline, restore_environment
from pytest_proofpack.config.settings import WORKER_INPUT, Settings, resolve
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import WORKER_INPUT as PINS
from pytest_proofpack.plan.pins import Revisions
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.plugin.certify_extra import require_certify
from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.sources.pinning import pinned_run


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
    elif settings.suite is None and settings.baseline is None and not settings.subject:
        _activate_verification(config, settings)
    else:
        raise ConfigurationError(
            "--proofpack-verify and --proofpack-suite, --proofpack-baseline or --proofpack-subject exclude each other: "
            "name one of them."
        )


def _activate_suite(config: pytest.Config, settings: Settings, *, is_worker: bool) -> None:
    require_certify()
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.plugin.controller import Controller
    from pytest_proofpack.plugin.items import SuiteItems, register_markers
    from pytest_proofpack.plugin.progress import Progress
    from pytest_proofpack.plugin.xdist_devices import DeviceHooks, process_devices
    from pytest_proofpack.plugin.xdist_scheduler import SchedulerHooks
    from pytest_proofpack.plugin.xdist_worker import WorkerLoop
    from pytest_proofpack.runs.resume import WORKER_INPUT as REUSED
    from pytest_proofpack.runs.resume import from_text as reused_from_text

    environment = go_offline()
    config.add_cleanup(lambda: restore_environment(environment))
    run = resolve_run(settings)
    if is_worker:
        run = pinned_run(run, Revisions.from_text(config.workerinput[PINS]))  # type: ignore[attr-defined]
    register_markers(config)
    _collect_only(config, suites_directory() / "test_certificates.py", f"proofpack/{run.suite.name}")
    devices = process_devices(config, settings)
    bench = Workbench(run, devices)
    config.pluginmanager.register(SuiteItems(bench), "proofpack-items")
    if is_worker:
        bench.reused = reused_from_text(config.workerinput[REUSED])  # type: ignore[attr-defined]
        config.pluginmanager.register(WorkerLoop(config, bench), "proofpack-worker-loop")
    else:
        config.pluginmanager.register(Controller(config, run, bench), "proofpack-controller")
        device_hooks = DeviceHooks(config, bench, devices.devices)
        config.pluginmanager.register(device_hooks, "proofpack-devices")
        scheduler = SchedulerHooks(config, bench, device_hooks.facts)
        config.pluginmanager.register(scheduler, "proofpack-scheduler")
        config.pluginmanager.register(Progress(config, scheduler), "proofpack-progress")


def _activate_verification(config: pytest.Config, settings: Settings) -> None:
    from pytest_proofpack.plugin.verify_items import ANCHOR, VerificationItems

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
