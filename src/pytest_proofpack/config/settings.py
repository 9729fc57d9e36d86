"""Settings: the options resolved, from command line, environment, ini file and defaults, in this order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.config.environment import FALSE, TRUE, Environment
from pytest_proofpack.config.options import OPTIONS, Option
from pytest_proofpack.errors import ConfigurationError


@dataclass(frozen=True)
class Settings:
    """The resolved options; see :data:`OPTIONS` for what each means."""

    suite: str | None
    verify: str | None
    baseline: str | None
    subject: tuple[str, ...]
    edit_label: str | None
    out: str | None
    resume: bool
    shard: str | None
    ray: str | None
    pack_dir: str | None
    no_pack: bool
    layout: str
    model: tuple[str, ...]
    net: bool
    revisions: str | None
    text: str | None
    tuned_edit_params: str | None
    mode: str
    tune: str
    preset_dir: str | None
    tier: str
    profile: str
    limits: str | None
    determinism: str
    runs: Mapping[str, int]
    repeats: int
    device: str
    device_timeout: float
    timeout: float | None
    gpu_memory: float | None
    sign: str
    gpg_key: str | None
    attest: str | None
    attest_key: tuple[str, ...]
    attest_trust_config: str | None
    attest_identity: str | None
    attest_issuer: str | None
    trusted_key: tuple[str, ...]
    trusted_key_file: tuple[str, ...]
    require_signature: bool
    require_verdict: str | None
    expect_suite: str | None
    expect_model: tuple[str, ...]
    min_tier: str | None
    min_format: str | None
    expect_text: str | None
    max_age: str | None
    not_before: str | None
    accept_unbound: bool
    allow_unknown_guards: bool
    json: str | None
    meta: tuple[str, ...]
    keep_text: bool
    no_fork: bool
    no_html: bool

    def to_json(self) -> JsonObject:
        """Return the settings in JSON form, for workers."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: JsonObject) -> Settings:
        """Rebuild settings from :meth:`to_json`, as JSON has kept them."""
        lists = {option.name: tuple(values[option.name]) for option in OPTIONS if option.repeatable}
        return cls(**{**values, **lists})


def default_settings() -> Settings:
    """Return what is so where nobody says anything."""
    return Settings(**{option.name: _default(option) for option in OPTIONS})


class ConfigLike(Protocol):
    """The part of ``pytest.Config`` that options are read from."""

    option: Any

    def getini(self, name: str) -> Any:
        """Return an ini value."""


def resolve(config: ConfigLike, environment: Environment) -> Settings:
    """Resolve every option.

    Raises:
        ConfigurationError: a value is not allowed; names where it came from and what is allowed.
    """
    return Settings(**{option.name: _resolve_one(option, config, environment) for option in OPTIONS})


def from_environment(
    config: ConfigLike, environment: Environment, options: Iterable[Option] = OPTIONS
) -> dict[str, str]:
    """Return the variables of the environment that settings come from, and their values: nobody has typed those.

    A CI's facts are none of them: they set nothing, and stand in the manifest.

    Args:
        config: what was typed.
        environment: the environment.
        options: whose settings count.
    """
    asked = _untyped(config, options)
    return {name: environment[name] for option in asked for name in option.environment.used(environment)}


def from_ini_file(config: ConfigLike, environment: Environment, options: Iterable[Option] = OPTIONS) -> dict[str, str]:
    """Return the settings that come from pytest's ini file, and their values; see :func:`from_environment`."""
    written = {
        option.dest: config.getini(option.dest)
        for option in _untyped(config, options)
        if option.ini and not option.environment(environment)
    }
    return {name: value if isinstance(value, str) else " ".join(value) for name, value in written.items() if value}


def options_named(text: str) -> list[Option]:
    """Return the options whose flags a text holds."""
    flags = set(re.findall("--[a-z-]+", text))
    return [option for option in OPTIONS if option.flag in flags]


def _untyped(config: ConfigLike, options: Iterable[Option]) -> list[Option]:
    return [option for option in options if getattr(config.option, option.dest, None) is None]


def _resolve_one(option: Option, config: ConfigLike, environment: Environment) -> Any:
    if option.adds:
        return (*_stated(option, environment, ()), *_given(option, config, {}, ()))
    return _given(option, config, environment, _default(option))


def _given(option: Option, config: ConfigLike, environment: Environment, default: Any) -> Any:
    given = getattr(config.option, option.dest, None)
    if given is not None:
        return _parse_all(option, given, option.flag)
    if (stated := _stated(option, environment, None)) is not None:
        return stated
    if option.ini and (written := config.getini(option.dest)):
        return _parse_all(option, written, f"ini file, {option.dest}")
    return default


def _stated(option: Option, environment: Environment, default: Any) -> Any:
    """Return what the environment gives."""
    text = option.environment(environment)
    if not text:
        return default
    return _parse_all(option, text.split("\n") if option.repeatable else text, f"environment, for {option.flag}")


def _default(option: Option) -> Any:
    return option.default if option.metavar is not None else False


def _parse_all(option: Option, given: Any, source: str) -> Any:
    if given is True:
        return True
    if option.repeatable:
        return tuple(_parse(option, text, source) for text in given)
    return _parse(option, given, source)


def _parse_switch(text: str, source: str) -> bool:
    value = text.strip().lower()
    if value not in TRUE | FALSE:
        raise ConfigurationError(f"{source}: {text!r} is not understood; use 1 or 0.")
    return value in TRUE


def _parse(option: Option, text: str, source: str) -> Any:
    if option.metavar is None:
        return _parse_switch(text, source)
    if option.choices and text not in option.choices:
        raise ConfigurationError(f"{source}: {text!r} is unknown; choose one of {', '.join(option.choices)}.")
    try:
        return option.convert(text)
    except ValueError as error:
        raise ConfigurationError(f"{source}: {error}.") from error
