"""What every sub-command that reads a pack takes: demands, as options or from a policy file, and whom to trust.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable
    from pathlib import Path

    from pytest_proofpack.pack.demands import Demands
    from pytest_proofpack.pack.terms import Term


def add_demands(parser: "argparse.ArgumentParser") -> None:
    """Add the demands, each an option of its own, and ``--policy``."""
    from pytest_proofpack.pack.terms import TERMS

    group = parser.add_argument_group("demands", "what the pack has to be beyond holding what it claims")
    options = [_add_term(group, term) for term in TERMS.values()]
    options += [*_add_attesters(group), *_add_allowances(group)]
    parser.set_defaults(policy_options=options)
    group.add_argument("--policy", metavar="FILE", help="a TOML file with any of the options above")


def demands_given(given: "argparse.Namespace", packs: "Iterable[Path]") -> "Demands":
    """Return what the command line and its policy file demand.

    Args:
        given: the parsed command line.
        packs: what is to be read; its makers have no say in what is demanded of it.

    Raises:
        ConfigurationError: a demand is not understood, or the policy lies inside of a pack.
    """
    from pytest_proofpack.pack.policy import demands_of

    if given.policy is not None:
        _heed_policy(given, packs)
    return demands_of(given)


def _add_term(parser: "argparse._ArgumentGroup", term: "Term") -> "argparse.Action":
    names = [f"--{term.name}", *([f"--proofpack-{term.name}"] if term.name.startswith("trusted-key") else [])]
    if term.metavar is None:
        return parser.add_argument(*names, action="store_true", help=term.help)
    if term.repeatable:
        return parser.add_argument(*names, metavar=term.metavar, action="append", default=[], help=term.help)
    return parser.add_argument(*names, metavar=term.metavar, help=term.help)


def _add_attesters(parser: "argparse._ArgumentGroup") -> "list[argparse.Action]":
    add = parser.add_argument
    return [
        add(
            "--attest-key",
            metavar="PUBLIC.pem",
            action="append",
            default=[],
            help="demand an attestation by this key (ECDSA P-256); may be given several times",
        ),
        add("--attest-identity", metavar="WHO", help="demand one by this identity, certified by Sigstore"),
        add("--attest-issuer", metavar="URL", help="who has to vouch for that identity"),
        add("--attest-trust-config", metavar="FILE", help="the Sigstore instance of your own, if it is one"),
    ]


def _add_allowances(parser: "argparse._ArgumentGroup") -> "list[argparse.Action]":
    unbound = parser.add_argument(
        "--accept-unbound",
        action="store_true",
        help="accept, with warnings, a pack of InvarLock 0.3.7, whose signature covers no certificate",
    )
    unknown_guards = parser.add_argument(
        "--allow-unknown-guards",
        action="store_true",
        help="accept, with warnings, numbers of an extension's guard that is not installed here",
    )
    return [unbound, unknown_guards]


def _kind(option: "argparse.Action") -> type:
    """Return the type that an option's value has in a policy file."""
    from pytest_proofpack.pack.terms import TERMS

    if option.nargs == 0:
        return bool
    if isinstance(option.default, list):
        return list
    term = TERMS.get(option.option_strings[0].removeprefix("--"))
    return int if term is not None and term.whole_number else str


def _heed_policy(given: "argparse.Namespace", packs: "Iterable[Path]") -> None:
    """Set what a policy file says, where the command line says nothing."""
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.pack.policy import read_policy

    path = Path(given.policy)
    if any(path.resolve().is_relative_to(pack.resolve()) for pack in packs):
        raise ConfigurationError(f"--policy={path} lies inside of the pack, whose maker has no say in it. Write one.")
    options = {action.option_strings[0].removeprefix("--"): action for action in given.policy_options}
    policy = read_policy(path, {key: _kind(action) for key, action in options.items()})
    for key, value in policy.items():
        if not getattr(given, options[key].dest):
            setattr(given, options[key].dest, value)
