"""``proofpack export``: a result in the form that another tool reads.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command
from pytest_proofpack.commands.reading import EPILOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

FORMATS = ("json", "csv", "lm-eval", "model-card", "eval-results")
"""The names of :data:`pytest_proofpack.results.exports.EXPORTS`, known before those are imported."""


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``export`` takes."""
    from pytest_proofpack.commands.reading import add_reading

    parser.add_argument("result", metavar="RESULT", help="a pack, a run's directory or a certificate")
    parser.add_argument("--model", metavar="ID", help="only this model")
    parser.add_argument(
        "--edit", metavar="SCENARIO", action="append", default=[], help="only this edit; may be given several times"
    )
    parser.add_argument("--name", metavar="NAME", help="model-card: what the edited model is called")
    parser.add_argument(
        "--base-model",
        metavar="ID",
        help="model-card: the unedited model's id on the hub (default: what the result calls it)",
    )
    parser.add_argument("--url", metavar="URL", help="model-card, eval-results: where the result can be looked at")
    add_reading(parser, FORMATS, None)


def run(given: "argparse.Namespace") -> int:
    """Export a result.

    Raises:
        ConfigurationError: what is named is not there, or the form needs another choice.
    """
    from pytest_proofpack.commands.reading import guarded

    return guarded(given, lambda: _export(given))


def _export(given: "argparse.Namespace") -> int:
    from pytest_proofpack.commands.reading import answer, read_all
    from pytest_proofpack.results.exports import EXPORTS
    from pytest_proofpack.results.exports.export import Choice

    (results,) = read_all(given, [given.result])
    choice = Choice(given.model, tuple(given.edit), given.name, given.url, given.base_model)
    return answer(given, EXPORTS[given.format].write(results, choice), [results])


COMMAND = Command(
    "export",
    summary="write a pack's results as JSON, CSV, lm-eval's or a model card",
    description="Write what a pack, a run's directory or a certificate says, once it is verified, in the form that "
    "another tool reads.",
    epilog=EPILOG.format(bad="", unmet="") + " A FAIL verdict is no failure of this command.",
    add_arguments=add_arguments,
    run=run,
)
