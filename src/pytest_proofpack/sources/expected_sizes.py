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
    absent = [model.parameters for model in here.models if model.path is None]
    if absent:
        lines.append(_download_line([count for count in absent if count is not None], len(absent)))
    return lines


def _in_cache(source: Source, pin: Pin | None) -> Snapshot | None:
    if pin is None or pin.revision is None:
        return None
    directory = snapshot_directory(source, pin.revision)
    return Snapshot(pin, directory) if directory.is_dir() else None


def _model_line(model: ModelSpec, memory: str | None) -> str:
    """Return one model's size, place and need for memory."""
    count, disk = model.parameters, "not in the cache"
    if model.path is not None:
        try:
            files = CheckpointFiles.of(model)
            count = files.parameters
            disk = f"{data_size(files.size)} on disk"
        except (ConfigurationError, OSError) as error:
            disk = str(error)
    elif count is not None:
        disk = f"about {data_size(count * BYTES_PER_PARAMETER)} to download in 16 bits"
    size_text = f"{count:,} parameters" if count is not None else "parameters unknown"
    return f"{model.id}: {', '.join(filter(None, (size_text, disk, memory)))}"


def _download_line(counts: list[int], models: int) -> str:
    unknown = f" without the {models - len(counts)} of unknown size" if len(counts) < models else ""
    free = free_space(cache_directory()).bytes
    total = data_size(sum(counts) * BYTES_PER_PARAMETER)
    return f"to download in all: about {total}{unknown}; {data_size(free)} are free in {cache_directory()}"
