"""``proofpack report``: make the pages for people again, from a pack or a run directory.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command

EXIT_GOOD, EXIT_UNREADABLE = 0, 1

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``report`` takes."""
    parser.add_argument("directory", metavar="DIR", help="a pack, or the directory of a run, finished or not")
    parser.add_argument(
        "--output", metavar="DIR", help="where the pages go (default: beside DIR, its name with _pages)"
    )


def run(given: "argparse.Namespace") -> int:
    """Write all pages, with the certificates that they lead to.

    Raises:
        ConfigurationError: there is no such directory, it holds neither a pack nor a run, or the pages cannot go there.
    """
    import sys
    from pathlib import Path

    from pytest_proofpack import report
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.common.nonsense import NONSENSE
    from pytest_proofpack.common.words import shown
    from pytest_proofpack.errors import FormatError, VerificationError
    from pytest_proofpack.pack.page_sources import read_sources
    from pytest_proofpack.pack.pages import make_pages

    directory = Path(given.directory)
    target = _target(directory, given.output)
    try:
        sources = read_sources(directory)
        pages = make_pages(report, sources.verdict, sources.facts, sources.certificates)
    except (FormatError, VerificationError) as error:
        tell(f"{given.program}: {error}", stream=sys.stderr)
        return EXIT_UNREADABLE
    except NONSENSE as error:  # evidence fits no schema
        what = f"{type(error).__name__}: {error}"
        tell(f"{given.program}: a certificate cannot be shown ({what}); verify it to see why.", stream=sys.stderr)
        return EXIT_UNREADABLE
    _write(target, {**{path: text.encode() for path, text in pages.items()}, **sources.files})
    tell(f"{len(pages)} pages: {shown(target / 'index.html')}")
    tell("Nothing was verified: proofpack verify DIR does that.")
    return EXIT_GOOD


def _target(directory: "Path", output: "str | None") -> "Path":
    """Return where the pages go: a directory that is not there yet, or empty, and not inside of what is read.

    Raises:
        ConfigurationError: another one was asked for.
    """
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.pack.layout import require_outside_packs

    whole = directory.resolve()
    target = whole.with_name(f"{whole.name}_pages") if output is None else Path(output)
    require_outside_packs(target, "--output")
    if target.resolve().is_relative_to(whole):
        raise ConfigurationError(f"--output={target} lies inside of what is read. Name a directory elsewhere.")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigurationError(f"{target} is not empty, and nothing is overwritten. Name another with --output.")
    return target


def _write(target: "Path", files: "Mapping[str, bytes]") -> None:
    from pytest_proofpack.errors import ConfigurationError

    try:
        for path, data in files.items():
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
    except OSError as error:
        raise ConfigurationError(f"{target}: cannot be written ({error.strerror or error}).") from error


COMMAND = Command(
    "report",
    summary="make the pages of a pack or a run again",
    description="Make index.html and every evaluation.html again, from the certificates of a pack or a run directory. "
    "With the version that made a pack they are equal to those in it, byte by byte. Nothing is verified or executed.",
    epilog="Exit status: 0 the pages are written, 1 a document cannot be read as what it should be, 2 usage, no such "
    "directory, or the pages cannot be written.",
    add_arguments=add_arguments,
    run=run,
)
