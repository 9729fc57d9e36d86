"""Before the first worker starts: the run that is asked for becomes the run that is certified, every input checked."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pytest_proofpack.common.files import remove_leftovers
from pytest_proofpack.common.problems import refuse
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.byoe import settled_suite
from pytest_proofpack.plan.places import left_out_at
from pytest_proofpack.plugin.terminal import command_with, say
from pytest_proofpack.plugin.tuning_first import tuned_first
from pytest_proofpack.plugin.xdist_hosts import all_here, any_here, several_processes
from pytest_proofpack.runs.arrivals import Arrivals
from pytest_proofpack.runs.claim import claimed, holds_pack, holds_run
from pytest_proofpack.runs.conditions import Conditions
from pytest_proofpack.runs.directory import RunDirectory
from pytest_proofpack.runs.disk import require_space
from pytest_proofpack.runs.finish import check_sealing
from pytest_proofpack.runs.resume import (
    PreviousRun,
    Reusable,
    read_previous_run,
    scan_certificates,
    settle_baselines,
    with_previous_pins,
)
from pytest_proofpack.runs.run import Run, with_tuned_edits
from pytest_proofpack.runs.tunings import scan_tunings
from pytest_proofpack.runs.windows import require_enough_windows

if TYPE_CHECKING:
    from pytest_proofpack.devices.placement import ProcessDevices
    from pytest_proofpack.engine.inputs import CheckedInputs
    from pytest_proofpack.engine.prepared import PreparedSubject


@dataclass(frozen=True)
class PreparedRun:
    """A run that can begin.

    Attributes:
        run: the run, complete.
        directory: its directory, whose state is written.
        inputs: its models and texts, all checked.
        conditions: how certificates are made now, by model.
        reusable: what is reused of earlier sessions; None for a run that begins.
        replaces_pack: whether a pack of an earlier session is to be replaced.
    """

    run: Run
    directory: RunDirectory
    inputs: CheckedInputs
    conditions: Mapping[str, Conditions]
    reusable: Reusable | None
    replaces_pack: bool


def prepare_run(config: pytest.Config, asked: Run, devices: ProcessDevices) -> PreparedRun:
    """Check every input of a run and complete it; its directory is this session's from now on.

    Args:
        config: of the session.
        asked: what the settings ask for.
        devices: those of this process.

    Raises:
        ConfigurationError: something cannot be used, or the directory holds another run.
        PackError: what lies where the pack goes is none of this run.
    """
    from pytest_proofpack.engine.inputs import CheckedInputs
    from pytest_proofpack.engine.shared_text import forget_texts
    from pytest_proofpack.sources.preflight import resolve_sources

    asked, previous = _claim(config, asked)
    forget_texts(asked)
    replaces_pack = previous is not None and _replaces_pack(asked)
    check_sealing(asked, "online" if asked.settings.net else "offline")
    wanted = tuned_first(config, asked) if previous is None else with_previous_pins(asked)
    resolved, revisions = resolve_sources(
        wanted, lambda line: say(config, line), command_with(config, "--proofpack-net=1")
    )
    inputs = CheckedInputs(resolved, devices)
    _check_models(config, resolved, inputs)
    run = replace(_with_settled_subjects(config, resolved, inputs), revisions=revisions)
    for name, warning in inputs.warnings():
        say(config, f"warning: {name}: {warning}")

    elsewhere = _elsewhere(config, run)
    conditions = {model.id: inputs.conditions(model, elsewhere=elsewhere) for model in run.unedited}
    measured_under = {model: own.fingerprint for model, own in conditions.items()}
    if previous is None:
        _require_room_and_tools(config, run, devices)
        directory = RunDirectory(run, _arrivals(config, run, inputs, conditions))
        directory.create(measured_under, workers=several_processes(config) or run.settings.ray is not None)
        _share_texts(config, run, inputs)
        return PreparedRun(run, directory, inputs, conditions, None, replaces_pack)
    previous.require_same_plan(run)
    say(config, "looking at what is there already")
    remove_leftovers(run.out)
    reusable = scan_tunings(run, conditions) if run.tunes else scan_certificates(run, conditions)
    settle_baselines(run, previous, conditions, reusable)
    run = replace(run, reused=reusable.reused)
    _require_room_and_tools(config, run, devices)
    directory = RunDirectory(run, _arrivals(config, run, inputs, conditions))
    directory.go_on(previous.session, measured_under, [item for item in run.requests if item.id in reusable.refused])
    _share_texts(config, run, inputs)
    return PreparedRun(run, directory, inputs, conditions, reusable, replaces_pack)


def _check_models(config: pytest.Config, run: Run, inputs: CheckedInputs) -> None:
    """Check the unedited models, and that what the run asks for fits them.

    Raises:
        ConfigurationError: something about them cannot be used.
    """
    from pytest_proofpack.engine.scopes import require_layers

    for model in run.unedited:
        prepared = inputs.prepare(model)
        require_layers(run, prepared.spec)
        if warning := require_enough_windows(run, model.id, prepared.plan):
            say(config, f"warning: {warning}")


def _require_room_and_tools(config: pytest.Config, run: Run, devices: ProcessDevices) -> None:
    """Make sure of what is still to be made: that it has room, and that the tools are here that it calls.

    Raises:
        ConfigurationError: the one or the other is missing.
    """
    from pytest_proofpack.engine.tool_checks import remove_products, require_tools, tool_edits

    require_space(run)
    if tool_edits(run.requests):
        device = None if _elsewhere(config, run) else devices.devices[0].kind
        require_tools(run, device, processes=len(getattr(config.option, "tx", None) or [""]))
        config.add_cleanup(partial(remove_products, run.out))


def _share_texts(config: pytest.Config, run: Run, inputs: CheckedInputs) -> None:
    """Until the session ends, let workers of this host use the windows of text that were cut here."""
    from pytest_proofpack.engine.shared_text import forget_texts, share_text

    if any_here(config):
        config.add_cleanup(partial(forget_texts, run))
        needed = {request.model.id for request in run.to_be_made}
        for model in run.unedited:
            if model.id in needed:
                share_text(run, inputs.prepare(model))


def _arrivals(config: pytest.Config, run: Run, inputs: CheckedInputs, conditions: Mapping[str, Conditions]) -> Arrivals:
    """Fix the inputs that every certificate has to be of; digests only where they have been computed anyway."""
    compared = {request.model.id for request in run.requests if request.subject or request.id in run.reused}
    return Arrivals(
        run,
        conditions,
        states={model.id: inputs.states(model) for model in run.unedited},
        digests={model: conditions[model].weights() for model in compared},
        elsewhere=_elsewhere(config, run),
    )


def _elsewhere(config: pytest.Config, run: Run) -> bool:
    """Tell whether processes on other hosts make certificates, as they may in a cluster."""
    return run.settings.ray is not None or not all_here(config)


def _claim(config: pytest.Config, asked: Run) -> tuple[Run, PreviousRun | None]:
    """Take the run directory for this session; return what earlier ones have left there to go on with.

    What they have tuned, or gone without, the run that is returned has from them.
    """
    claim = contextlib.ExitStack()
    claim.enter_context(claimed(asked))
    config.add_cleanup(claim.close)
    if not holds_run(asked.out):
        return asked, None
    previous = read_previous_run(asked.out)
    if asked.untuned:
        asked = with_tuned_edits(asked, previous.tuned)
    previous.require_same_options(asked)
    return asked, previous


def _replaces_pack(asked: Run) -> bool:
    """Tell whether a pack lies where that of the run goes, and make sure that it is one of this run."""
    if not holds_pack(asked):
        return False
    from pytest_proofpack.pack.replace import require_own_pack

    assert asked.pack_dir is not None
    require_own_pack(asked.pack_dir, asked.suite.name)
    return True


def _with_settled_subjects(config: pytest.Config, run: Run, inputs: CheckedInputs) -> Run:
    """Read the subjects' files and let the suite's document say what they are and what their edits are called.

    What cannot be used is told here, all of it; its own items fail, and those of the others are made.

    Raises:
        ConfigurationError: none of them can be used, or one is not there at all.
    """
    if not run.subjects:
        return run
    for folder in (folder for text in run.settings.subject for folder in left_out_at(Path(text).expanduser())):
        say(config, f"left out: {folder}: holds no config.json, adapter_config.json or GGUF file")
    (baseline,) = run.suite.models
    subjects = {request.scenario.id: request for request in run.requests if request.subject is not None}
    found: dict[str, PreparedSubject] = {}
    refused: dict[str, str] = {}
    digests: dict[str, str] = {}
    for scenario, request in subjects.items():
        try:
            found[scenario] = inputs.prepare_subject(request)
            digests[scenario] = found[scenario].digest
        except ConfigurationError as error:
            refused[scenario] = str(error)
            with contextlib.suppress(ConfigurationError):
                digests[scenario] = inputs.subject_digest(request)
    if subjects and (not found or digests.keys() != subjects.keys()):
        refuse([message.rstrip(".") for message in refused.values()], "")
    for scenario, message in refused.items():
        say(config, f"refused: {scenario}: {message}")
    told = {scenario: subject.label for scenario, subject in found.items()}
    own = replace(run.plan, requests=run.requests)
    suite = settled_suite(run.suite, own, inputs.digest(baseline), digests, inputs.has_same_values, told=told)
    return replace(run, suite=suite)
