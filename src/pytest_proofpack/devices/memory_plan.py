"""How much memory certificates of a model need, how many devices that takes, and how large batches can be.

Pure arithmetic on a model's shape, done before anything is loaded. What stays in memory (weights, what guards keep of
the baseline, copies of what an edit replaces) is added up. Of what comes and goes (a forward pass, logits, measuring
spectra, editing a matrix) only the largest counts, because these follow each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pytest_proofpack.common.words import memory_size
from pytest_proofpack.devices.memory_factors import (
    activation_bytes,
    batch_sizes,
    kept_bytes,
    logit_bytes,
    reserved_bytes,
    workspace_bytes,
)
from pytest_proofpack.devices.shape import ModelShape
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.activations import activation_contract, calibration_windows
from pytest_proofpack.plan.records import WindowPlan

_SPARE_LANES = 1
"""models/pipeline.py: batches in flight beside one per device, of a model over several."""
_LEFT_FREE = 0.2
"""edits/target.py: share of a device that copies of what an edit replaces leave free."""


@dataclass(frozen=True)
class MemoryPlan:
    """What a model's certificates need. Sizes in bytes; those that come and go are of one device.

    Attributes:
        weights: all weights.
        kept: what the guards keep of the baseline on the devices.
        originals: copies of what an edit replaces, as far as there is room for them; the rest is read again from the
            checkpoint.
        untied: what an injected error gives a tied head: a copy of the embedding, which nothing else makes room for.
        activations: of one batch's forward pass with hooks.
        logits: of one batch's last step.
        workspace: to measure spectra, to edit the largest matrix, to join experts while they are loaded.
        reserve: of every device, see :func:`memory_factors.reserved_bytes`.
        batch_windows: windows per forward pass.
        devices: how many devices the model takes together.
        device_bytes: what each of them must have.
        lanes: batches whose forward passes are under way together, see models/pipeline.py: on a single device one; over
            several as many as find room in what weights and originals leave free anyway, up to one per device and a
            spare one.
    """

    weights: int
    kept: int
    originals: int
    untied: int
    activations: int
    logits: int
    workspace: int
    reserve: int
    batch_windows: int
    devices: int
    device_bytes: int
    lanes: int = 1

    @property
    def evaluation(self) -> int:
        """What measuring a model takes on a device at most, by one batch."""
        return max(self.activations, self.logits)

    @property
    def left_free(self) -> int:
        """What weights and originals must leave free on each device."""
        return self.reserve + self.kept + max(self.untied + self.evaluation, self.workspace)

    @property
    def weights_per_device(self) -> int:
        """What each device may hold of the weights, for a device map."""
        return self.device_bytes - self.left_free

    @property
    def allocated_bytes(self) -> int:
        """Peak over all devices of what tensors take: on one, torch.cuda.max_memory_allocated."""
        measuring = self.lanes * self.evaluation
        edited = self.originals + self.devices * max(measuring, self.workspace)
        return self.weights + self.kept + max(edited, self.untied + self.devices * measuring)

    @property
    def total_bytes(self) -> int:
        """Peak over all devices, with what is reserved."""
        return self.allocated_bytes + self.devices * self.reserve


def plan_memory(
    name: str, shape: ModelShape, windows: WindowPlan, device_bytes: Sequence[int], *, kind: str = "cuda"
) -> MemoryPlan:
    """Decide how many devices a model takes together and how it is evaluated there.

    As few devices as hold it with whatever batch; then the largest batch that fits, up to the usual one, as a power of
    two. More memory never leads to more devices.

    Args:
        name: of the model, for messages.
        shape: of the model.
        windows: how text is cut.
        device_bytes: size of every device there is. Those chosen together may differ: the smallest decides.
        kind: ``cuda``, ``mps``, or ``cpu``, where only one "device" counts, the host's memory.

    Raises:
        ConfigurationError: it fits nowhere; the message has the numbers.
    """
    sizes = sorted(device_bytes, reverse=True)[: 1 if kind == "cpu" else None]
    for devices, size in enumerate(sizes, start=1):
        # Layers are not divided, so all devices but the last may be filled up to one layer less.
        slack = max(shape.layer, shape.embedding * shape.item_bytes) if devices > 1 else 0
        for batch in batch_sizes(windows, kind):
            plan = _plan(shape, windows, batch, kind, devices=devices, size=size)
            share = shape.weights // devices + slack
            if share <= plan.weights_per_device:
                return replace(plan, lanes=_lanes(plan, share))
    least = _plan(shape, windows, 1, kind, devices=1, size=max(sizes, default=0))
    held = ", ".join(map(memory_size, sizes)) or "no device"
    weights, layer, besides = map(memory_size, (shape.weights, shape.layer, least.left_free))
    raise ConfigurationError(
        f"{name}: does not fit. Its weights take {weights}, in layers of {layer}, and each device needs {besides} "
        f"besides its share of them. There is: {held}. Use more or larger devices, or a smaller model; "
        "--proofpack-gpu-memory may limit what is used."
    )


def _plan(shape: ModelShape, windows: WindowPlan, batch: int, kind: str, *, devices: int, size: int) -> MemoryPlan:
    """Return the plan for so many devices of a size, whether or not it fits them."""
    # The calibration windows go through the model in one batch, whatever the batch is.
    together = min(calibration_windows(activation_contract(), windows.seq_len), windows.preview)
    tokens = max(batch, together) * windows.seq_len
    plan = MemoryPlan(
        weights=shape.weights,
        kept=kept_bytes(shape, windows),
        originals=0,
        untied=shape.embedding * shape.item_bytes if shape.tied else 0,
        activations=activation_bytes(shape, tokens, kind),
        logits=logit_bytes(shape, batch * windows.seq_len, kind),
        workspace=workspace_bytes(shape, kind),
        reserve=0 if kind == "cpu" else reserved_bytes(size),
        batch_windows=batch,
        devices=devices,
        device_bytes=size,
    )
    usable = size - plan.reserve - plan.kept - max(plan.left_free, int(_LEFT_FREE * size))
    originals = min(shape.weights, max(0, devices * usable - shape.weights))
    return replace(plan, originals=originals)


def _lanes(plan: MemoryPlan, share: int) -> int:
    """Return how many batches may be in flight on devices of which each holds a share of the weights."""
    left = min(plan.device_bytes - share, max(plan.left_free, int(_LEFT_FREE * plan.device_bytes)))
    fitting = (left - plan.reserve - plan.kept - plan.untied) // max(1, plan.evaluation)
    return max(1, min(fitting, plan.devices + _SPARE_LANES)) if plan.devices > 1 else 1
