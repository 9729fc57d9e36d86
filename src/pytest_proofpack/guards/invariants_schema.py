"""The schema of a certificate's ``invariants`` block."""

from __future__ import annotations

from pytest_proofpack.common.strict_json import JsonObject

_SHA256: JsonObject = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_NAMES: JsonObject = {"type": "array", "maxItems": 10_000, "items": {"type": "string"}}
_VOCABULARY: JsonObject = {
    "type": "object",
    "maxProperties": 4,
    "propertyNames": {"enum": ["config", "embedding", "head", "tokenizer"]},
    "additionalProperties": {"type": "integer"},
}
_SUMMARY: JsonObject = {
    "type": "object",
    "required": ["tensors", "norm_modules", "non_finite", "tied", "config_tied", "vocabulary", "sha256"],
    "properties": {
        "tensors": {"type": "integer"},
        "norm_modules": {"type": "integer"},
        "non_finite": {"type": "integer", "minimum": 0},
        "non_finite_shared": {"type": "integer", "minimum": 1},
        "tied": {"type": "array", "maxItems": 1000, "items": _NAMES},
        "config_tied": {"type": "boolean"},
        "vocabulary": _VOCABULARY,
        "sha256": _SHA256,
        "tokenizer": _SHA256,
    },
    "additionalProperties": False,
}
_VIOLATION: JsonObject = {
    "type": "object",
    "required": ["kind", "severity", "count", "names", "message"],
    "properties": {
        "kind": {"type": "string"},
        "severity": {"enum": ["fatal", "warning"]},
        "count": {"type": "integer", "minimum": 1},
        "names": {**_NAMES, "maxItems": 64},
        "message": {"type": "string"},
    },
    "additionalProperties": False,
}
SCHEMA: JsonObject = {
    "type": "object",
    "required": ["evaluated", "status", "baseline", "subject", "violations", "tensors", "sublayers"],
    "properties": {
        "status": {"enum": ["pass", "warn", "fail"]},
        "baseline": _SUMMARY,
        "subject": _SUMMARY,
        "violations": {"type": "array", "maxItems": 1000, "items": _VIOLATION},
        "tensors": {"type": "object"},
        "sublayers": {"type": "object"},
    },
    "additionalProperties": True,
}
