"""Setting up a proof-pack session: what the controller and what the workers get.

The controller resolves the options once; workers get the result in one record and never read the environment or an ini
file themselves, so that all of them certify the same run. Whoever works on the run is registered when it is complete,
and given it whole.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from pytest_proofpack.common.environment import go_offline, offline_by_user
from pytest_proofpack.config.settings import Settings, options_named, resolve
from pytest_proofpack.errors import ConfigurationError, PackError, ProofPackError, StorageError
from pytest_proofpack.plugin.certify_extra import require_certify
from pytest_proofpack.plugin.extensions import load_extensions
from pytest_proofpack.plugin.named import collect_only, collect_suite, require_named
from pytest_proofpack.plugin.terminal import say, untyped_words, usage_error
from pytest_proofpack.plugin.worker_input import WorkerInput, WorkerStart, worker_input
from pytest_proofpack.runs.publishable import require_publishable
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.runs.windows import require_windows_asked

if TYPE_CHECKING:
    from pytest_proofpack.devices.placement import ProcessDevices
    from pytest_proofpack.plugin.interruption import Interruption

FORK_SERVER = "proofpack-fork-server"
"""Its name among pytest's plugins."""


def activate(config: pytest.Config) -> None:
    """Register what the session needs.

    Raises:
        pytest.UsageError: the options, or a file that they name, cannot be used.
    """
    try:
        given = worker_input(config)
        settings = resolve(config, os.environ) if given is None else given.settings
        if settings.verify is not None:
            _activate_verification(config, settings)
        elif given is None:
            _activate_controller(config, settings)
        else:
            _activate_worker(config, given)
    except ConfigurationError as error:
        raise _usage_error(config, error) from error


def _usage_error(config: pytest.Config, error: ProofPackError) -> pytest.UsageError:
    """Return an error for who has typed the command line; it says which options in it the environment has set."""
    untyped = config.option.proofpack_verify is None and worker_input(config) is None
    return usage_error(error, untyped_words(config, options_named(str(error))) if untyped else "")


def _activate_controller(config: pytest.Config, settings: Settings) -> None:
    """Register who completes the run, see :class:`SessionStart`, and make its items what is collected."""
    if settings.net and (variable := offline_by_user(os.environ)) is not None:
        raise ConfigurationError(
            f"{variable}={os.environ[variable]} and --proofpack-net=1 contradict each other. Unset the one, or leave "
            "out the other."
        )
    require_publishable(settings, os.environ)
    require_certify()  # before anything of it is imported
    from pytest_proofpack.plugin.interruption import Interruption
    from pytest_proofpack.plugin.sharding import sharded
    from pytest_proofpack.plugin.xdist_devices import process_devices

    _go_offline(config)
    interruption = Interruption(config)
    interruption.install()
    config.pluginmanager.register(interruption, "proofpack-interruption")
    asked = sharded(resolve_run(settings, load_extensions(config, settings)))
    require_windows_asked(asked)
    if settings.ray is not None:
        _require_fit_for_ray(config, asked)
    require_named(config, asked)
    collect_suite(config, asked)
    devices = process_devices(config, settings)
    if not settings.no_fork:
        _fork_workers(config, devices)
    config.pluginmanager.register(SessionStart(config, asked, devices, interruption), "proofpack-session")


def _fork_workers(config: pytest.Config, devices: ProcessDevices) -> None:
    """Let workers, if there are to be any, be forked off a process that begins to import torch now."""
    from pytest_proofpack.devices.placement import worker_environment
    from pytest_proofpack.plugin.fork_server.hooks import ForkServer

    server = ForkServer(config, lambda workers: worker_environment(devices.devices, workers, os.environ))
    config.pluginmanager.register(server, FORK_SERVER)


def _fork_no_workers(config: pytest.Config) -> None:
    if (server := config.pluginmanager.get_plugin(FORK_SERVER)) is not None:
        server.end()


def _require_fit_for_ray(config: pytest.Config, asked: Run) -> None:
    """Refuse what does not go together with a Ray cluster.

    Raises:
        ConfigurationError: workers of xdist, tuning, an extension; or Ray is not installed.
    """
    from pytest_proofpack.plugin.ray_cluster import require_ray

    require_ray()
    if getattr(config.option, "numprocesses", None) or getattr(config.option, "tx", None):
        raise ConfigurationError("--proofpack-ray takes the place of workers: leave -n and --tx out.")
    if asked.tunes or asked.untuned:
        raise ConfigurationError(
            "--proofpack-ray makes certificates: tune in a session without it, and give the file that it writes by "
            "--proofpack-tuned-edit-params."
        )
    if asked.extensions:
        names = ", ".join(extension.name for extension in asked.extensions)
        raise ConfigurationError(f"--proofpack-ray: processes of a cluster load no extensions ({names}).")


