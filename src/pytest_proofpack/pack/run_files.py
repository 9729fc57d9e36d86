"""Reading a run's directory, finished or not, as a stranger's pack is read: within budgets, nothing followed.

What the plan says is judged before anything is made of it, and no certificate is read that it does not expect. A run
that is under way lacks certificates; what is there has to be sound. Nothing is recomputed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.files import folder_names
from pytest_proofpack.common.reading import UnfitFileError, read_regular
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, count_values, parse_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import FormatError, VerificationError
from pytest_proofpack.pack.check_structure import plan_findings, resample_findings
from pytest_proofpack.pack.layout import CERTIFICATE_FILE, V1, Layout
from pytest_proofpack.plan.expected import Key, certificate_folder, expected_certificates
from pytest_proofpack.plan.records import Scenario


@dataclass(frozen=True)
class RunFiles:
    """The documents of a run's directory. Each fits its schema; together they are no more than a pack may hold.

    Attributes:
        documents: scenarios and tuned parameters, by their paths.
        certificate_documents: the certificates that the plan expects, by their paths in the directory, in its order.
        keys: which of them belongs there, by the same.
        files: the bytes of their files, by the same.
        layout: where things lie in the folder ``state``: as in a pack of the first layout.
    """

    documents: Mapping[str, JsonObject]
    certificate_documents: Mapping[str, JsonObject]
    keys: Mapping[str, Key]
    files: Mapping[str, bytes]
    layout: Layout = V1

    @property
    def scenarios(self) -> JsonObject:
        """The scenarios document with its plan."""
        return self.documents[V1.scenarios]

    @cached_property
    def expected(self) -> Mapping[Key, Scenario]:
        """Which certificates the plan expects; see :func:`expected_certificates`."""
        return expected_certificates(self.scenarios)

    def sha256(self, value: object) -> str:
        """Return the digest of a JSON value by the canonical form of the certificates' format."""
        return format_of(next(iter(self.certificate_documents.values()))).sha256(value)


def read_run(directory: Path) -> RunFiles:
    """Read the plan of a run, and those of its certificates that there are.

    Raises:
        FormatError: a document is missing, cannot be read, or is not what its format demands; there is no certificate.
        VerificationError: it plans or holds more than any run does, or certificates are of several formats.
    """
    scenarios = read_document(directory, V1.scenarios)
    _require_fit("scenarios", scenarios, directory / V1.scenarios)
    if "plan" not in scenarios:
        raise FormatError(f"{directory / V1.scenarios}: holds no plan")
    _refuse(plan_findings(scenarios, str(directory / V1.scenarios)))
    documents = {V1.scenarios: scenarios}
    if (directory / V1.tuned).exists():
        documents[V1.tuned] = read_document(directory, V1.tuned)
        _require_fit("tuned_edit_params", documents[V1.tuned], directory / V1.tuned)
    keys = _places(scenarios)
    files = _certificate_files(directory, keys)
    certificates = {path: _certificate(directory, path, data) for path, data in files.items()}
    if not certificates:
        raise FormatError(f"{directory}: holds no certificate. Is the run still under way?")
    _refuse([f"{directory}/{one}" for one in (*_format_findings(certificates), *resample_findings(certificates))])
    return RunFiles(documents, certificates, {path: keys[path] for path in certificates}, files)


def read_document(directory: Path, path: str) -> JsonObject:
    """Read a JSON document of a directory within the budgets of a pack's.

    Raises:
        FormatError: it cannot be read, or is none.
    """
    data = _bytes(directory, path)
    if data is None:
        raise FormatError(f"{directory / path}: cannot be read (there is no such file)")
    return parse_document(data, directory / path)


def parse_document(data: bytes, path: Path) -> JsonObject:
    """Parse a JSON document within the budgets of a pack's.

    Raises:
        FormatError: it is none.
    """
    return parse_json(data, str(path), max_bytes=BUDGETS.document_bytes, max_values=BUDGETS.json_values)


def _places(scenarios: JsonObject) -> dict[str, Key]:
    """Return the paths of the certificates that a plan expects, and which belongs there."""
    folders = folder_names(scenarios["plan"]["models"])
    return {
        f"{folders[key[0]]}/certificates/{certificate_folder(key[1], planned.category, key[2])}/{CERTIFICATE_FILE}": key
        for key, planned in expected_certificates(scenarios).items()
    }


def _certificate_files(directory: Path, places: Mapping[str, Key]) -> dict[str, bytes]:
    """Read the certificates that there are; none of them is parsed before all are known to be within the budgets."""
    files: dict[str, bytes] = {}
    size = values = 0
    for path in places:
        data = _bytes(directory, path)
        if data is None:
            continue
        files[path] = data
        size, values = size + len(data), values + count_values(data)
        if size > BUDGETS.json_bytes:
            raise VerificationError(
                f"{directory}: documents of more than {BUDGETS.json_bytes} bytes; no run has so many"
            )
    if values > (limit := BUDGETS.all_json_values(len(files))):
        raise VerificationError(f"{directory}: the documents hold {values} values, more than the {limit} allowed")
    return files


def _bytes(directory: Path, path: str) -> bytes | None:
    """Return what a file holds; None if there is none."""
    try:
        return read_regular(directory / path, BUDGETS.document_bytes, below=directory)
    except FileNotFoundError:
        return None
    except UnfitFileError as error:
        raise FormatError(f"{directory / path}: {error.strerror}") from error
    except (OSError, ValueError) as error:
        raise FormatError(
            f"{directory / path}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from error


def _certificate(directory: Path, path: str, data: bytes) -> JsonObject:
    certificate = parse_document(data, directory / path)
    if unfit := certificate_findings(certificate):
        raise FormatError(f"{directory / path}: is no certificate: {printable(unfit[0])}. Delete it and make it again.")
    return certificate


def _require_fit(schema: str, document: JsonObject, path: Path) -> None:
    if findings := schema_findings(schema, document):
        raise FormatError(f"{path}: {printable('; '.join(findings))}")


def _format_findings(certificates: Mapping[str, JsonObject]) -> list[str]:
    """Refuse certificates of several formats: one verdict counts them, and flags of one name mean different things."""
    (first, pattern), *others = ((path, format_of(one).number) for path, one in certificates.items())
    return [f"{path}: is of format {number}, and {first} of {pattern}" for path, number in others if number != pattern]


def _refuse(findings: list[str]) -> None:
    if findings:
        raise VerificationError(printable(findings[0]))
