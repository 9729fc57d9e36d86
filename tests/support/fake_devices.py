"""Two accelerators that really are the CPU: tensors know their device, and an operation on both devices is an error.

For code that places models over several GPUs, on a machine without any. Numbers are those of the CPU's own kernels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any
from unittest import mock

import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from transformers import PreTrainedModel

NAME = "fakegpu"
_CPU = torch.device("cpu")
WATCHERS: list[Callable[[Any, torch.device, Sequence[Tensor], Sequence[Tensor]], None]] = []
"""Called with every operation on a fake device, the device of its result, the tensors that go in and that come out."""

_aten = torch.ops.aten
_ACROSS_DEVICES = (_aten.copy_, _aten._to_copy)
_INDEXED_FROM_THE_HOST = (_aten.index, _aten.index_put_, _aten.index_put, _aten._index_put_impl_)


@contextlib.contextmanager
def two_devices() -> Iterator[tuple[torch.device, torch.device]]:
    """Make two devices for the body, whatever is created on them there, and yield them."""
    _register()
    # Wrappers cannot be views of tensors in inference mode.
    with mock.patch.object(torch, "inference_mode", torch.no_grad), _devices(), torch.no_grad():
        yield torch.device(NAME, 0), torch.device(NAME, 1)


def spread(model: PreTrainedModel, first: torch.device, second: torch.device) -> None:
    """Place a model as accelerate would: embeddings and the first block on one device, the rest on the other.

    Tied weights stay so, on the first device.
    """
    blocks = {id(block) for module in model.modules() if isinstance(module, nn.ModuleList) for block in module}
    early, placed = _early(model), dict[int, Tensor]()
    for module in model.modules():
        place = first if id(module) in early else second
        for name, own in module.named_parameters(recurse=False):
            moved = placed.setdefault(id(own), nn.Parameter(own.detach().to(place), requires_grad=False))
            placed[id(moved)] = moved
            setattr(module, name, moved)
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(place))
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


class PlacedTensor(Tensor):
    """A tensor that says that it is on a fake device; ``on_host`` is the one of the CPU that holds its values."""

    on_host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, on_host: Tensor, device: torch.device) -> PlacedTensor:
        made: PlacedTensor = torch.Tensor._make_wrapper_subclass(
            cls,
            on_host.shape,
            strides=on_host.stride(),
            storage_offset=on_host.storage_offset(),
            dtype=on_host.dtype,
            device=device,
        )
        made.on_host = on_host
        return made

    def data_ptr(self) -> int:
        """Return the address of the first value, which no two devices share."""
        return self.on_host.data_ptr()

    def tolist(self) -> Any:
        """Return the values, which torch does for its own class only."""
        return self.on_host.tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.on_host!r} on {self.device}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        with _devices():
            return func(*args, **(kwargs or {}))


class _Devices(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Runs every operation on the CPU, after a look at the devices of what goes in."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _flat((args, kwargs or {}))
        asked = next((value for value in given if isinstance(value, torch.device)), None)
        tensors = [value for value in given if isinstance(value, Tensor)]
        if func.overloadpacket is _aten.to:  # as a composite it would return the same tensor for another device
            with self:
                return func.decompose(*args, **(kwargs or {}))
        place = asked or _common_device(func, tensors)
        wrappers = {id(value.on_host): value for value in tensors if isinstance(value, PlacedTensor)}
        args, kwargs = _mapped(_unplaced, args), _mapped(_unplaced, kwargs or {})
        result = _histogram(*args, **kwargs) if func.overloadpacket is _aten.histc else func(*args, **kwargs)

        def placed(value: Any) -> Any:
            if not isinstance(value, Tensor) or place.type != NAME:
                return value
            return wrappers[id(value)] if id(value) in wrappers else PlacedTensor(value, place)

        result = _mapped(placed, result)
        if WATCHERS and (wrappers or place.type == NAME):
            for watcher in WATCHERS:
                watcher(func, place, tensors, [value for value in _flat(result) if isinstance(value, Tensor)])
        return result


def _mapped(change: Callable[[Any], Any], values: Any) -> Any:
    """Change everything in what an operation takes or gives; torch's own way costs more than the operation does."""
    kind = type(values)
    if kind in {tuple, list}:
        return kind(_mapped(change, value) for value in values)
    if kind is dict:
        return {name: _mapped(change, value) for name, value in values.items()}
    return change(values)


def _flat(values: Any) -> list[Any]:
    """Return everything in what an operation takes or gives."""
    if type(values) in {tuple, list}:
        return [one for value in values for one in _flat(value)]
    if type(values) is dict:
        return [one for value in values.values() for one in _flat(value)]
    return [values]


def _devices() -> _Devices:
    return _Devices()  # type: ignore[no-untyped-call]


def _common_device(func: Any, tensors: list[Tensor]) -> torch.device:
    """Return the device of an operation's result.

    Raises:
        RuntimeError: what goes in lies on several, as CUDA raises.
    """
    ours = [value.device for value in tensors if value.device.type == NAME]
    if func.overloadpacket in _ACROSS_DEVICES:
        return tensors[0].device
    if func.overloadpacket in _INDEXED_FROM_THE_HOST:
        tensors = [value for value in tensors if value.device.type == NAME] or tensors
    found = {value.device for value in tensors if value.ndim or value.device.type == NAME}
    if len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, {sorted(map(str, found))}"
            f" (when running {func})"
        )
    return ours[0] if ours else _CPU


def _histogram(values: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Count integers too, as CUDA does and a CPU does not."""
    return torch.histc(values.double(), *args, **kwargs).to(values.dtype)


def _unplaced(value: Any) -> Any:
    if isinstance(value, PlacedTensor):
        return value.on_host
    return _CPU if isinstance(value, torch.device) and value.type == NAME else value


@cache
def _register() -> None:
    _setup_privateuseone_for_python_backend(NAME)
