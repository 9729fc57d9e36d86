"""A model in one file, loaded: transformers is given a copy in memory, which is what was checked and what is hashed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.private_copy import PrivateCopy


class SingleFileCopy:
    """The copy of a model's one file; of a model in another form, nothing.

    Attributes:
        files: of these, the file that is copied; empty for other forms.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        """Copy nothing yet."""
        self._checked = files
        self._digests: dict[Path, str] = {}
        self.files = files.weights if files.format.supported and files.format.single_file is not None else ()

    @property
    def digests(self) -> Mapping[Path, str]:
        """The hexadecimal SHA-256 of what was copied, by the file's path, once it was."""
        return self._digests

    @contextmanager
    def given(self) -> Iterator[Mapping[str, Any]]:
        """Give what ``from_pretrained`` is told besides: the copy that it is to map, as long as the context lasts.

        Raises:
            EvaluationError: the file has changed, or can't be read, or there is no memory for the copy.
        """
        own = self._checked.format.single_file
        if own is None or not self.files:
            yield {}
            return
        (file,) = self.files
        try:
            copy = PrivateCopy(file)
        except OSError as error:
            raise EvaluationError(f"{file}: can't be copied into memory ({error.strerror or error}).") from error
        with copy, own.while_loading(self._checked):
            if not self._is_as_checked(copy, file):
                raise changed_error((file,))
            self._digests[file] = copy.sha256
            yield {own.argument: str(copy.path)}

    def _is_as_checked(self, copy: PrivateCopy, file: Path) -> bool:
        checked = self._checked
        try:
            header = checked.format.header(copy.path)
        except ConfigurationError:
            return False
        return (copy.state, header) == (checked.states[PurePosixPath(file.name)], checked.headers[file])
