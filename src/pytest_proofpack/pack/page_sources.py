"""What pages are made of again, outside of the session that made the run: read from a pack, or from a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.layout import V1
from pytest_proofpack.pack.manifest import pinned_facts
from pytest_proofpack.pack.public import read_structure
from pytest_proofpack.pack.run_files import read_document, read_run

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
    run = read_run(directory)
    places = {path: found for path in run.files if (found := V1.pack_path(path)) is not None}
    return PageSources(
        verdict=compute_verdict(run.scenarios, run.certificate_documents.values(), run.sha256),
        facts=_run_facts(directory, run.scenarios),
        certificates={places[path]: document for path, document in run.certificate_documents.items()},
        files={places[path]: data for path, data in run.files.items()},
    )


def _run_facts(directory: Path, scenarios: JsonObject) -> JsonObject:
    """Return what a manifest would say, as far as the run directory knows it."""
    marker = read_document(directory, _RUN) if (directory / _RUN).exists() else {}
    known = pinned_facts(read_document(directory, V1.revisions))
    models = scenarios["plan"]["models"]
    return {
        "suite": scenarios["plan"]["suite"],
        "models": [{"model_id": model, "revision": known.get(model, {}).get("revision")} for model in models],
        **{key: marker[key] for key in ("tool", "determinism", "network_mode") if key in marker},
    }
