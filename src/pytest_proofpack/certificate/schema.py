"""The JSON Schema of a certificate, put together from the packaged one and the records of criteria and guards."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.formats import CURRENT, format_of
from pytest_proofpack.common.schemas import findings_of, packaged_schema, schema_findings, validator_of
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import flags_of
from pytest_proofpack.guards.registry import GUARDS

if TYPE_CHECKING:
    from jsonschema.protocols import Validator


def certificate_schema() -> JsonObject:
    """Return the whole schema of the current format, as of draft 2020-12.

    Guards of extensions have no schema here: the blocks of ``foreign_guards`` are checked for their outline only.
    """
    schema = packaged_schema(CURRENT.schema)
    properties: dict[str, Any] = schema["properties"]
    guards = {guard.block: guard.schema for guard in GUARDS.builtin.values()}
    flags = [flag for criterion in criteria() for flag in flags_of(criterion)]
    sections = [criterion.section for criterion in criteria() if criterion.section is not None]
    return {
        **schema,
        "required": [*schema["required"], *guards],
        "properties": {
            **properties,
            **guards,
            "validation": {**properties["validation"], "required": flags},
            "resolved_policy": {**properties["resolved_policy"], "required": sections},
        },
    }


def certificate_findings(certificate: JsonObject) -> list[str]:
    """Return where a certificate departs from the schema of its format, at most ten lines."""
    try:
        form = format_of(certificate)
    except FormatError as error:
        return [str(error)]
    if form is CURRENT:
        return findings_of(_validator(tuple(GUARDS.builtin)), certificate)
    return schema_findings(form.schema, certificate)


@cache
def _validator(_guards: tuple[str, ...]) -> Validator:
    return validator_of(certificate_schema())
