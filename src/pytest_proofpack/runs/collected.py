"""The certificates of a run that several directories hold: read as a stranger's, and judged again.

What one session knows of its inputs, nobody does here: there is no model and no text. So the certificates of a model
are judged as a resumed session judges what it finds, with what the first of them says of how it was made in the place
of what the session would do; then all are compared with each other, as verification does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pytest_proofpack.certificate.agreement import disagreements
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import certificate_key
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.pack.check_structure import resample_findings
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plan.scenarios import parse_scenarios
from pytest_proofpack.runs.conditions import LIBRARIES, Conditions, conditions_of, reading_of, why_not
from pytest_proofpack.runs.paths import certificate_path
from pytest_proofpack.runs.run import Run
from pytest_proofpack.runs.shards import Part, missing_shards

_SHOWN = 5
"""So many findings are told; the number of the others is."""
_NAMED = 3
"""So many missing certificates are named."""


class Found(NamedTuple):
    """A certificate that fits the schema and lies where it belongs.

    Attributes:
        path: its file.
        part: the directory that holds it.
        certificate: the document.
    """

    path: Path
    part: Part
    certificate: JsonObject


Collected = Mapping[str, Sequence[Found]]
"""What there is of every certificate of a run, by the id of its request, in the order of the plan."""


def collect(run: Run, parts: Sequence[Part]) -> Collected:
    """Read every certificate of a run, from wherever it is.

    Raises:
        ConfigurationError: one is missing, or what lies there is none.
    """
    collected: dict[str, list[Found]] = {}
    missing: list[CertificateRequest] = []
    findings: list[str] = []
    size = 0
    for request in run.requests:
        there = [(path, part) for part in parts if (path := part.file(certificate_path(Path(), request))) is not None]
        if not there:
            missing.append(request)
        size += sum(path.stat().st_size for path, _ in there)
        if size > BUDGETS.json_bytes * len(parts):
            raise ConfigurationError(f"certificates of {size} bytes; no run has so many. Nothing was written.")
        for path, part in there:
            certificate = _read(path, part.directory, request, findings)
            if certificate is not None:
                collected.setdefault(request.id, []).append(Found(path, part, certificate))
    if missing:
        raise ConfigurationError(_absence(run, parts, missing))
    refuse(findings)
    refuse(resample_findings({str(found.path): found.certificate for found in _all(collected)}))
    return collected


def judge(run: Run, collected: Collected) -> None:
    """Judge every certificate by itself, then all of them together.

    Raises:
        ConfigurationError: one does not hold, is not of this run, or contradicts another.
    """
    refuse(list(_findings(run, collected)))
    chosen = {str(found.path): found.certificate for found, *_ in collected.values()}
    refuse([*_device_findings(chosen), *_version_findings(chosen)])
    refuse(list(disagreements(chosen)))


def told(collected: Collected) -> Iterator[str]:
    """Yield what people should know of how the parts of a run go together, a line each."""
    duplicates = sum(len(found) - 1 for found in collected.values())
    if duplicates:
        yield f"{duplicates} certificates are there more than once, and equal"
    measured: defaultdict[tuple[str, str], set[Path]] = defaultdict(set)
    for found in _all(collected):
        meta = found.certificate["meta"]
        measured[meta["model_id"], meta["device"]].add(found.part.directory)
    for (model, device), directories in measured.items():
        if len(directories) > 1:
            yield f"{model}: measured unedited in {len(directories)} of them, on {device}, and they agree"
    devices = sorted({device for _, device in measured})
    if len(devices) > 1:
        yield f"the models were measured on different kinds of devices: {', '.join(devices)}"


def refuse(findings: Sequence[str]) -> None:
    """Raise what was found, if anything was.

    Raises:
        ConfigurationError: with the first few findings.
    """
    if findings:
        raise ConfigurationError(f"{printable(first_of(findings, _SHOWN, '; '))}. Nothing was written.")


def _all(collected: Collected) -> Iterator[Found]:
    for several in collected.values():
        yield from several


def _read(path: Path, directory: Path, request: CertificateRequest, findings: list[str]) -> JsonObject | None:
    """Return a certificate that fits the schema and is the one that belongs there; else note down what it is not."""
    try:
        document = read_json(path, str(path), max_bytes=BUDGETS.document_bytes, below=directory)
    except FormatError as error:
        findings.append(str(error))
        return None
    if wrong := certificate_findings(document):
        findings.append(f"{path}: {wrong[0]}")
        return None
    if certificate_key(document) != (request.model.id, request.scenario.id, request.run):
        findings.append(f"{path}: is another certificate than the one that belongs there")
        return None
    return document


def _absence(run: Run, parts: Sequence[Part], missing: Sequence[CertificateRequest]) -> str:
    named = ", ".join(request.id for request in missing[:_NAMED]) + (", ..." if len(missing) > _NAMED else "")
    absent = missing_shards(parts)
    advice = "Go on with the shard that was to make them, with --proofpack-resume."
    if absent is not None:
        advice = f"Bring the directories of the shards {absent} too."
    return printable(f"{len(missing)} of {len(run.requests)} certificates are missing ({named}). {advice}")


def _findings(run: Run, collected: Collected) -> Iterator[str]:
    """Name every certificate that does not hold or is not of this run, and those of which there are two."""
    subjects = {one.id: one.subject for one in parse_scenarios(run.suite.scenarios) if one.subject is not None}
    readings: dict[str, JsonObject] = {}
    for request in run.requests:
        readings.setdefault(request.scenario.id, reading_of(collected[request.id][0].certificate))
    made: dict[str, tuple[Conditions, Path]] = {}
    for request in run.requests:
        first, *others = collected[request.id]
        conditions, pattern = made.setdefault(
            request.model.id, (conditions_of(first.certificate, subjects, readings), first.path)
        )
        for found in (first, *others):
            why = why_not(found.certificate, request, run, conditions, None)
            if why is not None:
                beside = "" if found.path == pattern else f", and with {pattern}"
                yield f"{found.path}: {why} (compared with the plan{beside})"
        for found in others:
            if found.certificate["certificate_digest"] != first.certificate["certificate_digest"]:
                yield f"{found.path}: is another one than {first.path}; leave out one of the two directories"


def _device_findings(certificates: Mapping[str, JsonObject]) -> Iterator[str]:
    """Name every model that was measured on several kinds of devices."""
    kinds: defaultdict[str, dict[str, str]] = defaultdict(dict)
    for path, certificate in certificates.items():
        kinds[certificate["meta"]["model_id"]].setdefault(certificate["meta"]["device"], path)
    for model, paths in kinds.items():
        if len(paths) > 1:
            where = ", ".join(f"{kind}: {path}" for kind, path in sorted(paths.items()))
            yield f"{model} was measured on several kinds of devices, whose numbers cannot be compared ({where})"


def _version_findings(certificates: Mapping[str, JsonObject]) -> Iterator[str]:
    """Name every library of which several versions computed; builds for other devices are the same version."""
    for name in LIBRARIES:
        found: dict[str, str] = {}
        for path, certificate in certificates.items():
            known = certificate["volatile"].get("libraries")
            if isinstance(known, Mapping) and name in known:
                found.setdefault(str(known[name]).partition("+")[0], path)
        if len(found) > 1:
            several = ", ".join(f"{version} in {path}" for version, path in found.items())
            yield f"several versions of {name} have computed: {several}"
