"""The pytest plugin: hooks that only delegate.

Without ``--proofpack-suite``, ``--proofpack-baseline`` or ``--proofpack-verify`` nothing but the options is registered,
and nothing is imported that a plain pytest start does not import anyway.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from pytest_proofpack.config import options


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options and their ini twins."""
    options.register(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Keep the user's conftest files out, unless paths of theirs are named: certificates must not depend on them."""
    namespace = early_config.known_args_namespace
    if _active(namespace) and all(name.startswith("proofpack/") for name in namespace.file_or_dir):
        namespace.noconftest = True


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
