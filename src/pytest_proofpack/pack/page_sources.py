"""What pages are made of again, outside of the session that made the run: read from a pack, or from a run directory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.certificate.formats import format_of
from pytest_proofpack.certificate.schema import certificate_findings
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, parse_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError, FormatError
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.layout import V1
from pytest_proofpack.pack.manifest import pinned_facts
from pytest_proofpack.pack.public import read_structure

_LISTS = ("artifacts", "artifact_digests")
_RUN = "state/run.json"


@dataclass(frozen=True)
class PageSources:
    """Everything that pages show.

    Attributes:
        verdict: counted from the certificates.
        facts: what the manifest says, without its list of files; of a run directory, as much of it as is known.
        certificates: by their paths in a pack; each fits its schema, and nothing else is known of it.
        files: the bytes of their files, by the same paths.
    """

    verdict: JsonObject
    facts: JsonObject
    certificates: Mapping[str, JsonObject]
    files: Mapping[str, bytes]


def read_sources(directory: Path) -> PageSources:
    """Read a pack, or the directory of a run, finished or not. Nothing is verified.

    Raises:
        ConfigurationError: there is no such directory, or it is neither.
        FormatError: a document in it is missing or not what its format demands.
        VerificationError: it holds far more than any pack.
    """
    if (directory / where.MANIFEST).is_file():
        return _of_pack(directory)
    if (directory / "state/scenarios.json").is_file():
        return _of_run(directory)
    if not directory.is_dir():
        raise ConfigurationError(f"{directory}: there is no such directory. Name that of a pack or a run.")
    raise ConfigurationError(
        f"{directory}: holds neither {where.MANIFEST} nor state/scenarios.json. Name the directory of a pack or a run."
    )


def _of_pack(directory: Path) -> PageSources:
    structure = read_structure(directory)
    documents = structure.certificate_documents
    return PageSources(
        verdict=compute_verdict(structure.scenarios, documents.values(), structure.sha256),
        facts={key: value for key, value in structure.documents[where.MANIFEST].items() if key not in _LISTS},
        certificates=documents,
        files={path: structure.snapshot.contents[path] for path in documents},
    )


def _of_run(directory: Path) -> PageSources:
    scenarios = _document(directory, "state/scenarios.json")
    if findings := schema_findings("scenarios", scenarios):
        raise FormatError(f"{directory}/state/scenarios.json: {printable(findings[0])}")
    certificates, files = {}, {}
    for source, data in _certificate_files(directory):
        path = V1.pack_path(source)
        document = parse_json(data, source)
        if findings := certificate_findings(document):
            raise FormatError(f"{directory}/{source}: {printable(findings[0])}. Delete it and make it again.")
        if path is not None:
            certificates[path], files[path] = document, data
    if not certificates:
        raise ConfigurationError(f"{directory}: holds no certificate yet.")
    sha256 = format_of(next(iter(certificates.values()))).sha256
    return PageSources(
        verdict=compute_verdict(scenarios, certificates.values(), sha256),
        facts=_run_facts(directory, scenarios),
        certificates=certificates,
        files=files,
    )


def _certificate_files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for file in sorted(directory.glob(f"*/certificates/**/{where.CERTIFICATE_FILE}")):
        yield file.relative_to(directory).as_posix(), _bytes(file)


def _run_facts(directory: Path, scenarios: JsonObject) -> JsonObject:
    """Return what a manifest would say, as far as the run directory knows it."""
    marker = _document(directory, _RUN) if (directory / _RUN).is_file() else {}
    known = pinned_facts(_document(directory, "state/model_revisions.json"))
    models = scenarios["plan"]["models"]
    return {
        "suite": scenarios["plan"]["suite"],
        "models": [{"model_id": model, "revision": known.get(model, {}).get("revision")} for model in models],
        **{key: marker[key] for key in ("tool", "determinism", "network_mode") if key in marker},
    }


def _document(directory: Path, name: str) -> JsonObject:
    return parse_json(_bytes(directory / name), name)


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read ({error.strerror}).") from error
