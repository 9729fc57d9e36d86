"""What an export is, and the choice of what is exported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pytest_proofpack.certificate.verdict import certificate_key, row_key
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import Category
from pytest_proofpack.results.opened import Results


@dataclass(frozen=True)
class Choice:
    """What of a result is exported.

    Attributes:
        model: id of the model; None for all, or the only one.
        edits: ids of the scenarios; none for all, or the only one.
        name: what the edited model is called; None for a name made of the ids.
        url: where the result can be looked at; None if nowhere.
        base_model: what the unedited model is called on the hub; None for what the result calls it.
    """

    model: str | None = None
    edits: tuple[str, ...] = ()
    name: str | None = None
    url: str | None = None
    base_model: str | None = None


@dataclass(frozen=True)
class Export:
    """One form.

    Attributes:
        name: as ``--format`` has it.
        help: one line on what it is.
        write: returns the text; raises ConfigurationError where the choice does not fit the result.
    """

    name: str
    help: str
    write: Callable[[Results, Choice], str]


def chosen_rows(results: Results, choice: Choice) -> list[tuple[JsonObject, JsonObject]]:
    """Return the rows that were chosen, each with its certificate.

    Raises:
        ConfigurationError: there is no such model or edit.
    """
    by_key = {certificate_key(one): one for one in results.certificates}
    rows = [row for row in results.rows if choice.model in {None, row["model"]}]
    if not rows:
        _refuse("--model", choice.model, [row["model"] for row in results.rows])
    for edit in choice.edits:
        if edit not in {row["scenario"] for row in rows}:
            _refuse("--edit", edit, [row["scenario"] for row in rows])
    rows = [row for row in rows if not choice.edits or row["scenario"] in choice.edits]
    return [(row, by_key[row_key(row)]) for row in rows]


def only_model(rows: Sequence[tuple[JsonObject, JsonObject]]) -> str:
    """Return the model of all rows.

    Raises:
        ConfigurationError: they are of several, and what is written is about one.
    """
    models = list(dict.fromkeys(str(row["model"]) for row, _ in rows))
    if len(models) > 1:
        _refuse("--model", None, models)
    return models[0]


def shipped(rows: Sequence[tuple[JsonObject, JsonObject]]) -> list[tuple[JsonObject, JsonObject]]:
    """Return the first run of every edit that somebody may want to use: clean ones, and models edited elsewhere."""
    wanted = {Category.CLEAN.value, Category.BYOE.value}
    first: dict[str, tuple[JsonObject, JsonObject]] = {}
    for row, certificate in rows:
        if row["category"] in wanted:
            first.setdefault(row["scenario"], (row, certificate))
    return list(first.values())


def _refuse(option: str, given: str | None, there: Sequence[str]) -> None:
    names = ", ".join(printable(name) for name in dict.fromkeys(there))
    asked = f"there is no {printable(given)!r}" if given is not None else "say which"
    raise ConfigurationError(f"{option}: {asked}; there is: {names}")
