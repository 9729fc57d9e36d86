"""What is known of a run before anything is loaded or downloaded: sizes of its models, and what would be fetched."""

from __future__ import annotations

from collections.abc import Callable

from pytest_proofpack.common.files import free_space
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import BYTES_PER_PARAMETER, CheckpointFiles
from pytest_proofpack.plan.pins import Pin
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.runs.run import Run
from pytest_proofpack.sources.hub_cache import cache_directory, snapshot_directory
from pytest_proofpack.sources.pinning import given_pins, resolved_run
from pytest_proofpack.sources.source import Snapshot, Source, sources_of


def plan_lines(run: Run, memory: Callable[[ModelSpec], str | None] = lambda _: None) -> list[str]:
    """Return what is known of the run's models before anything is loaded or downloaded, for people.

    Args:
        run: the run as the user asked for it.
        memory: returns what is known of a model's need for memory, or None.
    """
    try:
        sources = sources_of(run)
        pins = given_pins(run, sources)
    except ConfigurationError as error:
        return [str(error)]
    cached = {source: _in_cache(source, pins.get(source.key)) for source in sources}
    here = resolved_run(run, {source.key: entry for source, entry in cached.items() if entry is not None})
    lines = [_model_line(model, memory(model)) for model in here.models]
    lines += [
        f"{source}: {source.text.config or 'default config'}, {source.text.split}: "
        + ("in the cache" if cached[source] else "not in the cache")
        for source in sources
        if source.text is not None
    ]
    lines += _text_problems(run)
    absent = [model.parameters for model in here.models if model.path is None]
    if absent:
        lines.append(_download_line([count for count in absent if count is not None], len(absent)))
    return lines


def plan_problems(run: Run) -> list[str]:
    """Return what would end the run at once, as far as that is told by files that are there, or should be.

    Nothing is hashed, and what may yet be fetched is no problem. Each is part of a line of :func:`plan_lines`.
    """
    try:
        sources = sources_of(run)
        given_pins(run, sources)
    except ConfigurationError as error:
        return [str(error)]
    problems = [_problem(model) for model in run.models if model.path is not None]
    return [*filter(None, problems), *_text_problems(run)]


def _text_problems(run: Run) -> list[str]:
    path = run.suite.text.path
    return [] if path is None or path.exists() else [f"{path}: there is no such text"]


def _problem(model: ModelSpec) -> str | None:
    """Return why a model that is here cannot be used; None if its files' names and headers say nothing against it."""
    try:
        files = CheckpointFiles.of(model)
        files.require_loadable()
        files.tensors  # noqa: B018 - reading their headers checks them
        if files.format.addition is None:
            files.config  # noqa: B018 - the same
    except (ConfigurationError, OSError) as error:
        return str(error)
    return None


def _in_cache(source: Source, pin: Pin | None) -> Snapshot | None:
    if pin is None or pin.revision is None:
        return None
    directory = snapshot_directory(source, pin.revision)
    return Snapshot(pin, directory) if directory.is_dir() else None


def _model_line(model: ModelSpec, memory: str | None) -> str:
    """Return one model's size, place and need for memory."""
    count, disk = model.parameters, "not in the cache"
    if model.path is not None:
        if (problem := _problem(model)) is not None:
            return f"{model.id}: {problem}"
        files = CheckpointFiles.of(model)
        count, disk = files.parameters, f"{data_size(files.size)} on disk"
    elif count is not None:
        disk = f"about {data_size(count * BYTES_PER_PARAMETER)} to download in 16 bits"
    size_text = f"{count:,} parameters" if count is not None else "parameters unknown"
    return f"{model.id}: {', '.join(filter(None, (size_text, disk, memory)))}"


def _download_line(counts: list[int], models: int) -> str:
    """Say how much is to be downloaded of models whose sizes are known, of so many that are not here."""
    parts = [f"about {data_size(sum(counts) * BYTES_PER_PARAMETER)}"] if counts else []
    if unknown := models - len(counts):
        parts.append(f"{unknown} model{'s' if unknown > 1 else ''} of unknown size")
    free = free_space(cache_directory()).bytes
    return f"to download in all: {' and '.join(parts)}; {data_size(free)} are free in {cache_directory()}"
