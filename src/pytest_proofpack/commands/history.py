"""``proofpack history``: what every edit cost, one result after another, as a table or a page with plots.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command
from pytest_proofpack.commands.reading import EPILOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``history`` takes."""
    from pytest_proofpack.commands.reading import add_reading

    parser.add_argument("results", metavar="DIR", nargs="+", help="packs, run directories, or directories of them")
    add_reading(parser, ("text", "markdown", "json", "html"), "text")


def run(given: "argparse.Namespace") -> int:
    """Show results over time.

    Raises:
        ConfigurationError: what is named is not there, or an option cannot be used.
    """
    from pytest_proofpack.commands.reading import guarded

    return guarded(given, lambda: _history(given))


def _history(given: "argparse.Namespace") -> int:
    from pathlib import Path

    from pytest_proofpack.commands.reading import EXIT_BAD, EXIT_GOOD, EXIT_UNMET, demanded, room, unmet, write
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.results.history import (
        found_results,
        history,
        history_html,
        history_markdown,
        history_text,
    )

    paths = found_results([Path(name) for name in given.results])
    found, results = history(paths, demanded(given, paths), accept_unverified=given.accept_unverified)
    made = {
        "text": lambda: history_text(found, room(given)),
        "markdown": lambda: history_markdown(found),
        "json": lambda: pretty_json(found.to_json()),
        "html": lambda: history_html(found),
    }
    write(given, made[given.format]())
    if found.refused:
        return EXIT_BAD
    return EXIT_UNMET if unmet(given, results) else EXIT_GOOD


COMMAND = Command(
    "history",
    summary="show results over time, as a table or a page with plots",
    description="Show what every edit of every model cost, one result after another in the order of time. Each is "
    "verified; what does not hold is left out and said.",
    epilog=EPILOG.format(bad="", unmet=""),
    add_arguments=add_arguments,
    run=run,
)
