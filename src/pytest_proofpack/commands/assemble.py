"""``proofpack assemble``: the directories of a run's shards become one run, with verdict, reports and pack.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command

EXIT_PASS, EXIT_FAIL = 0, 1
_OPTIONS = ("layout", "no_pack", "no_html", "sign", "gpg_key", "attest", "attest_key", "attest_trust_config", "meta")
"""The options of a session that decide what its pack is and who signs it; here they are called the same."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from pytest_proofpack.config.settings import Settings


class _Given:
    """The command line, as settings are resolved from; there is no ini file."""

    def __init__(self, option: "argparse.Namespace") -> None:
        self.option = option

    def getini(self, _name: str) -> None:
        """Return nothing."""


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``assemble`` takes."""
    from pytest_proofpack.config.options import OPTIONS

    parser.add_argument("directories", metavar="DIR", nargs="+", help="what --proofpack-out was for a shard")
    parser.add_argument("--out", metavar="DIR", required=True, help="where the run goes: a new or an empty directory")
    for option in OPTIONS:
        if option.name not in _OPTIONS:
            continue
        names, told = (f"--{option.name.replace('_', '-')}", option.flag), option.described_for_makers
        if option.metavar is None:
            parser.add_argument(*names, dest=option.dest, action="store_true", default=None, help=told)
        else:
            action = "append" if option.repeatable else "store"
            parser.add_argument(*names, dest=option.dest, action=action, metavar=option.metavar, help=told)


def run(given: "argparse.Namespace") -> int:
    """Assemble, and print what a session prints at its end.

    Raises:
        ConfigurationError: the directories cannot be one run, or what is to be written cannot be.
    """
    import shutil
    from pathlib import Path

    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.runs.assembly import assemble
    from pytest_proofpack.runs.finish import summary

    assembled = assemble([Path(directory) for directory in given.directories], _settings(given))
    for line in assembled.told:
        tell(line)
    print()
    for shown in summary(assembled.run, assembled.result, shutil.get_terminal_size().columns):
        print(shown.text)
    return EXIT_PASS if assembled.result.proved and assembled.result.drift is None else EXIT_FAIL


def _settings(given: "argparse.Namespace") -> "Settings":
    """Return the settings of a session with these options, with what the environment says of them, and no others."""
    import os
    from dataclasses import replace

    from pytest_proofpack.config.settings import default_settings, resolve
    from pytest_proofpack.runs.publishable import require_publishable

    resolved = resolve(_Given(given), os.environ)
    chosen = {name: getattr(resolved, name) for name in _OPTIONS}
    settings = replace(default_settings(), out=given.out, **chosen)
    require_publishable(settings, os.environ)
    return settings


COMMAND = Command(
    "assemble",
    summary="put the shards of a run together: verdict, reports and pack",
    description="Put the directories together that sessions with --proofpack-shard have left: every certificate is "
    "judged again, then verdict, reports and the signed pack are written, as one session would have written them. "
    "Needs neither models nor torch.",
    epilog="Exit status: 0 the verdict is PASS, 1 it is not, 2 there is no verdict and nothing was written (usage; the "
    "directories are not of one run, or certificates are missing, do not hold or contradict each other).",
    add_arguments=add_arguments,
    run=run,
)
