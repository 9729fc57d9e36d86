"""The command ``proofpack``, which ``python -m pytest_proofpack`` is too: its sub-commands, without pytest.

Only modules that the interpreter has loaded anyway are imported here, until the working directory is off the import
path: a pack may hold a file named like a module, and a person may stand in it.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from pytest_proofpack.commands import Command

EXIT_GOOD, EXIT_USAGE = 0, 2
EXIT_UNREAD = 141
"""Whoever read the output has closed it, as ``head`` does: 128 and the signal that ends other programs then."""


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run the sub-command that the command line names.

    Returns:
        Its exit status; 2 if it cannot do what it was asked: the command line cannot be used, there is no such file.
    """
    forget_working_directory()
    import argparse
    from importlib import import_module

    from pytest_proofpack import __version__
    from pytest_proofpack.commands import COMMANDS

    parser = argparse.ArgumentParser(
        prog="proofpack",
        description="Proof packs: signed, recomputable evidence of what an edit did to a language model. "
        "They are made by pytest --proofpack-suite=NAME.",
    )
    parser.add_argument("--version", action="version", version=f"proofpack {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        command: Command = import_module(f"pytest_proofpack.commands.{name}").COMMAND
        sub = commands.add_parser(
            command.name, help=command.summary, description=command.description, epilog=command.epilog
        )
        _prepare(sub, command)
    if not (sys.argv[1:] if arguments is None else arguments):
        parser.print_help(sys.stderr)
        return EXIT_USAGE
    return _run(parser, arguments)


def run_alone(command: "Command", program: str, arguments: "Sequence[str] | None" = None) -> int:
    """Run a sub-command as a program of its own."""
    forget_working_directory()
    import argparse

    parser = argparse.ArgumentParser(prog=program, description=command.description, epilog=command.epilog)
    _prepare(parser, command)
    return _run(parser, arguments)


def forget_working_directory() -> None:
    """Take off the import path what depends on where one stands, whichever way it is written there.

    That is the working directory, and every folder that ``PYTHONPATH`` names from there: ``PYTHONPATH=src`` is meant
    for a project of one's own, and a pack may have such a folder too.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    here = {os.path.realpath(entry) for entry in ("", *given) if not os.path.isabs(entry)}  # noqa: PTH117
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) not in here]


def _prepare(parser: "argparse.ArgumentParser", command: "Command") -> None:
    command.add_arguments(parser)
    parser.set_defaults(run=command.run, program=parser.prog)


def _run(parser: "argparse.ArgumentParser", arguments: "Sequence[str] | None") -> int:
    try:
        status = _status(parser, arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what the interpreter flushes at its end
        return EXIT_UNREAD
    return status


def _status(parser: "argparse.ArgumentParser", arguments: "Sequence[str] | None") -> int:
    import io

    from pytest_proofpack.commands.output import harmless_output

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not stop the report
    try:
        given = parser.parse_args(arguments)
    except SystemExit as stop:
        return EXIT_USAGE if stop.code else EXIT_GOOD
    with harmless_output():
        return _done(given)


def _done(given: "argparse.Namespace") -> int:
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.errors import ConfigurationError

    try:
        status: int = given.run(given)
    except ConfigurationError as error:
        tell(f"{given.program}: {error}", stream=sys.stderr)
        return EXIT_USAGE
    return status
