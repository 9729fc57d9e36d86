"""The matrices of a model: 2-D views, rows = outputs and columns = inputs, on the storage of parameters.

What is viewed as one matrix:

- a linear layer's weight as it is, a Conv1D's transposed;
- a parameter that stacks experts, along a dimension of its own or in its rows: one matrix per expert, transposed where
  the experts of a 3-D parameter multiply from the right;
- a fused query-key-value matrix: queries, keys and values apart, where the layout knows how they are packed;
- a fused gate and up matrix of a feed-forward layer, dense or per expert: the two halves of its rows apart. It is
  told by its sibling, the down matrix: gate-up has shape (2a, b) where down has (b, a).

Which parameters hold weight matrices, the layout says (``weights``): edits change these. Others of two and more
dimensions (decays of state spaces, weights of convolutions, a gate of one row) are measured as matrices, too; the 2-D
biases beside 3-D expert parameters are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.layout import ModelLayout, ParameterGroup
from pytest_proofpack.models.qkv import QkvPacking
from pytest_proofpack.models.slabs import row_slabs


@dataclass(frozen=True)
class MatrixView:
    """One matrix inside a parameter.

    Attributes:
        parameter: the parameter's name.
        part: which part of it, for example ``expert3.gate`` or ``key``; "" if the view is the whole parameter.
        group: the parameter's group.
        tensor: a view on the parameter's storage whose last dimension is the columns; the others are the rows.
    """

    parameter: str
    part: str
    group: ParameterGroup
    tensor: Tensor

    @property
    def label(self) -> str:
        """The view's unique name: ``parameter`` or ``parameter[part]``."""
        return f"{self.parameter}[{self.part}]" if self.part else self.parameter

    def read(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a copy of the matrix, shape (rows, columns)."""
        return self.tensor.detach().to(dtype, copy=True).reshape(-1, self.tensor.shape[-1])

    def write(self, matrix: Tensor) -> None:
        """Put a matrix of shape (rows, columns) in place, in the parameter's own dtype."""
        with torch.no_grad():
            self.tensor.copy_(matrix.reshape(self.tensor.shape))

    def slabs(self) -> list[MatrixView]:
        """Return the matrix as parts of whole rows, in order, each of bounded size."""
        return [replace(self, tensor=part) for part in row_slabs(self.tensor)]

    def set_element(self, row: int, column: int, value: float) -> None:
        """Overwrite one element."""
        index = [int(i) for i in torch.unravel_index(torch.tensor(row), self.tensor.shape[:-1])]
        with torch.no_grad():
            self.tensor[(*index, column)] = value

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        columns = self.tensor.shape[-1]
        return self.tensor.numel() // columns, columns


def every_matrix(model: PreTrainedModel, layout: ModelLayout) -> list[MatrixView]:
    """Return all weight matrices of the model, embeddings, head and router included."""
    return matrix_views(
        model, layout, [name for name in layout.groups if layout.groups[name] is not ParameterGroup.NORM]
    )


def matrix_views(
    model: PreTrainedModel, layout: ModelLayout, names: Iterable[str], values: Mapping[str, Tensor] | None = None
) -> list[MatrixView]:
    """Return the weight matrices inside the named parameters; vectors, biases, decays and convolutions have none.

    Args:
        model: the model.
        layout: its structure.
        names: of parameters.
        values: tensors of the same shapes to view in their place, such as another model's.

    Raises:
        ConfigurationError: a parameter is not in memory (offloaded by accelerate).
    """
    views = []
    for name in names:
        parameter = model.get_parameter(name)
        if parameter.is_meta:
            raise ConfigurationError(f"{name} is offloaded, so it cannot be edited. Use a device with more memory.")
        parameter_group = layout.groups[name]
        held = parameter if values is None else values[name]
        views += [MatrixView(name, part, parameter_group, own) for part, own in matrix_parts(model, layout, name, held)]
    return views


def matrices_and_vectors(
    model: PreTrainedModel, layout: ModelLayout, names: Iterable[str], values: Mapping[str, Tensor] | None = None
) -> tuple[list[MatrixView], list[str]]:
    """Return the matrices in the named parameters as they are measured, and the names of those that hold none.

    Parameters of two and more dimensions that the layout knows no weights in are matrices whose rows are the entries
    of the first dimension. Empty ones are left out. For the arguments and errors see :func:`matrix_views`.
    """
    names = list(names)
    inner = [name for name in names if layout.groups[name] is not ParameterGroup.NORM]
    views = matrix_views(model, layout, inner, values)
    inside = {view.parameter for view in views}
    vectors = []
    for name in names:
        parameter = model.get_parameter(name) if values is None else values[name]
        if name in inside or not parameter.numel():
            continue
        beside_experts = parameter.ndim == 2 and _holds_experts(model.get_submodule(name.rpartition(".")[0]))
        if layout.groups[name] is not ParameterGroup.NORM and parameter.ndim > 1 and not beside_experts:
            views.append(MatrixView(name, "", layout.groups[name], parameter.flatten(1)))
        else:
            vectors.append(name)
    return views, vectors


def matrix_parts(
    model: PreTrainedModel, layout: ModelLayout, name: str, parameter: Tensor
) -> Iterator[tuple[str, Tensor]]:
    """Yield the weight matrices of one parameter, which holds the values, with the names of their parts.

    Only shapes are looked at, so the model and the values may have no memory.
    """
    owner, count = model.get_submodule(name.rpartition(".")[0]), layout.weights.get(name)
    if count is None or parameter.ndim not in (2, 3):
        return
    if parameter.ndim == 2 and count == 1:
        matrix = parameter.t() if isinstance(owner, Conv1D) else parameter
        if packing := layout.qkv.get(name):
            yield from _split_qkv(matrix, packing)
        else:
            # Elsewhere the shapes may fit by accident: query and output projections of many wide heads do.
            may_be_gate_up = layout.groups[name] is ParameterGroup.FFN
            yield from _split_gate(matrix, may_be_gate_up and _is_gate_up(matrix, _siblings(model, name)))
    elif parameter.ndim == 2:
        for index, matrix in enumerate(torch.unflatten(parameter, 0, (count, -1))):
            yield f"expert{index}", matrix
    else:
        transposed = _multiplies_from_the_right(owner)
        oriented = [_oriented(own, transposed) for own in _expert_parameters(owner)]
        fused = _is_gate_up(_oriented(parameter, transposed), oriented)
        for index, expert in enumerate(_oriented(parameter, transposed)):
            for part, matrix in _split_gate(expert, fused, concatenated=getattr(owner, "is_concatenated", True)):
                yield f"expert{index}.{part}".removesuffix("."), matrix


def _split_qkv(matrix: Tensor, packing: QkvPacking) -> Iterator[tuple[str, Tensor]]:
    """Yield queries, keys and values; views have shape (..., columns)."""
    group = packing.heads // packing.kv_heads
    if packing.interleaved:
        grouped = torch.unflatten(matrix, 0, (packing.kv_heads, group + 2, packing.head_dim))
        yield "query", grouped[:, :group]
        yield "key", grouped[:, group]
        yield "value", grouped[:, group + 1]
    else:
        sizes = [count * packing.head_dim for count in (packing.heads, packing.kv_heads, packing.kv_heads)]
        yield from zip(("query", "key", "value"), torch.split(matrix, sizes), strict=True)


def _split_gate(matrix: Tensor, fused: bool, *, concatenated: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield the halves of a fused gate-up matrix, or the matrix as it is."""
    if not fused:
        yield "", matrix
    elif concatenated:
        yield from zip(("gate", "up"), matrix.chunk(2), strict=True)
    else:
        yield from zip(("gate", "up"), (matrix[0::2], matrix[1::2]), strict=True)


def _is_gate_up(matrix: Tensor, siblings: Iterable[Tensor]) -> bool:
    """Tell whether ``matrix``, with shape (..., 2a, b), has a sibling of shape (..., b, a)."""
    rows, columns = matrix.shape[-2:]
    return rows % 2 == 0 and any(sibling.shape[-2:] == (columns, rows // 2) for sibling in siblings)


def _siblings(model: PreTrainedModel, name: str) -> Iterator[Tensor]:
    """Yield the oriented matrices of the modules beside the owner of a 2-D parameter, the owner's included."""
    parent = model.get_submodule(".".join(name.split(".")[:-2]))
    for module in parent.children():
        for own in module.parameters(recurse=False):
            if own.ndim == 2:
                yield own.t() if isinstance(module, Conv1D) else own


def _expert_parameters(owner: nn.Module) -> list[nn.Parameter]:
    return [own for own in owner.parameters(recurse=False) if own.ndim == 3]


def _holds_experts(owner: nn.Module) -> bool:
    return bool(_expert_parameters(owner))


def _oriented(parameter: Tensor, transposed: bool) -> Tensor:
    return parameter.transpose(-1, -2) if transposed else parameter


def _multiplies_from_the_right(owner: nn.Module) -> bool:
    """Tell whether experts hold (inputs, outputs) matrices: by shapes, else by what the module itself says."""
    for transposed in (False, True):
        oriented = [_oriented(own, transposed) for own in _expert_parameters(owner)]
        if any(_is_gate_up(matrix, oriented) for matrix in oriented):
            return transposed
    return bool(getattr(owner, "is_transposed", False))
