"""What transformers gets in place of files of packed weights: dense tensors, unpacked when they are taken.

So the model is built, filled and reported on as the dense one that was quantized, by the names that it had then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.safetensors_files import TensorHeader

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.models.reading import OpenedFile


class Unpacking:
    """How the packed tensors of a checkpoint become dense while it is read.

    Attributes:
        matrices: those that are unpacked, by the name that they have dense; none, mostly.
        parts: the names of what they stand in.
        problem: why one can't be, once that is known.
    """

    def __init__(self, files: CheckpointFiles, take: Callable[[Path, str], Tensor]) -> None:
        """Unpack nothing yet.

        Args:
            files: the checkpoint's.
            take: returns a tensor of a file as it is stored there.
        """
        self.matrices = files.unpacked
        self.parts = files.packed
        self.problem: EvaluationError | None = None
        self._files = files
        self._take = take

    def in_place_of(self, file: OpenedFile, path: Path) -> OpenedFile | UnpackedFile:
        """Return a file as transformers is to see it."""
        return UnpackedFile(file, path, self) if self.matrices else file

    def values(self, name: str) -> Tensor:
        """Return the dense values of a matrix, whose parts may lie in several files.

        Raises:
            EvaluationError: they hold what can't be.
        """
        matrix = self.matrices[name]
        taken = {end: self._take(self._files.places[part], part) for end, part in matrix.parts.items()}
        try:
            return matrix.values(taken)
        except EvaluationError as error:
            self.problem = error
            raise


class UnpackedFile:
    """A file whose packed tensors look like the dense ones that they are worth; all others are as they are."""

    def __init__(self, file: OpenedFile, path: Path, unpacking: Unpacking) -> None:
        self._file = file
        self._unpacking = unpacking
        self._own = {name: own.header for name, own in unpacking.matrices.items() if own.file == path}

    def __enter__(self) -> UnpackedFile:
        return self

    def __exit__(self, *_error: object) -> None:
        """Do nothing: the file is hashed on."""

    def keys(self) -> list[str]:
        """Return the names of the tensors, dense ones in place of those that they stand in."""
        return sorted({*self._file.keys()} - self._unpacking.parts | self._own.keys())

    def metadata(self) -> Mapping[str, str] | None:
        """Return what the header says besides."""
        return self._file.metadata()

    def get_tensor(self, name: str) -> Tensor:
        """Return a tensor."""
        return self._unpacking.values(name) if name in self._own else self._file.get_tensor(name)

    def get_slice(self, name: str) -> Any:
        """Return a tensor that is not read yet."""
        return UnpackedTensor(name, self) if name in self._own else self._file.get_slice(name)

    def get_header(self, name: str) -> TensorHeader:
        """Return shape and type of a matrix that is unpacked."""
        return self._own[name]


class UnpackedTensor:
    """A dense tensor that is unpacked when it is indexed."""

    def __init__(self, name: str, file: UnpackedFile) -> None:
        self._name = name
        self._file = file

    def __getitem__(self, index: Any) -> Tensor:
        """Return a part of the tensor, or all of it (``...``)."""
        return self._file.get_tensor(self._name)[index]

    def get_shape(self) -> list[int]:
        """Return its shape."""
        return list(self._file.get_header(self._name).shape)

    def get_dtype(self) -> str:
        """Return its type in safetensors' words."""
        return self._file.get_header(self._name).dtype
