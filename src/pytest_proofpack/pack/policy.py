"""Stating demands: from options, from a policy file, or from Python; the names are the same everywhere."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from pytest_proofpack.common.reading import read_named
from pytest_proofpack.common.words import likeliest
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.attestations.trust import read_trust
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.terms import TERMS
from pytest_proofpack.pack.terms.term import Stated, Term

Given = Mapping[str, object]
_MAX_BYTES = 1 << 20


def read_policy(path: Path, keys: Mapping[str, type]) -> dict[str, object]:
    """Read a policy file: TOML, each key an option of the command line, without its dashes.

    Args:
        path: the file.
        keys: the keys that there may be, and the type of each one's value: bool for a switch, int for a whole number
            (its text will do), list where one may give several (one alone will do), str for the others.

    Returns:
        The values, each of its key's type; days and times as text.

    Raises:
        ConfigurationError: it cannot be read, is not TOML, or a key or a value is not one that is known.
    """
    try:
        raw = read_named(path, _MAX_BYTES)
        document = tomllib.loads(raw.decode()) if len(raw) <= _MAX_BYTES else None
    except OSError as error:
        raise ConfigurationError(f"--policy={path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"--policy={path}: is not valid TOML: {error}") from error
    if document is None:
        raise ConfigurationError(f"--policy={path}: more than {_MAX_BYTES} bytes is too long for a policy")
    return {key: _value(path, key, value, keys) for key, value in document.items()}


def _value(path: Path, key: str, value: object, keys: Mapping[str, type]) -> object:
    source = f"--policy={path}: {key}"
    if key not in keys:
        likely = likeliest(key, keys)
        guess = f" Did you mean {likely!r}?" if likely else ""
        raise ConfigurationError(f"{source}: is no option of a policy; these are: {', '.join(keys)}.{guess}")
    kind = keys[key]
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigurationError(f"{source}: expected true or false")
        return value
    if kind is list:
        if value == []:
            raise ConfigurationError(f"{source}: is empty, so it would demand nothing. Name one, or leave the key out.")
        return [_text(source, item) for item in (value if isinstance(value, list) else [value])]
    if kind is int and type(value) is int:
        return str(value)
    return _text(source, value)


def _text(source: str, value: object) -> str:
    if isinstance(value, date):  # a time is one too
        return value.isoformat()
    if not isinstance(value, str):
        raise ConfigurationError(f"{source}: expected a text")
    return value


def state(given: Given, prefix: str = "--") -> tuple[Stated, ...]:
    """Read what is demanded.

    Args:
        given: values by the names of terms: a text, several where a term is repeatable, a bool for a switch, an int or
            its text for a whole number; what is None, empty or False is not demanded.
        prefix: how messages begin, before the name of a term.

    Raises:
        ConfigurationError: there is no such term, or a value is not one that it understands.
    """
    return tuple(
        _stated(term, text, prefix)
        for term in (TERMS.require(name) for name in given)
        for text in _texts(term, given[term.name], prefix)
    )


def demands_of(options: Any, prefix: str = "--") -> Demands:
    """Read what is demanded by options: attributes, named like the options and terms but with underscores.

    Args:
        options: a parsed command line, or settings.
        prefix: how messages begin, before the name of a term.

    Raises:
        ConfigurationError: a value is not one that its term understands, or whom to trust makes no sense.
    """
    return Demands(
        accept_unbound=options.accept_unbound,
        allow_unknown_guards=options.allow_unknown_guards,
        attesters=read_trust(
            options.attest_key, options.attest_identity, options.attest_issuer, options.attest_trust_config
        ),
        stated=state({term.name: getattr(options, term.dest, None) for term in TERMS.values()}, prefix),
    )


def _texts(term: Term, value: object, prefix: str) -> Iterator[str]:
    if value is None or value is False or value in ((), []):
        return
    if term.metavar is None:
        if value is not True:
            raise ConfigurationError(f"{prefix}{term.name}: expected True or False")
        yield ""
    elif isinstance(value, str):
        yield value
    elif term.whole_number and type(value) is int:
        yield str(value)
    elif term.repeatable and isinstance(value, Iterable):
        for text in value:
            yield str(text)
    else:
        raise ConfigurationError(f"{prefix}{term.name}: expected {'texts' if term.repeatable else 'a text'}")


def _stated(term: Term, text: str, prefix: str) -> Stated:
    try:
        return Stated(term, text, term.read(text))
    except ValueError as error:
        raise ConfigurationError(f"{prefix}{term.name}={text}: {error}") from error
