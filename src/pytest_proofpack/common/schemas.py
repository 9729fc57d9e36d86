"""The packaged JSON Schemas, and their findings as sentences that name the key and what was expected."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from pytest_proofpack.common.strict_json import JsonObject, parse_json
from pytest_proofpack.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonschema.protocols import Validator

MAX_FINDINGS = 10
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
    """Return where ``document`` departs from a schema, at most ten lines of ``key: what is wrong``."""
    errors = sorted(validator.iter_errors(document), key=lambda error: error.json_path)
    return [
        f"{error.json_path.removeprefix('$').removeprefix('.') or 'top level'}: {error.message[:_MESSAGE_LENGTH]}"
        for error in errors[:MAX_FINDINGS]
    ]


def packaged_schema(name: str) -> JsonObject:
    """Return a packaged schema."""
    file = f"{name}.schema.json"
    return parse_json(resources.files("pytest_proofpack").joinpath("data", file).read_bytes(), file)


def validator_of(schema: JsonObject) -> Validator:
    """Return a validator of a schema of draft 2020-12, in which 3.0 is no integer."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend

    # In JSON Schema 3.0 is an integer; what is counted with here has to be an int.
    strict = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    strict_validator: type[Validator] = extend(Draft202012Validator, type_checker=strict)  # type: ignore[no-untyped-call]
    return strict_validator(schema)


def require_schema(name: str, document: JsonObject, source: str) -> None:
    """Make sure that a user's file fits its schema.

    Raises:
        ConfigurationError: it does not; the message names ``source``, the keys, and what was expected of them.
    """
    findings = schema_findings(name, document)
    if findings:
        raise ConfigurationError(f"{source} is not a usable {name.replace('_', ' ')} file: " + "; ".join(findings))


@cache
def _validator(name: str) -> Validator:
    return validator_of(packaged_schema(name))
