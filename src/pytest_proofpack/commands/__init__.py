"""The sub-commands of ``proofpack``, one module each, which holds its record as ``COMMAND``.

Nothing is imported here, nor at the top of those modules: see :mod:`pytest_proofpack.commands.main`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

COMMANDS = ("verify", "report", "compare", "show", "export", "rejudge", "history", "init", "assemble")
"""The modules of this package that are sub-commands, in the order of ``proofpack --help``."""


class Command:
    """A sub-command.

    Attributes:
        name: what is typed.
        summary: one line for ``proofpack --help``.
        description: what it does, for its own ``--help``.
        epilog: the end of that, on exit statuses.
        add_arguments: adds its arguments to a parser.
        run: does the work and returns the exit status; a ConfigurationError that it raises is told and exits with 2.
    """

    def __init__(
        self,
        name: str,
        *,
        summary: str,
        description: str,
        epilog: str,
        add_arguments: "Callable[[argparse.ArgumentParser], None]",
        run: "Callable[[argparse.Namespace], int]",
    ) -> None:
        self.name = name
        self.summary = summary
        self.description = description
        self.epilog = epilog
        self.add_arguments = add_arguments
        self.run = run
