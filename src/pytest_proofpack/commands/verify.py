"""``proofpack verify`` (and ``proofpack-verify``): verification without pytest, safe to use on a stranger's pack.

Nothing is imported at the top: see :mod:`pytest_proofpack.commands.main`.
"""

from pytest_proofpack.commands import Command

EXIT_GOOD, EXIT_NOT_VERIFIED, EXIT_UNMET = 0, 1, 3

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_proofpack.pack.demands import Demands
    from pytest_proofpack.pack.verify import Status, StepResult, VerificationReport


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Verify the pack that the command line names: the program ``proofpack-verify``.

    Returns:
        0: everything holds, and every demand is met; 1: something does not hold; 2: it cannot be verified (the command
        line cannot be used, there is no such directory); 3: all holds, but a demand is not met.
    """
    from pytest_proofpack.commands.main import run_alone

    return run_alone(COMMAND, "proofpack-verify", arguments)


def add_arguments(parser: "argparse.ArgumentParser") -> None:
    """Add what ``verify`` takes."""
    from pytest_proofpack.commands.demanding import add_demands

    parser.add_argument("directory", metavar="DIR", help="the pack")
    add_demands(parser)
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")


def run(given: "argparse.Namespace") -> int:
    """Verify, and print what is found as it is found.

    Raises:
        ConfigurationError: there is no such directory, a demand is not understood, or the JSON file cannot be written.
    """
    from pathlib import Path

    from pytest_proofpack.commands.demanding import demands_given
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.errors import VerificationError

    directory = Path(given.directory)
    demands = demands_given(given, [directory])
    json_file = _json_target(given.json, directory)
    try:
        return _verify(directory, demands, json_file)
    except VerificationError as error:
        tell(f"NOT VERIFIED: {error}")
        return EXIT_NOT_VERIFIED


def _json_target(name: "str | None", directory: "Path") -> "Path | None":
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError

    if name is None:
        return None
    path = Path(name)
    if path.resolve().is_relative_to(directory.resolve()):
        raise ConfigurationError(f"--json={name} lies inside of the pack. Name a file elsewhere.")
    return path


def _verify(directory: "Path", demands: "Demands", json_file: "Path | None") -> int:
    from pytest_proofpack.common.files import atomic_write
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.errors import ConfigurationError, StorageError
    from pytest_proofpack.pack.verify import PackVerifier

    verifier = PackVerifier(directory, demands)
    _print_steps(verifier.results())
    report = verifier.report()
    _print_facts(report)
    _print_end(report)
    _print_where(directory)
    if json_file is not None:
        try:
            atomic_write(json_file, pretty_json(report.to_json()))
        except StorageError as error:
            raise ConfigurationError(f"--json: {error}") from error
    if not report.ok:
        return EXIT_NOT_VERIFIED
    return EXIT_GOOD if report.accepted else EXIT_UNMET


def _print_steps(steps: "Iterable[StepResult]") -> None:
    """Print every step as it ends; certificates have one line together, and one more for each that fails."""
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.pack.verify import AGREEMENT, Status

    certificates = []
    for step in steps:
        if step.step.startswith("certificates["):
            certificates.append(step)
            continue
        if step.step == AGREEMENT:
            _print_certificates(certificates, step.status)
        note = step.note.removeprefix(f"{Status.NOT_REACHED}: ")
        tell(f"{step.step:<13} {step.status:<12} {note}".rstrip(), 27)
        _print_lines(step)


def _print_certificates(steps: "list[StepResult]", agreement: "Status") -> None:
    """Print how all certificates ended; of a pack that has none, whether it was known to be one."""
    from pytest_proofpack.pack.verify import Status

    found = {step.status for step in steps} or {agreement}
    status = next((worst for worst in (Status.FAILED, Status.NOT_REACHED) if worst in found), Status.PASSED)
    good = sum(step.status is Status.PASSED for step in steps)
    print(f"{'certificates':<13} {status:<12} {good} of {len(steps)} hold")
    for step in steps:
        _print_lines(step)


def _print_lines(step: "StepResult") -> None:
    from pytest_proofpack.commands.output import tell

    for finding in step.findings:
        tell(f"    {finding}")
    for warning in step.warnings:
        tell(f"    warning: {warning}")


def _print_facts(report: "VerificationReport") -> None:
    """Print what the pack says, if it holds, and what was demanded of it."""
    from pytest_proofpack.commands.output import columns, tell
    from pytest_proofpack.pack.facts_text import facts_lines

    if report.facts is not None:
        print()
        for line in facts_lines(report.facts, columns()):
            print(line)
    if report.demands:
        print()
    for demand in report.demands:
        tell(f"{'demand':<13} {'met' if demand.met else 'NOT MET':<12} {demand.demand}: {demand.why}", 27)


def _print_end(report: "VerificationReport") -> None:
    from pytest_proofpack.commands.output import tell

    print()
    if not report.ok:
        failed = sum(len(step.findings) for step in report.steps)
        tell(f"NOT VERIFIED: {failed} finding{'' if failed == 1 else 's'}.")
    elif report.unbound:
        tell(f"ACCEPTED UNBOUND, NOT VERIFIED: {report.not_covered[0]}.")
    elif report.unmet:
        number = f"{len(report.unmet)} of {len(report.demands)} demands"
        tell(f"VERIFIED, BUT NOT WHAT WAS DEMANDED ({number} not met); its verdict is {report.verdict}.")
    else:
        tell(f"VERIFIED: all that this pack claims holds; its verdict is {report.verdict}.")
    if report.ok and not report.unbound:
        for part in report.not_covered:
            tell(f"Not covered: {part}.")
    if report.ok and report.verdict not in {None, "PASS"}:
        tell(f"THE VERDICT OF THIS PACK IS {report.verdict}.")
    tell(f"{report.signer[0].upper()}{report.signer[1:]}.")
    if report.attestation is not None:
        sentence = report.attestation.sentence
        tell(f"{sentence[0].upper()}{sentence[1:]}.")
    if report.fingerprint and not report.pinned:
        tell(f"To demand this signer, once you know that the key is theirs: --trusted-key={report.fingerprint}")


def _print_where(directory: "Path") -> None:
    """Say where the pack is, if what was named is the directory of a run that has one."""
    from pytest_proofpack.commands.output import tell
    from pytest_proofpack.runs.paths import pack_within

    if (pack := pack_within(directory)) is not None:
        tell(f"This is no pack; there is one in it: {pack}")


COMMAND = Command(
    "verify",
    summary="verify a proof pack, your own or a stranger's",
    description="Verify a proof pack: files, signature, every number of every certificate, and the verdict. "
    "Nothing in the pack is executed.",
    epilog="Exit status: 0 everything holds and every demand is met, 1 something does not hold, 2 it cannot be "
    "verified (usage, no such directory), 3 everything holds but a demand is not met.",
    add_arguments=add_arguments,
    run=run,
)
