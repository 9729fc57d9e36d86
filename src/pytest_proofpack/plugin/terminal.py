"""Lines for people, wherever the process that has something to say runs, and commands that they can type."""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.plain_table import folded
from pytest_proofpack.common.words import message_lines, printable, shortened, shown
from pytest_proofpack.config.options import OPTIONS, Option
from pytest_proofpack.config.settings import from_environment, from_ini_file
from pytest_proofpack.errors import ProofPackError
from pytest_proofpack.plugin.worker_process import TERMINAL
from pytest_proofpack.runs.journal import without_secrets

_LONGEST_VALUE = 80
_SELECTING = frozenset({"--lf", "--last-failed", "--sw", "--stepwise"})


def say(config: pytest.Config, line: str) -> None:
    """Show a line of ours, on a line of its own, unless pytest is to be quiet."""
    if config.get_verbosity() >= 0:
        _write(config, line)


def _write(config: pytest.Config, line: str) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        begin_line(config, reporter)
        for text in wrapped(config, f"proofpack: {line}"):
            reporter.write_line(printable(text))


def tell(reporter: pytest.TerminalReporter, line: str, *, fold: bool = False, **markup: bool) -> None:
    """Write a line of a summary, without what a terminal or a CI system would obey.

    Args:
        reporter: pytest's.
        line: what it says; it may hold words of a stranger's.
        fold: fold it where it is too long for a terminal; what is for copying is left whole.
        markup: pytest's own: ``bold``, ``red`` and the like.
    """
    for text in wrapped(reporter.config, line) if fold else [line]:
        reporter.line(printable(text), **markup)


def usage_error(error: ProofPackError, told: str = "") -> pytest.UsageError:
    """Return what ends the session before it starts, with its message safe to show.

    Args:
        error: what has happened.
        told: a sentence about it, without its capital letter and full stop.
    """
    apart = "\n" if "\n" in str(error) else " "  # the last of several lines may be a command
    more = f"{apart}({told[0].upper()}{told[1:]}.)" if told else ""
    return pytest.UsageError("\n".join(message_lines(f"{error}{more}")))


def begin_line(config: pytest.Config, reporter: pytest.TerminalReporter) -> None:
    """Leave the line that pytest is at, be it a file's or one of dots."""
    reporter.ensure_newline()
    writer = config.get_terminal_writer()
    if writer.width_of_current_line:
        writer.line()


def speaker(config: pytest.Config) -> Callable[[str], None]:
    """Return a function that shows a line at once, though an item is running and its output is captured."""
    worker: dict[str, Any] | None = getattr(config, "workerinput", None)

    def speak(line: str) -> None:
        with uncaptured(config):
            if worker is None:
                _write(config, line)
            else:  # its standard output is nobody's, its standard error was the controller's
                said = printable(f"proofpack: {worker['workerid']} is {line}")
                os.write(config.stash.get(TERMINAL, 2), f"{said}\n".encode())

    return speak


def uncaptured(config: pytest.Config) -> contextlib.AbstractContextManager[None]:
    """Let what is written get past pytest's capturing, though an item runs in this process, as live logging does."""
    capture = config.pluginmanager.get_plugin("capturemanager")
    return contextlib.nullcontext() if capture is None else capture.global_and_fixture_disabled()


def wrapped(config: pytest.Config, line: str) -> list[str]:
    """Return a line, safe to show, as lines for a terminal; a log has it whole."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    on_terminal = reporter is not None and reporter.isatty()
    return folded(printable(line), config.get_terminal_writer().fullwidth if on_terminal else None)


def untyped_words(config: pytest.Config, options: Collection[Option] = OPTIONS) -> str:
    """Return which settings come from the environment or the ini file, in one line; empty if none does.

    Args:
        config: of the session.
        options: whose settings count.
    """
    sources = {"the environment": from_environment(config, os.environ, options)}
    if config.inipath is not None:
        sources[config.inipath.name] = from_ini_file(config, os.environ, options)
    told = "; ".join(f"from {source}: {_values(found)}" for source, found in sources.items() if found)
    return without_secrets(told, os.environ)


def _values(found: Mapping[str, str]) -> str:
    return ", ".join(f"{name}={shortened(printable(value), _LONGEST_VALUE)}" for name, value in found.items())


def item_name(nodeid: str) -> str:
    """Return what tells an item from others of its test, for people: ``proofpack/tiny-nan_injection``."""
    return nodeid.partition("[")[2].removesuffix("]") or nodeid


def resume_command(config: pytest.Config, out: Path) -> str:
    """Return the command that goes on with the run in a directory: what the user typed, and these two options."""
    return command_with(config, f"--proofpack-out={shown(out)}", "--proofpack-resume")


def whole_command(config: pytest.Config, out: Path, suite: str) -> str:
    """Return the same for all items of a suite's run: nothing of what the user typed to select some is in it."""
    given = _without_selection(config.invocation_params.args, f"proofpack/{suite}::")
    return _command(given, (f"--proofpack-out={shown(out)}", "--proofpack-resume"))


def command_with(config: pytest.Config, *options: str, without: tuple[str, ...] = ()) -> str:
    """Return what the user typed, with these options in place of what was said by them, and ``without`` others."""
    return _command(config.invocation_params.args, options, without)


def _command(arguments: Iterable[str], options: Sequence[str], without: tuple[str, ...] = ()) -> str:
    flags = (*(option.partition("=")[0] for option in options), *without)
    given = [text for text in arguments if not text.startswith(flags)]
    return shlex.join(["pytest", *given, *options])


def _without_selection(arguments: Iterable[str], items: str) -> Iterator[str]:
    """Yield arguments of pytest but those that select tests, and ids that begin with ``items``."""
    rest = iter(arguments)
    for text in rest:
        if text in {"-k", "-m", "--deselect"}:
            next(rest, None)  # its value
        elif not (text in _SELECTING or text.startswith(("-k", "-m", "--deselect=", items))):
            yield text
