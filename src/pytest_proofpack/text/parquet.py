"""Texts of a data set that lies on this machine: its card, the parquet files of a split, and the documents in them.

Files are read one row group and one column at a time. Dictionaries are kept as such, so that a file of a few bytes
cannot unfold into gigabytes; sizes and numbers of rows that a file declares are checked before it is read.
"""

from __future__ import annotations

import codecs
import os
import random
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.words import first_of
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.text.dataset_layout import MAX_PATHS, select_files

CARD = "README.md"
MAX_DOCUMENTS = 10_000_000
"""Upper bound on documents of one text."""

_MAX_CARD_BYTES = 4 << 20
_MAX_CARD_DEPTH = 32
_MERGE_TAG = "tag:yaml.org,2002:merge"
_FRONT_MATTER = b"---"
_ROWS_PER_BATCH = 1024
_BUFFER_BYTES = 1 << 20
_MAX_LISTED_COLUMNS = 20
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
_MAX_ROWS = 1 << 40
_DAMAGED = " It is damaged or incomplete: download it again."
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Sample:
    """Which documents to take of a data set: ``documents`` of them, at rows drawn with ``seed``."""

    documents: int
    seed: int


def split_files(directory: Path, config: str | None, split: str) -> list[Path]:
    """Return the parquet files of a split below a data set's directory, in the order in which they are to be read.

    Raises:
        ConfigurationError: there is no such directory, or see :func:`read_card` and
            :func:`pytest_proofpack.text.dataset_layout.select_files`.
    """
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise ConfigurationError(f"{directory}: {problem}. Name the directory that holds the data set's files.")
    paths: list[str] = []
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths += [Path(folder, name).relative_to(directory).as_posix() for name in names]
        if len(paths) > MAX_PATHS:
            raise ConfigurationError(f"{directory}: holds more than {MAX_PATHS} files. Name the data set's directory.")
    try:
        chosen = select_files(paths, read_card(directory / CARD), config, split)
    except ConfigurationError as error:
        raise ConfigurationError(f"{directory}: {error}") from error
    return [directory / name for name in chosen]


def read_card(file: Path) -> dict[str, Any] | None:
    """Return the front matter of a data set's README.md; None if there is no such file or it has none.

    Front matter stands between two lines ``---`` at the top, within the first 4 MiB.

    Raises:
        ConfigurationError: it cannot be read, or is not plain YAML: nested too deeply, or with merge keys, by which a
            few lines can unfold into gigabytes.
    """
    if not file.is_file():
        return None
    try:
        with file.open("rb") as stream:
            lines = stream.read(_MAX_CARD_BYTES).removeprefix(codecs.BOM_UTF8).lstrip().splitlines()
        marks = [number for number, line in enumerate(lines) if line.rstrip() == _FRONT_MATTER][:2]
        if len(marks) < 2 or marks[0] > 0:
            return None
        front = b"\n".join(lines[1 : marks[1]]).decode()
        _require_plain_yaml(front, file)
        card = yaml.load(front, Loader=_LOADER)  # noqa: S506 - one of the safe loaders
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:400]
        raise ConfigurationError(
            f"{file}: the YAML at its top cannot be read ({reason}). Choose another revision of the data set."
        ) from error
    if card is not None and not isinstance(card, dict):
        raise ConfigurationError(f"{file}: the YAML at its top is no mapping. Choose another revision of the data set.")
    return card


