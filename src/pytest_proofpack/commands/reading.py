"""What the sub-commands share that read results: their options, their exit statuses, and where their output goes.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

import sys

EXIT_GOOD, EXIT_BAD, EXIT_UNMET = 0, 1, 3
EPILOG = (
    "Exit status: 0 all is well, 1 {bad}what is read does not hold, 2 it cannot be done (usage, no such file), "
    "3 {unmet}a demand is not met."
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pytest_proofpack.pack.demands import Demands
    from pytest_proofpack.results.opened import Results


def add_reading(parser: "argparse.ArgumentParser", formats: "Sequence[str]", default: "str | None") -> None:
    """Add how results are read, and how and where they are shown.

    Args:
        parser: the sub-command's.
        formats: what ``--format`` takes.
        default: the format without it; None demands one.
    """
    from pytest_proofpack.commands.demanding import add_demands

    told = f" (default: {default})" if default else ""
    parser.add_argument(
        "--format", choices=formats, default=default, required=default is None, help=f"how it is written{told}"
    )
    parser.add_argument("--output", metavar="FILE", help="write it to this file, not to standard output")
    parser.add_argument(
        "--accept-unverified", action="store_true", help="show what does not hold, too; it is said to be NOT VERIFIED"
    )
    add_demands(parser)


def read_all(given: "argparse.Namespace", names: "Sequence[str]") -> "list[Results]":
    """Read what the command line names.

    Raises:
        ConfigurationError: as :func:`pytest_proofpack.results.opened.open_results`.
        VerificationError: likewise.
        FormatError: likewise.
    """
    from pathlib import Path

    from pytest_proofpack.results.opened import open_results

    paths = [Path(name) for name in names]
    demands = demanded(given, paths)
    return [open_results(path, demands, accept_unverified=given.accept_unverified) for path in paths]


def demanded(given: "argparse.Namespace", paths: "Sequence[Path]") -> "Demands":
    """Return what is demanded of what is read; nothing is written into that.

    Raises:
        ConfigurationError: a demand is not understood, or the output would lie inside of what is read.
    """
    from pytest_proofpack.commands.demanding import demands_given

    _require_elsewhere(given.output, paths)
    return demands_given(given, paths)


def guarded(given: "argparse.Namespace", work: "Callable[[], int]") -> int:
    """Run a sub-command that reads results; what does not hold is said on standard error, with status 1.

    Raises:
        ConfigurationError: the output cannot be written, or what the work raises.
    """
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.common.nonsense import NONSENSE
    from pytest_proofpack.errors import ConfigurationError, FormatError, StorageError, VerificationError

    try:
        return work()
    except VerificationError as error:
        tell(f"{given.program}: NOT VERIFIED: {error}", stream=sys.stderr)
    except FormatError as error:
        tell(f"{given.program}: {error}", stream=sys.stderr)
    except StorageError as error:
        raise ConfigurationError(f"--output={given.output}: {error}") from error
    except NONSENSE as error:
        if not given.accept_unverified:
            raise
        # Nothing is known of what was not verified but that it fits its schema.
        print(f"{given.program}: what was not verified makes no sense ({type(error).__name__})", file=sys.stderr)
    return EXIT_BAD


def room(given: "argparse.Namespace") -> int | None:
    """Return how many columns the terminal has that output is written to; None if it goes elsewhere."""
    from pytest_proofpack.commands.output import columns

    return columns() if given.output is None else None


def write(given: "argparse.Namespace", text: str) -> None:
    """Write the output where it was asked for.

    Raises:
        StorageError: it cannot be written there.
    """
    if given.output is None:
        sys.stdout.write(text)
        return
    from pathlib import Path

    from pytest_proofpack.common.files import atomic_write

    atomic_write(Path(given.output), text)


def answer(given: "argparse.Namespace", text: str, results: "Sequence[Results]") -> int:
    """Write the output, say which demands are not met, and return the exit status that follows.

    Raises:
        StorageError: it cannot be written there.
    """
    write(given, text)
    return EXIT_UNMET if unmet(given, results) else EXIT_GOOD


def unmet(given: "argparse.Namespace", results: "Sequence[Results]") -> bool:
    """Tell whether a demand is not met, and say which on standard error."""
    from pytest_proofpack.commands.output import tell

    lines = [(one.name, demand) for one in results for demand in one.unmet]
    for name, demand in lines:
        tell(f"{given.program}: {name}: demand NOT MET: {demand.demand}: {demand.why}", stream=sys.stderr)
    return bool(lines)


def _require_elsewhere(output: "str | None", paths: "Sequence[Path]") -> None:
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.pack.layout import require_outside_packs

    if output is None:
        return
    require_outside_packs(Path(output), "--output")
    for path in paths:
        if Path(output).resolve().is_relative_to(path.resolve()):
            raise ConfigurationError(f"--output={output} lies inside of what is read. Name a file elsewhere.")
