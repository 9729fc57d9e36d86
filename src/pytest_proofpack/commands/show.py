"""``proofpack show``: one result for people, as Markdown for a pull request unless another form is asked for.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command
from pytest_proofpack.commands.reading import EPILOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``show`` takes."""
    from pytest_proofpack.commands.reading import add_reading

    parser.add_argument("result", metavar="RESULT", help="a pack, a run's directory or a certificate")
    add_reading(parser, ("markdown", "text", "json"), "markdown")


def run(given: "argparse.Namespace") -> int:
    """Show a result.

    Raises:
        ConfigurationError: what is named is not there, or an option cannot be used.
    """
    from pytest_proofpack.commands.reading import guarded

    return guarded(given, lambda: _show(given))


def _show(given: "argparse.Namespace") -> int:
    from pytest_proofpack.commands.reading import answer, read_all, room
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.results.show import show_json, show_markdown, show_text

    (results,) = read_all(given, [given.result])
    made = {
        "markdown": lambda: show_markdown(results),
        "text": lambda: show_text(results, room(given)),
        "json": lambda: pretty_json(show_json(results)),
    }
    return answer(given, made[given.format](), [results])


COMMAND = Command(
    "show",
    summary="show a pack as Markdown for a pull request",
    description="Show what a pack, a run's directory or a certificate says, once it is verified: as Markdown for a "
    "pull request, as text, or as JSON.",
    epilog=EPILOG.format(bad="", unmet="") + " A FAIL verdict is no failure of this command.",
    add_arguments=add_arguments,
    run=run,
)