def _require_plain_yaml(front: str, file: Path) -> None:
    """Refuse deep nesting and merge keys, from the parser's events, before anything is built."""
    depth = 0
    for event in yaml.parse(front, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        merges = isinstance(event, yaml.ScalarEvent) and (event.value == "<<" or event.tag == _MERGE_TAG)
        if depth > _MAX_CARD_DEPTH or merges:
            problem = "is nested too deeply" if depth > _MAX_CARD_DEPTH else "has merge keys (<<)"
            raise ConfigurationError(f"{file}: the YAML at its top {problem}. Choose another revision of the data set.")


def read_documents(files: Sequence[Path], field: str, *, max_bytes: int, sample: Sample | None = None) -> Iterator[str]:
    """Yield the texts in the column ``field`` of parquet files, row by row, file by file.

    Every file's footer is checked before the first text comes. At most one column of one row group is in memory.

    Args:
        files: the files, in order.
        field: the column that holds the text.
        max_bytes: how much text, as UTF-8, there may be in all.
        sample: takes so many rows only, drawn without replacement from all rows of all files; in the files' order.
            None, or a sample that asks for as many rows as there are, takes every row.

    Raises:
        ConfigurationError: a file is no parquet or damaged; has no such column (the message lists those it has), or
            one that is no text; holds a null, invalid UTF-8, too much text or another number of rows than it declares.
    """
    counts = [_rows_of_groups(file, field) for file in files]
    rows = sum(map(sum, counts))
    wanted: Sequence[int] = range(rows)
    if sample is not None and sample.documents < rows:
        # Not numpy: its choice() can take memory for all rows; this takes it for those that are chosen.
        wanted = sorted(random.Random(sample.seed).sample(wanted, sample.documents))
    if len(wanted) > MAX_DOCUMENTS:
        raise ConfigurationError(
            f"{_names(files)}: {len(wanted)} rows, more than the {MAX_DOCUMENTS} allowed. Take a sample of them "
            "(text.documents), or another config or split."
        )
    left = max_bytes
    first = 0
    for file, groups in zip(files, counts, strict=True):
        for text in _texts(file, field, _Rows(groups, first, wanted)):
            left -= len(text.encode())
            if left < 0:
                raise ConfigurationError(
                    f"{_names(files)}: more than the {max_bytes} bytes of text allowed. A few megabytes are enough: "
                    "take a sample (text.documents), or another config or split."
                )
            yield text
        first += sum(groups)


@dataclass(frozen=True)
class _Rows:
    """The rows of one file: how many its row groups have, the number of its first one, and all rows that are wanted."""

    groups: Sequence[int]
    first: int
    wanted: Sequence[int]

    def within(self, start: int, end: int) -> Sequence[int]:
        """Return the wanted rows from ``start`` up to ``end``."""
        return self.wanted[bisect_left(self.wanted, start) : bisect_left(self.wanted, end)]


def _texts(file: Path, field: str, rows: _Rows) -> Iterator[str]:
    """Yield the wanted texts of one file."""
    start = rows.first
    with _open(file, dictionaries=[field]) as parquet:
        for group, declared in enumerate(rows.groups):
            end = start + declared
            if rows.within(start, end):
                batches = parquet.iter_batches(_ROWS_PER_BATCH, [group], [field], use_threads=False)
                for batch in batches:
                    column = batch.column(0)
                    for row in rows.within(start, min(start + len(column), end)):
                        text = column[row - start].as_py()
                        if text is None:
                            raise ConfigurationError(
                                f"{file}: row {row - rows.first} of the column {field!r} is null. Choose a data set "
                                "without gaps, or another column (text.field)."
                            )
                        yield text
                    start += len(column)
                if start != end:
                    raise ConfigurationError(
                        f"{file}: declares {declared} rows in its row group {group} but holds {start - end + declared}."
                        f"{_DAMAGED}"
                    )
            start = end


def _rows_of_groups(file: Path, field: str) -> list[int]:
    """Return the number of rows of every row group, after checking that the column is there and holds text."""
    with _open(file) as parquet:
        schema, metadata = parquet.schema_arrow, parquet.metadata
        found = schema.get_all_field_indices(field)
        if len(found) != 1:
            problem = f"the column {field!r} {len(found)} times" if found else f"no column {field!r}"
            listed = ", ".join(map(repr, schema.names[:_MAX_LISTED_COLUMNS]))
            more = ", ..." if len(schema.names) > _MAX_LISTED_COLUMNS else ""
            raise ConfigurationError(f"{file}: has {problem}. Its columns are {listed}{more}; name one as text.field.")
        kind = schema.field(found[0]).type
        if (kind.value_type if pa.types.is_dictionary(kind) else kind) not in _TEXT_TYPES:
            raise ConfigurationError(
                f"{file}: the column {field!r} holds {str(kind)[:200]}, not text. Name another one as text.field."
            )
        paths = [parquet.schema.column(column).path for column in range(len(parquet.schema))]
        if paths.count(field) != 1:  # a nested column b of a column a has the same path as a column a.b
            raise ConfigurationError(
                f"{file}: the column {field!r} cannot be told from a part of another one. Name another as text.field."
            )
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        if min(groups, default=0) < 0 or sum(groups) != metadata.num_rows or sum(groups) > _MAX_ROWS:
            raise ConfigurationError(f"{file}: declares {metadata.num_rows} rows, which cannot be.{_DAMAGED}")
        return groups


@contextmanager
def _open(file: Path, dictionaries: Sequence[str] = ()) -> Iterator[pq.ParquetFile]:
    """Open a parquet file, to read some columns as dictionaries; name the file in errors of pyarrow."""
    try:
        with pq.ParquetFile(
            file,
            read_dictionary=list(dictionaries),
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        ) as parquet:
            yield parquet
    except (pa.ArrowException, OSError, MemoryError, UnicodeDecodeError) as error:
        if (shortage := what_ran_out(error)) is not None:
            raise ConfigurationError(f"{file}: cannot be read: {shortage}") from error
        reason = " ".join(str(error).split())[:400]
        raise ConfigurationError(f"{file}: cannot be read as parquet ({reason}).{_DAMAGED}") from error


def _names(files: Sequence[Path]) -> str:
    return first_of([str(file) for file in files], 1)
