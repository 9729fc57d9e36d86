"""What memory depends on, read from a model's files without loading it, and the plan that follows."""

from __future__ import annotations

from collections.abc import Sequence

from pytest_proofpack.common.words import memory_size
from pytest_proofpack.devices.inventory import CPU, CUDA, Device
from pytest_proofpack.devices.memory_factors import holding_bytes
from pytest_proofpack.devices.memory_plan import MemoryPlan, plan_memory
from pytest_proofpack.devices.shape import ModelShape, guessed_shape, model_shape
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import ModelSpec, WindowPlan
from pytest_proofpack.runs.run import Run

_ENDLESS = 2**60


def read_shape(spec: ModelSpec) -> ModelShape:
    """Return the shape of a model: from its configuration and headers, or guessed from its size if it is not here.

    Raises:
        ConfigurationError: its directory is not what it should be, or nothing is known of its size.
    """
    if spec.path is None and spec.parameters is not None:
        return guessed_shape(spec.parameters)
    files = CheckpointFiles.of(spec)
    return model_shape(files.config, files.tensors)


def expected_plan(run: Run, spec: ModelSpec, devices: Sequence[Device]) -> MemoryPlan:
    """Plan a model's memory before its inputs have been checked, by the windows that models of its size get.

    Raises:
        ConfigurationError: as :func:`plan_model`.
    """
    parameters = spec.parameters if spec.path is None else CheckpointFiles.of(spec).parameters
    return plan_model(spec, run.window_plan(parameters or 0, None), devices)


def memory_text(run: Run, spec: ModelSpec) -> str | None:
    """Say how much memory a model needs on GPUs and on a CPU, before anything is loaded; None if nobody knows its size.

    No machine is asked what it has: a run may be made on another than it is planned on. What ``--proofpack-device``
    rules out is left out.
    """
    asked = run.settings.device
    texts = ([] if asked == CPU else [_on_gpus]) + ([_on_a_cpu] if asked in {"auto", CPU} else [])
    try:
        return f"needs about {'; '.join(text(run, spec) for text in texts)}"
    except ConfigurationError:
        return None


def _on_gpus(run: Run, spec: ModelSpec) -> str:
    plan = expected_plan(run, spec, [Device(0, "", "", _ENDLESS, CUDA)])
    # What is reserved grows with the device: not that of the endless one, but of one that just holds the model.
    size = holding_bytes(plan.weights + plan.left_free - plan.reserve)
    total, besides = memory_size(size), memory_size(size - plan.weights)
    return f"{total} of one GPU, or of several {besides} each besides their share of the weights"


def _on_a_cpu(run: Run, spec: ModelSpec) -> str:
    plan = expected_plan(run, spec, [Device(0, "", "", _ENDLESS, CPU)])
    return f"{memory_size(plan.total_bytes - plan.originals)} of memory for each worker on a CPU, besides torch itself"


def plan_model(spec: ModelSpec, windows: WindowPlan, devices: Sequence[Device]) -> MemoryPlan:
    """Plan a model's memory on these devices. A model cannot be spread over parts of GPUs (MIG).

    Raises:
        ConfigurationError: as :func:`read_shape`, or it fits nowhere.
    """
    sizes = [device.total_bytes for device in devices]
    sizes = [min(sizes)] if devices[0].is_part else sizes
    return plan_memory(spec.id, read_shape(spec), windows, sizes, kind=devices[0].kind)