def _activate_worker(config: pytest.Config, given: WorkerInput) -> None:
    """Register the items of the run that the controller sent, and the loop that runs them."""
    require_certify()  # of another host, maybe
    from pytest_proofpack.devices.driver import wake_driver
    from pytest_proofpack.devices.inventory import is_cpu
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.plugin.items import SuiteItems
    from pytest_proofpack.plugin.worker_process import die_with, leave_signals_to_the_controller
    from pytest_proofpack.plugin.xdist_devices import process_devices
    from pytest_proofpack.plugin.xdist_worker import WorkerLoop

    _go_offline(config)
    leave_signals_to_the_controller()
    die_with(given.controller)
    run = given.run(load_extensions(config, given.settings))
    collect_suite(config, run)
    _keep_log(config, run)
    devices = process_devices(config, given.settings, given.devices)
    if not is_cpu(devices.devices):
        wake_driver()
    bench = Workbench(run, devices)
    config.pluginmanager.register(SuiteItems(config, bench), "proofpack-items")
    if given.one_at_a_time:
        config.pluginmanager.register(WorkerLoop(config, bench), "proofpack-worker-loop")


def _activate_verification(config: pytest.Config, settings: Settings) -> None:
    from pytest_proofpack.plugin.verify_items import ANCHOR, VerificationItems

    if settings.suite is not None or settings.baseline is not None or settings.subject:
        raise ConfigurationError(
            "--proofpack-verify and --proofpack-suite, --proofpack-baseline or --proofpack-subject exclude each other: "
            "name one of them."
        )
    if settings.shard is not None:
        raise ConfigurationError(
            "--proofpack-verify and --proofpack-shard exclude each other: a pack is verified whole. Leave one out."
        )
    extensions = load_extensions(config, settings)
    config.pluginmanager.register(VerificationItems(config, settings), "proofpack-verification")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(WorkerStart(WorkerInput(settings, extensions)), "proofpack-worker-start")
    collect_only(config, ANCHOR, "proofpack/verify")


