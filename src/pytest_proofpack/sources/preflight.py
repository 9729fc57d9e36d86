"""Before the first item: every model and data set of the run pinned to a commit, on this machine, and whole.

The controller resolves the run once and sends the pins to its workers; each process then finds the snapshots in its own
cache, offline. For a run that reads nothing from the hub, huggingface_hub is not even imported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from pytest_proofpack.common.problems import refuse
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role
from pytest_proofpack.plan.places import misnamed
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.runs.run import Run
from pytest_proofpack.sources.pinning import given_pins, resolved_run, revisions_of
from pytest_proofpack.sources.source import Snapshot, Source, SourceKey, sources_of


def resolve_sources(run: Run, say: Callable[[str], None], command: str) -> tuple[Run, Revisions]:
    """Return the run with every model and data set at a commit and in a directory, and its revisions document.

    With network, whatever is not pinned is resolved now, and whatever is missing is downloaded. Without, everything has
    to be pinned and in the cache, and no socket is opened. Either way, every file that is going to be used is compared
    with what the commit holds.

    Args:
        run: the run as the user asked for it.
        say: takes lines about progress.
        command: what the user would type to fetch what is missing, for messages.

    Raises:
        ConfigurationError: with one line for everything that cannot be used.
    """
    sources = sources_of(run)
    _require_no_files(run, sources)
    pins = given_pins(run, sources)
    found: dict[SourceKey, Snapshot] = {}
    if sources and run.settings.net:
        from pytest_proofpack.sources.hub import fetch
        from pytest_proofpack.sources.hub_client import Hub

        found = fetch(Hub(), sources, pins, say)
    elif sources:
        found = _from_cache(run, sources, pins, command)
    return resolved_run(run, found), revisions_of(run, {place: entry.pin for place, entry in found.items()})


def located_model(model: ModelSpec, *, verify: bool) -> ModelSpec:
    """Return a pinned model with its directory in this machine's cache; a local one as it is.

    Args:
        model: the model.
        verify: compare its files with what the commit holds. The controller has done so on its own machine.

    Raises:
        ConfigurationError: it is not there, or not whole.
    """
    if model.path is not None or model.revision is None:
        return model
    source = Source(Role.MODEL, model.id, model.id, model.revision, remote_code=model.trust_remote_code)
    found = _located(source, model.revision, verify=verify)
    return replace(model, path=found.path, files=found.files)


def located_text(text: TextSpec, *, verify: bool) -> TextSpec:
    """Return a text with its data set's directory in this machine's cache; see :func:`located_model`."""
    if text.path is not None or text.dataset is None or text.revision is None:
        return text
    source = Source(Role.DATASET, text.dataset, text.dataset, text.revision, text=text)
    return replace(text, path=_located(source, text.revision, verify=verify).path)


def _require_no_files(run: Run, sources: tuple[Source, ...]) -> None:
    """Make sure that no file of this machine, a checkpoint's weights for one, is taken for an id of the hub.

    Raises:
        ConfigurationError: one is; names its directory.
    """
    files = [source.id for source in sources if _is_by_option(run, source) and Path(source.id).is_file()]
    refuse([f"{file}: {misnamed(file)}" for file in files], "")


def _is_by_option(run: Run, source: Source) -> bool:
    """Tell whether an option names a model, where a directory's path stands as well as an id of the hub."""
    given = run.settings
    return source.role is not Role.DATASET and bool(given.baseline or given.subject or given.model)


def _unpinned(run: Run, source: Source) -> tuple[str, bool]:
    """Return what is wrong with a source that nobody has pinned, and whether the hub may have it."""
    no_commit = f"no commit is pinned for {source.revision or 'its default branch'}"
    if _is_by_option(run, source):
        if (local := misnamed(source.id)) is not None:
            return f"{source}: {local}", False
        return f"{source}: here is no such directory, and of the model of the hub {no_commit}", True
    if source.role is Role.DATASET and run.settings.baseline is not None:  # which nobody has named
        return f"no text is given (--proofpack-text=FILE), and of {source}, which is read instead, {no_commit}", True
    return f"{source}: {no_commit}", True


def _from_cache(
    run: Run, sources: tuple[Source, ...], pins: Mapping[SourceKey, Pin], command: str
) -> dict[SourceKey, Snapshot]:
    found: dict[SourceKey, Snapshot] = {}
    problems: list[str] = []
    missing = False
    for source in sources:
        pin = pins.get(source.key)
        if pin is None or pin.revision is None:
            problem, may_be_there = _unpinned(run, source)
            problems.append(problem)
            missing |= may_be_there
            continue
        try:
            found[source.key] = replace(_located(source, pin.revision, verify=True), pin=pin)
        except ConfigurationError as error:
            problems.append(str(error).rstrip("."))
            missing = True
    refuse(problems, _advice(run, sources, pins, command) if missing else "")
    return found


def _advice(run: Run, sources: tuple[Source, ...], pins: Mapping[SourceKey, Pin], command: str) -> str:
    """Return what to do about models and texts that are not here."""
    advice = f"The network is off. To pin and download what is missing: {command}"
    if len(pins) < len(sources):
        advice += "\nAfter that, --proofpack-revisions=RUN/state/model_revisions.json reruns it offline."
        unpinned = [source for source in sources if source.key not in pins and not _is_by_option(run, source)]
        models = [printable(source.id) for source in unpinned if source.role is not Role.DATASET]
        if models:
            advice += f" A model in a directory is given by its path, and here is no directory {' or '.join(models)}."
        if len(models) < len(unpinned) and run.settings.baseline is None:
            advice += " A text of your own is given as --proofpack-text=FILE."
    return advice


def _located(source: Source, commit: str, *, verify: bool) -> Snapshot:
    """Return a source's snapshot in the cache.

    Raises:
        ConfigurationError: it is not there, or not whole.
    """
    from pytest_proofpack.sources.hub_cache import files_below, snapshot_directory, snapshot_problem
    from pytest_proofpack.sources.needed_files import needed_files

    directory = snapshot_directory(source, commit)
    if verify or not directory.is_dir():
        problem = snapshot_problem(source, commit, None)
        if problem is not None:
            raise ConfigurationError(f"{problem}.")
    return Snapshot(Pin(commit), directory, needed_files(source, files_below(directory), directory))
