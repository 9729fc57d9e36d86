"""The packaged JSON Schemas, and their findings as sentences that name the key and what was expected."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.schema_words import pointed, told
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.common.words import printable, shortened
from pytest_proofpack.errors import ConfigurationError, FormatError

if TYPE_CHECKING:
    from jsonschema import ValidationError
    from jsonschema.protocols import Validator

MAX_FINDINGS = BUDGETS.schema_findings
_MESSAGE_LENGTH = 240


def schema_findings(name: str, document: JsonObject) -> list[str]:
    """Return where ``document`` departs from the packaged schema ``name``; see :func:`findings_of`.

    Args:
        name: ``certificate_format1``, ``determinism_repeats``, ``manifest``, ``model_revisions``, ``preset``, ``run``,
            ``scenarios``, ``scenarios_format1``, ``suite`` or ``tuned_edit_params``.
            The schema of today's certificates is put together in
            :mod:`pytest_proofpack.certificate.schema`.
        document: the parsed document.
    """
    return findings_of(_validator(name), document)


def findings_of(validator: Validator, document: JsonObject) -> list[str]:
    """Return where ``document`` departs from a schema, at most ten lines of ``key: what is wrong``.

    No more than that are looked for: a document can be wrong in a hundred thousand places.
    """
    errors = _first_errors(validator, document)
    return [f"{_place(error)}: {shortened(error.message, _MESSAGE_LENGTH)}" for error in errors]


def _first_errors(validator: Validator, document: JsonObject) -> list[ValidationError]:
    return sorted(islice(validator.iter_errors(document), MAX_FINDINGS), key=lambda error: error.json_path)


def _place(error: ValidationError) -> str:
    return printable(error.json_path.removeprefix("$").removeprefix(".")) or "top level"


def packaged_schema(name: str) -> JsonObject:
    """Return a packaged schema."""
    file = f"{name}.schema.json"
    return parse_json(resources.files("pytest_proofpack").joinpath("data", file).read_bytes(), file)


def validator_of(schema: JsonObject) -> Validator:
    """Return a validator of a schema of draft 2020-12, in which 3.0 is no integer and a pattern's ``$`` is the end.

    Its time is in proportion to the document: it looks into no list or object that is longer than its schema allows,
    and compares no element of a list with every other.
    """
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # In JSON Schema 3.0 is an integer; what is counted with here has to be an int.
    strict = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    bounded = {
        keyword: _unless_too_long(Draft202012Validator.VALIDATORS[keyword], limit) for keyword, limit in _LIMITS.items()
    }
    strict_validator: type[Validator] = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {**bounded, "uniqueItems": _unique_items, "pattern": _pattern}, type_checker=strict
    )
    return strict_validator(schema)


_LIMITS = {
    "items": "maxItems",
    "additionalProperties": "maxProperties",
    "propertyNames": "maxProperties",
}
"""Keywords that look at every element, and the one that bounds how many there are, which finds fault by itself."""


def _unless_too_long(check: Any, limit: str) -> Any:
    def bounded(validator: Validator, rule: Any, value: Any, schema: JsonObject) -> Iterator[ValidationError]:
        if not (isinstance(value, list | dict) and len(value) > schema.get(limit, len(value))):
            yield from check(validator, rule, value, schema)

    return bounded


def _unique_items(_validator: Validator, rule: Any, value: Any, schema: JsonObject) -> Iterator[ValidationError]:
    """Find equal elements by their text; jsonschema compares each with each where they cannot be sorted."""
    from jsonschema import ValidationError

    if rule and isinstance(value, list) and len(value) <= schema.get("maxItems", len(value)):
        try:
            seen = {compact_json(element) for element in value}
        except FormatError:  # a day of TOML, say: no JSON, as the schema of the elements says
            return
        if len(seen) < len(value):
            yield ValidationError("an element stands there twice")


def _pattern(_validator: Validator, rule: str, value: Any, _schema: JsonObject) -> Iterator[ValidationError]:
    """Find a text that a pattern does not match; to Python ``$`` would stand before a final line break, too."""
    from jsonschema import ValidationError

    if isinstance(value, str) and not re.search(rule.removesuffix("$") + (r"\Z" if rule.endswith("$") else ""), value):
        yield ValidationError(f"{value!r} does not match {rule!r}")


def require_schema(name: str, document: JsonObject, source: str) -> None:
    """Make sure that a user's file fits its schema.

    Raises:
        ConfigurationError: it does not; the message names ``source``, the keys, and what was expected of them.
    """
    errors = _first_errors(_validator(name), document)
    findings = [f"{_place(error)}: {shortened(told(error), _MESSAGE_LENGTH)}" for error in pointed(errors)]
    if findings:
        raise ConfigurationError(
            f"{source} is not a usable {name.replace('_', ' ')} file: " + "; ".join(dict.fromkeys(findings))
        )


@cache
def _validator(name: str) -> Validator:
    return validator_of(packaged_schema(name))
