"""The work of a run, for whoever hands it out: a job per item, with what it costs, from the models' files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, WindowPlan
from pytest_proofpack.runs.run import Run
from pytest_proofpack.scheduling.costs import (
    CPU,
    GPU,
    PRODUCT_PASSES,
    Job,
    Load,
    ModelSize,
    Speed,
    certificate_seconds,
    kind_of,
    load_of,
)

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_CERTIFICATES_OF_A_CLIMB = 5
"""What tuning an edit takes, roughly: 1 to 8 certificates."""
_DRIVERS = ("/dev/nvidiactl", "/dev/kfd")
"""Device files of the NVIDIA and the AMD driver."""


@dataclass(frozen=True)
class DeviceFacts:
    """What is known about devices before any worker starts.

    Attributes:
        speed: of one of them; None guesses it.
        needed: how many devices each model takes together, by id; one where none is named.
        slots: how many device slots there are for the workers of one host; None for as many as workers.
    """

    speed: Speed | None = None
    needed: Mapping[str, int] = field(default_factory=dict)
    slots: int | None = None


@dataclass(frozen=True)
class Workload:
    """Every item of a run as a job; ``Job.index`` is its position among them."""

    jobs: tuple[Job, ...]
    loads: tuple[Load, ...]


def workload(run: Run, windows: Callable[[ModelSpec], WindowPlan], facts: DeviceFacts) -> Workload:
    """Return the work of a run whose models are all on this machine.

    Args:
        run: the run.
        windows: returns how text is cut for a model.
        facts: about the devices.
    """
    speed = facts.speed or _likely_speed(run.settings.device)
    sizes = {spec.id: model_size(spec, windows(spec), facts.needed.get(spec.id, 1)) for spec in run.unedited}
    jobs: list[Job] = []
    loads: dict[str, Load] = {}
    for index, request in enumerate(run.items):
        size = sizes[request.model.id]
        load = load_of(request, size, speed, _subject_bytes(request))
        loads[load.id] = load
        seconds = certificate_seconds(request, size, speed) * (_CERTIFICATES_OF_A_CLIMB if run.tunes else 1)
        jobs.append(Job(index, load.id, kind_of(request), seconds, request.run))
    return Workload(tuple(jobs), tuple(loads.values()))


def model_size(spec: ModelSpec, plan: WindowPlan, devices: int) -> ModelSize:
    """Return the sizes of a model that is on this machine.

    Raises:
        ConfigurationError: its directory is not what it should be.
    """
    files = CheckpointFiles.of(spec)
    active = files.parameters * _active_share(files.text_config)
    return ModelSize(active, files.size, (plan.preview + plan.final) * plan.seq_len, devices)


def _subject_bytes(request: CertificateRequest) -> int:
    """Return what is read for a request's edited checkpoint, and written if a tool makes it; nothing if refused."""
    if request.subject is None:
        return PRODUCT_PASSES * CheckpointFiles.of(request.model).size if request.loads_its_own else 0
    files = CheckpointFiles.of(request.subject)
    try:
        added_to = 0 if files.format.addition is None else CheckpointFiles.of(request.model).size
        return files.size + added_to
    except ConfigurationError:
        return 0


def _active_share(config: JsonObject) -> float:
    """Return roughly which share of a mixture's parameters one token passes through; 1 for other models."""
    experts = next((config[key] for key in _EXPERTS if isinstance(config.get(key), int)), 0)
    used = config.get("num_experts_per_tok")
    return used / experts if isinstance(used, int) and 0 < used < experts else 1.0


def _likely_speed(device: str) -> Speed:
    if device == "auto":
        return GPU if any(Path(file).exists() for file in _DRIVERS) else CPU
    return GPU if device == "cuda" else CPU
