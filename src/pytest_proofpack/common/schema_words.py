"""What a schema finds in a file that somebody wrote by hand, in words for who did, not for who knows JSON Schema."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.words import first_of, likeliest

if TYPE_CHECKING:
    from jsonschema import ValidationError

_KIND = "kind"
"""The key that says which of several forms an object has."""
_KEYS_SHOWN = 12


def pointed(errors: Iterable[ValidationError]) -> Iterator[ValidationError]:
    """Yield errors with those of "one of several forms" replaced by what is wrong with the form that is meant."""
    for error in errors:
        forms = _of_the_form_meant(error) if error.validator in {"oneOf", "anyOf"} else []
        yield from pointed(forms) if forms else [error]


def told(error: ValidationError) -> str:
    """Return what is wrong with a value, in words that follow its place."""
    words = _WORDS.get(str(error.validator))
    return error.message if words is None else words(error) or error.message


def _of_the_form_meant(error: ValidationError) -> list[ValidationError]:
    """Return what is wrong with the form that a value's kind names, or with its kind; empty if forms have no kinds."""
    by_form: dict[object, list[ValidationError]] = {}
    for cause in error.context or ():
        by_form.setdefault(cause.relative_schema_path[0], []).append(cause)
    of_kind = [cause for causes in by_form.values() for cause in causes if _is_of_kind(cause)]
    meant = [causes for causes in by_form.values() if not any(map(_is_of_kind, causes))]
    if of_kind and not meant and of_kind[0].validator == "const":
        known = [str(cause.validator_value) for cause in of_kind]
        given: Any = of_kind[0].instance
        of_kind[0].message = f"{given!r} is unknown ({_instead(given, known)})"
    return of_kind[:1] if not meant else meant[0] if of_kind and len(meant) == 1 else []


def _is_of_kind(error: ValidationError) -> bool:
    """Tell whether an error is that the kind is another, or that there is none."""
    if error.validator == "required":
        return not error.relative_path and error.message.startswith(repr(_KIND))
    return error.validator == "const" and list(error.relative_path) == [_KIND]


def _surplus(error: ValidationError) -> str:
    known = list(error.schema.get("properties", {})) if isinstance(error.schema, Mapping) else []
    instance: Any = error.instance
    given = [key for key in instance if key not in known]
    return ", ".join(f"the key {key!r} is unknown ({_instead(key, known)})" for key in given[:_KEYS_SHOWN])


def _instead(key: object, known: list[str]) -> str:
    likely = likeliest(str(key), known)
    return f"did you mean {likely!r}?" if likely else f"there are {first_of(known, _KEYS_SHOWN)}"


def _missing(error: ValidationError) -> str:
    wanted: Any = error.validator_value
    instance: Any = error.instance
    absent = [key for key in wanted if key not in instance]
    return next((f"the key {key!r} is missing" for key in absent if error.message.startswith(repr(key))), "")


def _const(error: ValidationError) -> str:
    expected = error.validator_value
    return f"{str(expected).lower()} was expected" if isinstance(expected, bool) else ""


def _type(error: ValidationError) -> str:
    if error.validator_value == "array" and isinstance(error.instance, dict):
        name = error.path[-1] if error.path else ""
        return f"is one object, where a list of them is expected; in TOML, each begins with [[{name}]]"
    return ""


_WORDS: Mapping[str, Callable[[ValidationError], str]] = {
    "additionalProperties": _surplus,
    "required": _missing,
    "type": _type,
    "const": _const,
}
