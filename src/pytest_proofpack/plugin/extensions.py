"""Extensions of a session: found, loaded, asked to register what they bring, and named in the header."""

from __future__ import annotations

import os
import sys
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType

import pytest

from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.suites import extension_files
from pytest_proofpack.plugin.terminal import wrapped
from pytest_proofpack.report.formatting import printable
from pytest_proofpack.runs.extensions import Extension, Registries, extension_of_file, extension_of_module

GROUP = "pytest_proofpack"
"""Group of entry points by which installed packages bring extensions."""


class ExtensionHeader:
    """Registered in the controller: names what is loaded, for it may do whatever the user may."""

    def __init__(self, extensions: tuple[Extension, ...]) -> None:
        self._extensions = extensions

    def pytest_report_header(self, config: pytest.Config) -> list[str]:
        """Name every extension."""
        return wrapped(config, printable(f"proofpack: extensions: {', '.join(map(str, self._extensions))}"))


def load_extensions(config: pytest.Config, settings: Settings) -> tuple[Extension, ...]:
    """Load what the suite file names and what is installed, let all register, and return who they are.

    What they registered goes again when the session ends.

    Raises:
        ConfigurationError: one cannot be loaded, or registers a name that is taken.
    """
    registries = Registries()
    config.add_cleanup(registries.close)
    files = [] if settings.suite is None else extension_files(settings.suite)
    extensions = [_load_file(config, path, number) for number, path in enumerate(files)]
    ours = {id(config.pluginmanager.get_plugin(_module_name(number))) for number in range(len(files))}
    if not _autoload_is_off(config):
        _load_installed(config)
    hook = config.hook.pytest_proofpack_register
    plugins = [implementation.plugin for implementation in hook.get_hookimpls()]
    modules = {module.__name__: module for module in (_module(plugin) for plugin in plugins if id(plugin) not in ours)}
    extensions += [extension_of_module(module) for _, module in sorted(modules.items())]
    hook(registry=registries)
    if extensions and not hasattr(config, "workerinput"):
        config.pluginmanager.register(ExtensionHeader(tuple(extensions)), "proofpack-extensions")
    return tuple(extensions)


def _load_file(config: pytest.Config, path: Path, number: int) -> Extension:
    """Run an extension that is a file, and register it as a plugin. The bytes that run are those of the digest."""
    name = _module_name(number)
    module = ModuleType(name)
    module.__file__ = str(path)
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"extension {path.name}: {error.strerror or error}. Paths in a suite's extensions are relative to its file."
        ) from error
    sys.modules[name] = module  # where dataclasses, for one, look for it
    config.add_cleanup(partial(_forget, name))
    try:
        exec(compile(source, str(path), "exec"), vars(module))  # noqa: S102 - the user asked for it, see the header
    except Exception as error:
        raise ConfigurationError(
            f"extension {path.name} cannot be loaded ({type(error).__name__}: {error})."
        ) from error
    config.pluginmanager.register(module, name)
    return extension_of_file(path.name, source)


def _forget(name: str) -> None:
    sys.modules.pop(name, None)


def _autoload_is_off(config: pytest.Config) -> bool:
    """Tell whether pytest was told to load no plugin that is only installed."""
    variable = os.environ.get("PYTEST_DISABLE_PLUGIN_AUTOLOAD")
    return bool(variable or getattr(config.option, "disable_plugin_autoload", False))


def _load_installed(config: pytest.Config) -> None:
    """Load every extension that an installed package brings, but for those that ``-p no:NAME`` leaves out."""
    for name in sorted(entry_points(group=GROUP).names):
        try:
            config.pluginmanager.load_setuptools_entrypoints(GROUP, name)
        except Exception as error:
            cause = error.__cause__ or error
            raise ConfigurationError(
                f"the installed extension {name} cannot be loaded ({type(cause).__name__}: {cause}). Leave it out with "
                f"-p no:{name}, or repair or uninstall it."
            ) from error


def _module_name(number: int) -> str:
    return f"proofpack_suite_extension_{number}"


def _module(plugin: object) -> ModuleType:
    """Return the module that a plugin is, or that its class comes from."""
    return plugin if isinstance(plugin, ModuleType) else sys.modules[type(plugin).__module__]
