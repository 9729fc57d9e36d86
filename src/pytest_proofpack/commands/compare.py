"""``proofpack compare``: two packs, run directories or certificates, edit by edit.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command
from pytest_proofpack.commands.reading import EPILOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``compare`` takes."""
    from pytest_proofpack.commands.reading import add_reading

    parser.add_argument("before", metavar="BEFORE", help="a pack, a run's directory or a certificate")
    parser.add_argument("after", metavar="AFTER", help="what is compared with it")
    parser.add_argument(
        "--max-regression",
        metavar="SHARE",
        default="0.01",
        help="by how much the perplexity of an edit that must pass may rise: 0.01 (the default), or 1%%",
    )
    parser.add_argument("--allow-incomparable", action="store_true", help="edits of which nothing can be said are fine")
    add_reading(parser, ("text", "markdown", "json", "html"), "text")


def run(given: "argparse.Namespace") -> int:
    """Compare, and write what came of it.

    Raises:
        ConfigurationError: what is named is not there, or an option cannot be used.
    """
    from pytest_proofpack.commands.reading import guarded

    return guarded(given, lambda: _compare(given))


def _compare(given: "argparse.Namespace") -> int:
    from pytest_proofpack.commands.reading import EXIT_BAD, EXIT_GOOD, EXIT_UNMET, read_all, room, unmet, write
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.results.comparison import compare
    from pytest_proofpack.results.comparison_views import comparison_html, comparison_markdown, comparison_text

    limit = _share(given.max_regression)
    before, after = read_all(given, [given.before, given.after])
    comparison = compare(before, after, limit)
    made = {
        "text": lambda: comparison_text(comparison, room(given)),
        "markdown": lambda: comparison_markdown(comparison),
        "json": lambda: pretty_json(comparison.to_json()),
        "html": lambda: comparison_html(comparison),
    }
    write(given, made[given.format]())
    demands_unmet = unmet(given, [before, after])
    if comparison.regressions:
        return EXIT_BAD
    nothing_said = comparison.incomparable and not given.allow_incomparable
    return EXIT_UNMET if demands_unmet or nothing_said else EXIT_GOOD


def _share(text: str) -> float:
    """Read a share: ``0.01`` or ``1%``.

    Raises:
        ConfigurationError: it is none.
    """
    from pytest_proofpack.errors import ConfigurationError

    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 10.0:
        raise ConfigurationError(f"--max-regression={text}: expected a share such as 0.01 or 1%, from 0 to 10")
    if value >= 1.0 and not text.endswith("%"):
        raise ConfigurationError(
            f"--max-regression={text}: is {100 * value:g} %. Say which is meant: {text}% or {100 * value:g}%"
        )
    return value


COMMAND = Command(
    "compare",
    summary="compare two packs, run directories or certificates",
    description="Compare two results edit by edit: what got better or worse, and of what nobody can say. Both are "
    "verified first.",
    epilog=EPILOG.format(bad="an edit regressed, or ", unmet="nothing can be said of an edit that must pass, or "),
    add_arguments=add_arguments,
    run=run,
)