class SessionStart:
    """Registered in the controller, before anything is known of the models: completes the run, then hands it out."""

    def __init__(self, config: pytest.Config, asked: Run, devices: ProcessDevices, interruption: Interruption) -> None:
        """Do nothing yet.

        Args:
            config: of the session.
            asked: what the settings ask for.
            devices: those of this process.
            interruption: who takes signals.
        """
        self._config = config
        self._interruption = interruption
        self._asked = asked
        self._devices = devices

    @pytest.hookimpl(tryfirst=True, optionalhook=True)
    def pytest_xdist_auto_num_workers(self) -> int | None:
        """Answer ``-n auto``."""
        from pytest_proofpack.plugin.xdist_devices import automatic_workers

        if os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS") or self._config.option.collectonly:
            return None
        return automatic_workers(self._asked, self._devices.devices)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Check every input before the first worker starts or the first weight is loaded, then register the rest."""
        if self._config.option.collectonly:
            self._plan_only()
            return
        try:
            self._begin(session)
        except (ConfigurationError, PackError, StorageError) as error:
            raise _usage_error(self._config, error) from error

    def _plan_only(self) -> None:
        from pytest_proofpack.engine.workbench import Workbench
        from pytest_proofpack.plugin.controller import PlanOnly
        from pytest_proofpack.plugin.items import SuiteItems

        self._register(
            ("items", SuiteItems(self._config, Workbench(self._asked, self._devices))),
            ("plan", PlanOnly(self._asked)),
        )

    def _begin(self, session: pytest.Session) -> None:
        from pytest_proofpack.devices.inventory import is_cpu
        from pytest_proofpack.engine.workbench import Workbench
        from pytest_proofpack.plugin.controller import Controller
        from pytest_proofpack.plugin.idle import Idle
        from pytest_proofpack.plugin.items import SuiteItems
        from pytest_proofpack.plugin.overdue import Limits, Overdue
        from pytest_proofpack.plugin.preparation import prepare_run
        from pytest_proofpack.plugin.progress import Progress
        from pytest_proofpack.plugin.session_log import SessionLog
        from pytest_proofpack.plugin.shard_controller import ShardController
        from pytest_proofpack.plugin.step_summary import VARIABLE, StepSummary
        from pytest_proofpack.plugin.tuning import TuningController
        from pytest_proofpack.plugin.work_log import WorkLog
        from pytest_proofpack.plugin.xdist_crashes import Crashes
        from pytest_proofpack.plugin.xdist_devices import DeviceHooks, device_facts
        from pytest_proofpack.plugin.xdist_processes import WorkerProcesses
        from pytest_proofpack.plugin.xdist_scheduler import SchedulerHooks
        from pytest_proofpack.plugin.xdist_worker import fits
        from pytest_proofpack.runs.journal import Journal
        from pytest_proofpack.runs.paths import journal_path

        config, devices = self._config, self._devices.devices
        say(config, "checking models and text")
        prepared = prepare_run(config, self._asked, self._devices)
        run, inputs = prepared.run, prepared.inputs
        if run.reused.keys() >= {request.id for request in run.items}:
            _fork_no_workers(config)  # nothing is left to be computed, so none has to wait for torch
        facts = device_facts(devices, inputs.plans, workers=len(getattr(config.option, "tx", None) or []))
        device_hooks = DeviceHooks(devices)
        scheduler = SchedulerHooks(config, run, inputs, facts)
        start = WorkerStart(WorkerInput.of_run(run, one_at_a_time=fits()), device_hooks.shown_to)
        journal, processes = Journal(journal_path(run.out, "controller")), WorkerProcesses(config)
        log = SessionLog(run, journal, processes)
        settings, waiting = run.settings, 0.0 if is_cpu(devices) else run.settings.device_timeout
        limits = Limits(settings.timeout, waiting)
        log.note_begin()
        self._interruption.end_workers = processes.end_all
        idle = Idle(config, prepared, self._interruption)
        controls = TuningController if run.tunes else Controller if run.share is None else ShardController
        if (file := os.environ.get(VARIABLE)) and controls is Controller:
            self._register(("step-summary", StepSummary(run, Path(file))))
        if run.settings.ray is not None:
            from pytest_proofpack.plugin.ray_loop import RayLoop

            self._register(("ray", RayLoop(config, run, scheduler, uses_gpus=not is_cpu(devices))))
        if not config.pluginmanager.hasplugin("dsession"):
            self._register(("work-log", WorkLog(journal, None)))
        self._register(
            ("items", SuiteItems(config, Workbench(run, self._devices, inputs))),
            ("processes", processes),
            ("log", log),
            ("idle", idle),
            ("controller", controls(config, prepared, self._interruption, idle)),
            ("crashes", Crashes(config, processes, run.out)),
            ("overdue", Overdue(config, scheduler, processes, limits, log.shorten_all)),
            ("devices", device_hooks),
            ("worker-start", start),
            ("scheduler", scheduler),
            ("progress", Progress(config, scheduler, session, run.policy.section("rmt")["min_null_draws"])),
        )
        if config.pluginmanager.hasplugin("html") and config.getoption("htmlpath", None):
            self._add_columns(run, scheduler.jobs)

    def _add_columns(self, run: Run, nodeids: Iterable[str]) -> None:
        from pytest_proofpack.plugin.html_report import HtmlColumns

        self._register(("html", HtmlColumns(self._config, run, dict(zip(nodeids, run.items, strict=True)))))

    def _register(self, *plugins: tuple[str, object]) -> None:
        for name, plugin in plugins:
            self._config.pluginmanager.register(plugin, f"proofpack-{name}")


def _keep_log(config: pytest.Config, run: Run) -> None:
    """In a worker, keep what it says on standard error, and note down what it does."""
    from pytest_proofpack.plugin.work_log import WorkLog
    from pytest_proofpack.plugin.worker_process import keep_errors
    from pytest_proofpack.runs.journal import Journal
    from pytest_proofpack.runs.paths import journal_path

    name: str = cast("Any", config).workerinput["workerid"]
    errors = keep_errors(config, run, name)
    journal = Journal(journal_path(run.out, name) if errors is not None else None)
    journal.note("process begins", process=os.getpid())
    config.pluginmanager.register(WorkLog(journal, errors), "proofpack-work-log")


def _go_offline(config: pytest.Config) -> None:
    config.add_cleanup(go_offline())
