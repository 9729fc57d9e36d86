"""``proofpack init``: a suite, scenarios and a CI's file to start from.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping
    from pathlib import Path

_EXAMPLE_DOCUMENTS = 1200
"""Documents of the example's text: enough for two sets of windows, and for tuning."""


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``init`` takes."""
    parser.add_argument("folder", metavar="DIR", nargs="?", default=".", help="where the files go (default: here)")
    parser.add_argument("--model", metavar="ID[@REV]|PATH", help="the model (default: a small one of the hub)")
    parser.add_argument("--text", metavar="FILE", help="a .txt or .jsonl file to evaluate on (default: WikiText-2)")
    parser.add_argument(
        "--ci",
        choices=("github", "gitlab", "none"),
        default="github",
        help="whose CI file, at the top of the repository (default: github)",
    )
    parser.add_argument(
        "--example",
        action="store_true",
        help="with the embedded model and a text of its language, to try things with: no hub, no GPU",
    )


def run(given: "argparse.Namespace") -> int:
    """Write the files; none that is there is touched.

    Raises:
        ConfigurationError: a file is there already or cannot be written, or an option cannot be used.
    """
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.pack.layout import require_outside_packs
    from pytest_proofpack.plan.starter import DEFAULT_MODEL, SUITE, starter_files

    folder, model, text = Path(given.folder), given.model or DEFAULT_MODEL, given.text
    require_outside_packs(folder / SUITE, "DIR")
    if given.example:
        if given.model or given.text:
            raise ConfigurationError("--example: brings its own model and text. Leave out --model and --text.")
        _write(folder, _example())
        model, text = str(folder / "model"), str(folder / "text.txt")
    _write(folder, starter_files(folder, model, text, None if given.ci == "none" else given.ci))
    print(f"list what it certifies: pytest --proofpack-suite={folder / SUITE} --collect-only -q")
    return 0


def _example() -> "Mapping[str, bytes | str]":
    """Return the embedded model's files and a text of its language, by their path below a folder."""
    from pytest_proofpack.plan.suites import suites_directory
    from pytest_proofpack.text.synthetic import generate

    model = {f"model/{path.name}": path.read_bytes() for path in sorted((suites_directory() / "tiny_model").iterdir())}
    return {**model, "text.txt": "\n\n".join(document.text for document in generate(1, _EXAMPLE_DOCUMENTS))}


def _write(folder: "Path", files: "Mapping[str, bytes | str]") -> None:
    """Write files, and say so; none that is there is touched.

    Raises:
        ConfigurationError: a file is there already or cannot be written.
    """
    from pytest_proofpack.common.files import atomic_write
    from pytest_proofpack.common.words import shown
    from pytest_proofpack.errors import ConfigurationError, StorageError

    there = [shown(path) for name in files if (path := folder / name).exists() or path.is_symlink()]
    if there:
        raise ConfigurationError(
            f"{', '.join(there)}: there already, and nothing is overwritten. Name another folder; a CI's file is left "
            "out by --ci=none."
        )
    try:
        for name, content in files.items():
            atomic_write(folder / name, content)
            print(f"wrote {shown(folder / name)}")
    except StorageError as error:
        raise ConfigurationError(str(error)) from error


COMMAND = Command(
    "init",
    summary="write a suite, scenarios and a CI file to start from",
    description="Write a commented suite file, scenarios and a CI's file to start from. Nothing is overwritten.",
    epilog="Exit status: 0 the files are there, 2 they cannot be written, or one of them is there already.",
    add_arguments=add_arguments,
    run=run,
)
