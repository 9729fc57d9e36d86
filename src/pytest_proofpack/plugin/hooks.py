"""The pytest plugin: hooks that only delegate.

Without ``--proofpack-suite``, ``--proofpack-baseline`` or ``--proofpack-verify`` nothing but options, markers, fixtures
and hooks is registered, and nothing is imported that a plain pytest start does not import anyway.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_proofpack.config import options
from pytest_proofpack.plugin import fixtures, hookspecs
from pytest_proofpack.plugin.markers import register_markers


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    options.register(parser)


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    """Register the hooks that extensions implement."""
    pluginmanager.add_hookspecs(hookspecs)


def pytest_configure(config: pytest.Config) -> None:
    """Register markers and fixtures, so that every session lists them."""
    register_markers(config)
    config.pluginmanager.register(fixtures, "proofpack-fixtures")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> Generator[None, object, object]:
    """Keep the user's conftest files out, unless paths of theirs are named: certificates must not depend on them.

    In a worker, let what items write to standard error get through at once, beside being captured: if it dies, what it
    said last is what one wants to know. A wrapper, to come before pytest begins to capture.
    """
    namespace = early_config.known_args_namespace
    if _active(namespace):
        from pytest_proofpack.plugin.worker_process import is_worker

        if all(name.startswith("proofpack/") for name in namespace.file_or_dir):
            namespace.noconftest = True
        if namespace.capture == "fd" and is_worker():
            namespace.capture = "tee-sys"
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, object, object]:
    """Set up the session that was asked for, in the controller and in every worker.

    A wrapper, to come before pytest-xdist, which asks here what ``-n auto`` means.
    """
    if _active(config.option) and not config.option.help:
        from pytest_proofpack.plugin.session import activate

        activate(config)
    return (yield)


def _active(namespace: object) -> bool:
    modes = ("suite", "verify", "baseline", "subject")
    return any(getattr(namespace, f"proofpack_{mode}", None) is not None for mode in modes)
