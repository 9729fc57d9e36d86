"""Texts that lie on this machine, in a file or in a data set's directory: found, checked and bounded."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec

MAX_TEXT_BYTES = 2 * 1024**3
"""Upper bound on a text; far more text than any certificate is measured on."""


def text_name(spec: TextSpec) -> str:
    """Return how messages call a text."""
    if spec.dataset is not None:
        return f"the split {spec.split} of {spec.dataset}"
    return str(spec.path or f"the {spec.provider} text")


def text_file(spec: TextSpec) -> Path:
    """Return the path of a local text, after the checks that need no reading.

    Raises:
        ConfigurationError: no file is named, or it is missing, no file, or too large.
    """
    path = spec.path
    if path is None:
        raise ConfigurationError(f"the text provider {spec.provider} needs the path of a file.")
    _refuse_nul(path)
    if not path.is_file():
        problem = "is not a file" if path.exists() else "does not exist"
        raise ConfigurationError(f"{path}: {problem}. Name the file that holds the text.")
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        raise ConfigurationError(
            f"{path}: {size} bytes, more than the {MAX_TEXT_BYTES} allowed. A few megabytes are enough: cut a part out."
        )
    return path


def text_files(spec: TextSpec) -> list[Path]:
    """Return the files that a text is read from; none for one that is made up, or from somewhere unknown.

    Raises:
        ConfigurationError: see :func:`dataset_texts`.
    """
    if spec.path is None or not spec.path.is_dir():
        return [] if spec.path is None else [spec.path]
    if spec.dataset is None:
        return []
    from pytest_proofpack.text.parquet import CARD, split_files

    return [*split_files(spec.path, spec.config, spec.split), spec.path / CARD]


def read_text(path: Path) -> str:
    """Return the content of a text file.

    Raises:
        ConfigurationError: it cannot be read, or is not UTF-8.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{path}: line {line} is not UTF-8 ({error.reason} at byte {error.start}). Convert the file to UTF-8."
        ) from error


def unreadable(path: Path, error: OSError) -> ConfigurationError:
    """Return the error of a file that cannot be read."""
    return ConfigurationError(f"{path}: cannot be read ({error.strerror or error}). Make it readable, or name another.")


def dataset_texts(spec: TextSpec) -> Iterator[str]:
    """Yield the texts of the rows of a data set of the hub, or of a sample of them, from its directory.

    Raises:
        ConfigurationError: it is not on this machine, or see :mod:`pytest_proofpack.text.parquet`.
    """
    if spec.path is None:
        raise ConfigurationError(
            f"{text_name(spec)} is not on this machine. Fetch it first, or name a directory that holds it (text.path)."
        )
    _refuse_nul(spec.path)
    from pytest_proofpack.text.parquet import Sample, read_documents, split_files

    files = split_files(spec.path, spec.config, spec.split)
    sample = Sample(spec.documents, spec.seed) if spec.documents else None
    return read_documents(files, spec.field, max_bytes=MAX_TEXT_BYTES, sample=sample)


def _refuse_nul(path: Path) -> None:
    if "\0" in str(path):
        raise ConfigurationError(f"{str(path)!r}: no path can hold the character NUL. Correct text.path.")
