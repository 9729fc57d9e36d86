"""Matrices that a checkpoint's files hold as integers of a few bits, packed into words, beside scales and zero points.

Who loads such files sees one dense tensor in place of several packed ones, by the name and of the shape that it has in
the model that was quantized; see :mod:`pytest_proofpack.models.unpacked_file`. A form of checkpoints says which ones
there are, after it has held their headers against each other, so that values are only ever taken from where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.safetensors_files import TensorHeader

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_proofpack.models.files import CheckpointFiles

CODES, ZEROS, SCALES, GROUPS = "qweight", "qzeros", "scales", "g_idx"
"""How the names of a module's packed tensors end; the last one says of which group each input is."""
WORD_TYPES, SCALE_TYPES, GROUP_TYPES = ("I32",), ("F16", "BF16", "F32"), ("I32", "I64")
WORD_BITS = 32
_CONV1D = frozenset({"gpt2", "openai-gpt"})
"""Types of model whose modules hold their matrices the other way round, inputs first, all but the head."""
_HEAD = "lm_head"
_EMBEDDINGS = frozenset({"embed_tokens", "embed_in", "wte", "word_embeddings"})
"""Last names of embeddings, whose inputs are tokens, so that their matrices too hold their inputs first."""
_SLAB = 1 << 22
"""Values that are unpacked at a time."""

Unpack: TypeAlias = "Callable[[Mapping[str, Tensor]], Tensor]"
"""Returns the dense values, of shape (outputs, inputs), of a module's packed tensors by how their names end."""


@dataclass(frozen=True)
class PackedMatrix:
    """A dense matrix that stands in several packed tensors.

    Attributes:
        header: its shape, and the type that its values are unpacked to.
        file: the file that holds its codes, which it is taken to stand in.
        parts: the names of the packed tensors, by how they end.
        values: returns the dense values of these tensors; raises EvaluationError if they hold what can't be.
    """

    header: TensorHeader
    file: Path
    parts: Mapping[str, str]
    values: Unpack


@dataclass(frozen=True)
class PackedModule:
    """What the headers say of a module's packed tensors.

    Attributes:
        name: of the module.
        headers: of its packed tensors, by how their names end.
        files: that hold them.
        inputs_first: whether the dense matrix is of shape (inputs, outputs).
    """

    name: str
    headers: Mapping[str, TensorHeader]
    files: Mapping[str, Path]
    inputs_first: bool

    def shape(self, part: str, types: Collection[str], dimensions: int = 2) -> tuple[int, ...]:
        """Return the shape of one of the tensors.

        Raises:
            ConfigurationError: it is missing, of another type or of another number of dimensions, or empty.
        """
        header = self.headers.get(part)
        if header is None:
            raise self.error(CODES, f"has no {self.name}.{part} beside it")
        if header.dtype not in types or len(header.shape) != dimensions or 0 in header.shape:
            raise self.error(part, f"is {header.dtype} {list(header.shape)}, not {' or '.join(types)} of {dimensions}d")
        return header.shape

    def error(self, part: str, problem: str) -> ConfigurationError:
        """Return the error of packed tensors that don't fit each other, which names the file and the tensor."""
        return ConfigurationError(
            f"{self.files[part]}: {self.name}.{part} {problem}, so nobody can tell what the weights are worth. "
            "Quantize the model again, or save it dense."
        )

    def matrix(self, outputs: int, inputs: int, values: Unpack) -> PackedMatrix:
        """Return the matrix that stands in these tensors."""
        shape = (inputs, outputs) if self.inputs_first else (outputs, inputs)
        return PackedMatrix(
            header=TensorHeader(shape, self.headers[SCALES].dtype),
            file=self.files[CODES],
            parts={part: f"{self.name}.{part}" for part in self.headers},
            values=(lambda parts: values(parts).t().contiguous()) if self.inputs_first else values,
        )


def packed_matrices(
    files: CheckpointFiles, matrix: Callable[[PackedModule], PackedMatrix]
) -> Mapping[str, PackedMatrix]:
    """Return every matrix that a checkpoint holds packed, by the name that it has dense.

    Args:
        files: the checkpoint's.
        matrix: returns what stands in a module's packed tensors.

    Raises:
        ConfigurationError: there is none, though the configuration says so; or packed tensors are missing, don't fit
            each other or stand beside a dense one: names the file and the tensor.
    """
    found = {f"{own.name}.weight": matrix(own) for own in _modules(files)}
    if not found:
        raise ConfigurationError(
            f"{files.path}: config.json says that its weights are quantized by {files.quantization_method}, and no "
            f"tensor is packed so (*.{CODES}). If they are dense, remove quantization_config from config.json."
        )
    return found


def _modules(files: CheckpointFiles) -> Iterator[PackedModule]:
    """Yield every module of which a checkpoint holds codes."""
    stored, places = files.stored, files.places
    swapped = files.claims.get("model_type") in _CONV1D
    for codes in stored:
        module, dot, end = codes.rpartition(".")
        if not dot or end != CODES:
            continue
        last = module.rpartition(".")[2]
        parts = [part for part in (CODES, ZEROS, SCALES, GROUPS) if f"{module}.{part}" in stored]
        own = PackedModule(
            module,
            {part: stored[f"{module}.{part}"] for part in parts},
            {part: places[f"{module}.{part}"] for part in parts},
            inputs_first=(swapped and last != _HEAD) or last in _EMBEDDINGS,
        )
        if f"{module}.weight" in stored:
            raise own.error(CODES, f"stands beside {module}.weight, which is dense")
        yield own


def dequantized(codes: Callable[[int, int], Tensor], zeros: Tensor, scales: Tensor, groups: Tensor) -> Tensor:
    """Return (code - zero point) * scale, computed in the type of the scales, as the tools do; slab by slab.

    Args:
        codes: returns those of some inputs, from one up to another, shape (inputs, outputs).
        zeros: zero points, shape (groups, outputs).
        scales: likewise.
        groups: the group of every input, shape (inputs,).

    Returns:
        Shape (outputs, inputs).
    """
    inputs, outputs = len(groups), scales.shape[1]
    weight = scales.new_empty((outputs, inputs))
    step = max(1, _SLAB // outputs)
    for first in range(0, inputs, step):
        own = groups[first : first + step]
        last = first + len(own)
        weight[:, first:last] = (scales[own] * (codes(first, last) - zeros[own])).t()
    return weight
