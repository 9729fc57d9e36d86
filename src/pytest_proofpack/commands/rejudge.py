"""``proofpack rejudge``: a result under another policy, from its evidence; no model is needed.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command
from pytest_proofpack.commands.reading import EPILOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``rejudge`` takes."""
    from pytest_proofpack.commands.reading import add_reading
    from pytest_proofpack.config.options import PROFILES, TIERS

    parser.add_argument("result", metavar="RESULT", help="a pack, a run's directory or a certificate")
    parser.add_argument("--tier", choices=TIERS, help="judge by this tier (default: the result's own)")
    parser.add_argument("--profile", choices=PROFILES, help="judge by this profile (default: the result's own)")
    parser.add_argument("--limits", metavar="FILE", help="judge by these limits: a TOML file with a table [limits]")
    add_reading(parser, ("text", "markdown", "json"), "text")


def run(given: "argparse.Namespace") -> int:
    """Judge again, and write what came of it.

    Raises:
        ConfigurationError: what is named is not there, or a limit is none.
    """
    from pytest_proofpack.commands.reading import guarded

    return guarded(given, lambda: _rejudge(given))


def _rejudge(given: "argparse.Namespace") -> int:
    from pathlib import Path

    from pytest_proofpack.certificate.policy import resolve_policy
    from pytest_proofpack.commands.reading import EXIT_GOOD, EXIT_UNMET, read_all, room, unmet, write
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.plan.limits_file import read_limits_file
    from pytest_proofpack.results.rejudged import rejudge_results, rejudged_markdown, rejudged_text

    if given.tier is None and given.profile is None and given.limits is None:
        raise ConfigurationError("give --tier, --profile or --limits: by what is it to be judged?")
    limits = read_limits_file(Path(given.limits), "--limits") if given.limits else None
    (results,) = read_all(given, [given.result])
    first = results.certificates[0]
    tier = given.tier or first["policy_provenance"]["tier"]
    profile = given.profile or first["meta"]["profile"]
    policy = resolve_policy(tier, profile, limits, f"--limits={given.limits}")
    found = rejudge_results(results, policy, profile)
    made = {
        "text": lambda: rejudged_text(found, room(given)),
        "markdown": lambda: rejudged_markdown(found),
        "json": lambda: pretty_json(found.to_json()),
    }
    write(given, made[given.format]())
    return EXIT_UNMET if unmet(given, [results]) or found.verdict != "PASS" else EXIT_GOOD


COMMAND = Command(
    "rejudge",
    summary="judge a pack by another tier or by limits of your own",
    description="Judge the evidence of a pack, a run's directory or a certificate by another policy, once it is "
    "verified. No model is needed; what cannot be judged again is named.",
    epilog=EPILOG.format(bad="", unmet="the verdict by that policy is FAIL, or "),
    add_arguments=add_arguments,
    run=run,
)
