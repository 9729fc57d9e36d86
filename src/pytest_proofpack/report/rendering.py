"""The one jinja2 environment that every template is rendered in."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import FormatError
from pytest_proofpack.report import formatting

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

ROWS_SHOWN = 40
"""How many rows a table of free-form values shows; the rest is counted and left to the JSON."""
_MAX_COLUMNS = 8
_WHOLE = re.compile(
    r"\d{4}-\d\d-\d\dT[\d:.]{5,20}Z|[−+]?\d[\d.,]{0,15} (?:%(?: interval\b)?|(?:[kMG]B|[KMG]iB|nats|s|bits)\b)"
)
"""What a line is not to be broken in: a number with its unit, a time."""
_SHORT = 6


@dataclass(frozen=True)
class Grid:
    """Records of one kind, to be shown as one table.

    Attributes:
        columns: every key that occurs, in order of first appearance.
        rows: the record's name (empty for records of a list) and its values by column.
        hidden: how many records are not among ``rows``.
    """

    columns: list[str]
    rows: list[tuple[str, list[Any]]]
    hidden: int


@dataclass(frozen=True)
class Inline:
    """A style sheet or a script that stands in a page.

    Attributes:
        text: as it stands there, markup that is not escaped.
        digest: as the page's content security policy names it, so that no other one is heeded.
    """

    text: Markup
    digest: str


def render(template: str, **values: object) -> str:
    """Render one of the package's templates."""
    return _environment().get_template(template).render(style=inline_file("style.css"), **values)


@cache
def inline_file(name: str) -> Inline:
    """Return a style sheet or a script of the package, to stand in a page."""
    from markupsafe import Markup

    text = resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Inline(Markup(text), f"sha256-{digest}")  # noqa: S704 - the package's own file


def relative_url(path: str) -> str:
    """Return the quoted relative URL of a path below the page's own folder.

    Raises:
        FormatError: the path is absolute, empty or leaves the folder.
    """
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise FormatError(f"{path!r} cannot be linked: it must lie below the page's own folder")
    return quote(path, errors="surrogatepass")


def grid(value: object) -> Grid | None:
    """Return ``value`` as a table if it is a mapping or a list of records whose values fit a cell, else None."""
    if isinstance(value, Mapping):
        records = [(str(name), record) for name, record in value.items()]
    elif isinstance(value, list):
        records = [("", record) for record in value]
    else:
        return None
    if not records or not all(_is_record(record) for _, record in records):
        return None
    columns = formatting.unique(str(key) for _, record in records for key in record)
    if not 0 < len(columns) <= _MAX_COLUMNS:
        return None
    rows = [(name, [record.get(column) for column in columns]) for name, record in records[:ROWS_SHOWN]]
    return Grid(columns, rows, max(0, len(records) - ROWS_SHOWN))


def _is_record(value: object) -> bool:
    return isinstance(value, Mapping) and all(is_short(item) or not _is_nested(item) for item in value.values())


def _is_flat(record: object) -> bool:
    return isinstance(record, Mapping) and not any(_is_nested(value) for value in record.values())


def is_short(value: object) -> bool:
    """Tell whether ``value`` is a record of scalars and lists of them, small enough to stand on one line."""
    return isinstance(value, Mapping) and len(value) <= _SHORT and _is_flat(value)


def _is_nested(value: object) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, Mapping | list) for item in items)


def _code(value: str) -> str:
    """Return a Markdown code span; what could end it, or start HTML or a table cell, is written as an escape."""
    from markupsafe import Markup

    return Markup(f"`{printable(value, also='`<>&|')}`")  # noqa: S704 - nothing left that HTML knows


def whole(value: object) -> str:
    """Return a text as HTML in which no number is parted from its unit, and no time broken, by the end of a line."""
    from markupsafe import Markup, escape

    text = str(escape(formatting.scalar(value)))
    return Markup(_WHOLE.sub(r'<span class="nowrap">\g<0></span>', text))  # noqa: S704 - escaped before


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    def text_of(value: object) -> object:
        return value if isinstance(value, Markup) else formatting.scalar(value)

    environment = Environment(
        loader=PackageLoader("pytest_proofpack.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=text_of,
    )
    environment.globals["rows_shown"] = ROWS_SHOWN
    environment.tests |= {"short": is_short, "nested": lambda value: isinstance(value, Mapping | list)}
    environment.filters |= {
        "code": _code,
        "grid": grid,
        "inline": formatting.inline,
        "interval": formatting.interval,
        "key": str,
        "limit": formatting.limit,
        "listing": formatting.listing,
        "percent": formatting.percent,
        "ratio": formatting.ratio,
        "sentence_case": formatting.sentence_case,
        "signed": formatting.signed,
        "thousands": formatting.thousands,
        "whole": whole,
    }
    return environment
