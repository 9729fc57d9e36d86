"""Two accelerators that compute nothing: tensors know shape and device, and an operation on both devices is an error.

For code that places models over several GPUs, on a machine without any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cache

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel

NAME = "fakegpu"


@contextlib.contextmanager
def two_devices() -> Iterator[tuple[torch.device, torch.device]]:
    """Make every tensor of the body a fake, and yield two devices for them."""
    _register()
    with FakeTensorMode(), torch.no_grad():
        yield torch.device(NAME, 0), torch.device(NAME, 1)


def spread(model: PreTrainedModel, first: torch.device, second: torch.device) -> None:
    """Place a model as accelerate would: embeddings and the first block on one device, the rest on the other.

    Its weights become fakes.
    """
    blocks = {id(block) for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}
    early, fakes = _early(model), dict[int, torch.Tensor]()
    for module in model.modules():
        place = first if id(module) in early else second
        for name, own in module.named_parameters(recurse=False):
            values = torch.empty(own.shape, dtype=own.dtype, device=place)
            fake = fakes.setdefault(id(own), nn.Parameter(values, requires_grad=False))  # tied ones stay so
            setattr(module, name, fake)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, torch.empty(buffer.shape, dtype=buffer.dtype, device=place))
    for module in model.modules():
        owns = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if module is not model and (owns or id(module) in blocks):
            place = first if id(module) in early else second
            add_hook_to_module(module, _Placed(owns[0].device if owns else place))
    add_hook_to_module(model, _Placed(first, io_same_device=True))


class _Placed(AlignDevicesHook):  # type: ignore[misc]
    """accelerate's hook, for modules that are where they should be already."""

    def init_hook(self, module: nn.Module) -> nn.Module:
        return module


def _early(model: PreTrainedModel) -> set[int]:
    """Return the ids of the modules before and in the first block."""
    found = set()
    for name, module in model.base_model.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in {"layers", "h", "blocks"}:
            found |= {id(inner) for inner in module[0].modules()}
        if isinstance(module, nn.Embedding) or "rotary" in name:
            found.add(id(module))
    return found


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
