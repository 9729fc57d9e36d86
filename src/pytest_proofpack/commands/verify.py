"""The console script ``proofpack-verify``: verification without pytest, safe to use on a stranger's pack.

Only modules that the interpreter has loaded anyway are imported here, until the working directory is off the import
path: a pack may hold a file named like a module.
"""

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from pytest_proofpack.pack.verify import StepResult, VerificationReport, VerifyOptions

EXIT_VERIFIED, EXIT_FAILED, EXIT_USAGE = 0, 1, 4


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Verify the pack that the command line names.

    Returns:
        0: everything holds; 1: something does not; 4: the command line cannot be used, as in pytest.
    """
    forget_working_directory()
    import io
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError, VerificationError
    from pytest_proofpack.pack.verify import VerifyOptions

    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name must not stop the report
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as stop:
        return EXIT_USAGE if stop.code else EXIT_VERIFIED
    try:
        options = VerifyOptions(
            tuple(given.trusted_key), given.require_signature, given.accept_unbound, given.allow_unknown_guards
        )
        json_file = _json_target(given.json, Path(given.directory))
        return _verify(Path(given.directory), options, json_file)
    except ConfigurationError as error:
        print(f"proofpack-verify: {error}", file=sys.stderr)
        return EXIT_USAGE
    except VerificationError as error:
        print(f"NOT VERIFIED: {error}")
        return EXIT_FAILED


def forget_working_directory() -> None:
    """Take the working directory off the import path, whichever way it is written there."""
    here = os.path.realpath(os.getcwd())  # noqa: PTH109
    sys.path[:] = [entry for entry in sys.path if entry and os.path.realpath(entry) != here]


def _parser() -> "argparse.ArgumentParser":
    import argparse

    parser = argparse.ArgumentParser(
        prog="proofpack-verify",
        description="Verify a proof pack: files, signature, every number of every certificate, and the verdict. "
        "Nothing in the pack is executed.",
        epilog="Exit status: 0 everything holds, 1 something does not, 4 usage error.",
    )
    parser.add_argument("directory", metavar="DIR", help="the pack")
    parser.add_argument(
        *("--trusted-key", "--proofpack-trusted-key"),
        metavar="FPR",
        action="append",
        default=[],
        help="demand a signature by this key (full fingerprint); may be given several times",
    )
    parser.add_argument("--require-signature", action="store_true", help="fail if the pack is unsigned")
    parser.add_argument(
        "--accept-unbound",
        action="store_true",
        help="accept, with warnings, a pack of InvarLock 0.3.7, whose signature covers no certificate",
    )
    parser.add_argument(
        "--allow-unknown-guards",
        action="store_true",
        help="accept, with warnings, numbers of an extension's guard that is not installed here",
    )
    parser.add_argument("--json", metavar="FILE", help="write the result as JSON")
    return parser


def _json_target(name: "str | None", directory: "Path") -> "Path | None":
    from pathlib import Path

    from pytest_proofpack.errors import ConfigurationError

    if name is None:
        return None
    path = Path(name)
    if path.resolve().is_relative_to(directory.resolve()):
        raise ConfigurationError(f"--json={name} lies inside of the pack. Name a file elsewhere.")
    return path


def _verify(directory: "Path", options: "VerifyOptions", json_file: "Path | None") -> int:
    from pytest_proofpack.common.files import atomic_write
    from pytest_proofpack.common.strict_json import pretty_json
    from pytest_proofpack.errors import ConfigurationError
    from pytest_proofpack.pack.verify import PackVerifier

    verifier = PackVerifier(directory, options)
    _print_steps(verifier.results())
    report = verifier.report()
    _print_end(report)
    if json_file is not None:
        try:
            atomic_write(json_file, pretty_json(report.to_json()))
        except OSError as error:
            raise ConfigurationError(f"--json={json_file}: cannot be written ({error.strerror})") from error
    return EXIT_VERIFIED if report.ok else EXIT_FAILED


def _print_steps(steps: "Iterable[StepResult]") -> None:
    """Print every step as it ends; certificates have one line together, and one more for each that fails."""
    from pytest_proofpack.pack.verify import VERDICT

    certificates = []
    for step in steps:
        if step.step.startswith("certificates["):
            certificates.append(step)
            continue
        if step.step == VERDICT:
            _print_certificates(certificates)
        print(f"{step.step:<13} {step.status:<12} {step.note}".rstrip())
        _print_lines(step)


def _print_certificates(steps: "list[StepResult]") -> None:
    from pytest_proofpack.pack.verify import Status

    found = {step.status for step in steps}
    status = next((worst for worst in (Status.FAILED, Status.NOT_REACHED) if worst in found), Status.PASSED)
    good = sum(step.status is Status.PASSED for step in steps)
    print(f"{'certificates':<13} {status:<12} {good} of {len(steps)} hold")
    for step in steps:
        _print_lines(step)


def _print_lines(step: "StepResult") -> None:
    for finding in step.findings:
        print(f"    {finding}")
    for warning in step.warnings:
        print(f"    warning: {warning}")


def _print_end(report: "VerificationReport") -> None:
    print()
    if report.ok:
        verdict = f"its verdict is {report.verdict}" if report.verdict else "its verdict cannot be recomputed"
        print(f"VERIFIED: all that this pack claims holds; {verdict}.")
    else:
        failed = sum(len(step.findings) for step in report.steps)
        print(f"NOT VERIFIED: {failed} finding{'' if failed == 1 else 's'}.")
    print(f"{report.signer[0].upper()}{report.signer[1:]}.")
    if report.fingerprint and not report.pinned:
        print(f"To demand this signer, once you know that the key is theirs: --trusted-key={report.fingerprint}")


if __name__ == "__main__":
    sys.exit(main())
