"""Lines for people, wherever the process that has something to say runs, and commands that they can type."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.words import printable, shown
from pytest_proofpack.plugin.worker_process import TERMINAL


def say(config: pytest.Config, line: str) -> None:
    """Show what the preflight is doing, unless pytest is to be quiet."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and config.get_verbosity() >= 0:
        reporter.write_line(printable(f"proofpack: {line}"))


def speaker(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows a line at once, though an item is running and its output is captured."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)
    prefix = "proofpack: " if worker is None else f"proofpack: {worker['workerid']} is "

    def speak(line: str) -> None:
        capture = config.pluginmanager.get_plugin("capturemanager")
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        with contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled():
            if worker is not None:  # its standard output is nobody's, its standard error was the controller's
                os.write(config.stash.get(TERMINAL, 2), f"{printable(prefix + line)}\n".encode())
            elif reporter is not None:
                reporter.ensure_newline()
                reporter.write_line(printable(prefix + line))

    return speak


def resume_command(config: pytest.Config, out: Path) -> str:
    """Return the command that goes on with the run in a directory: what the user typed, and these two options."""
    return command_with(config, f"--proofpack-out={shown(out)}", "--proofpack-resume")


def command_with(config: pytest.Config, *options: str, without: tuple[str, ...] = ()) -> str:
    """Return what the user typed, with these options in place of what was said by them, and ``without`` others."""
    flags = (*(option.partition("=")[0] for option in options), *without)
    given = [text for text in config.invocation_params.args if not text.startswith(flags)]
    return shlex.join(["pytest", *given, *options])
