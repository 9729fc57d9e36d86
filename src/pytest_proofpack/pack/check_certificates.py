"""The steps that recompute the certificates, one each: all its numbers, and whether it lies where it belongs."""

from __future__ import annotations

from pytest_proofpack.certificate.check import recompute_certificate
from pytest_proofpack.certificate.foreign import unknown_guards
from pytest_proofpack.common.nonsense import making_sense
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import FormatError
from pytest_proofpack.pack import layout as where
from pytest_proofpack.pack.manifest import Manifest
from pytest_proofpack.pack.steps import StepOutcome, Structure


def check_one_certificate(path: str, structure: Structure, *, allow_unknown_guards: bool = False) -> StepOutcome:
    """Recompute everything in one certificate, and make sure that it lies where it belongs.

    Args:
        path: the certificate's.
        structure: the pack.
        allow_unknown_guards: whether numbers of guards that are not registered here pass with a warning.
    """
    certificate = structure.documents[path]
    manifest = structure.manifest
    if manifest is None:
        # A pack of InvarLock 0.3.7 gets here only by --accept-unbound, and none of its certificates has evidence.
        return StepOutcome(warnings=(f"{path}: carries no window losses, so nothing in it can be recomputed",))
    findings = _place_findings(path, certificate, manifest)
    findings += recompute_any(certificate, allow_unknown_guards=allow_unknown_guards)
    findings += _check_file_findings(path, certificate, structure, clean=not findings)
    taken_on_trust = unknown_guards(certificate) if allow_unknown_guards else []
    return StepOutcome(
        tuple(f"{path}: {finding}" for finding in findings), tuple(f"{path}: {line}" for line in taken_on_trust)
    )


def recompute_any(certificate: JsonObject, *, allow_unknown_guards: bool) -> list[str]:
    """Check a certificate that fits its schema, whatever numbers it holds."""
    try:
        with making_sense():
            return recompute_certificate(certificate, allow_unknown_guards=allow_unknown_guards)
    except FormatError as error:
        return [str(error)]


def _place_findings(path: str, certificate: JsonObject, manifest: Manifest) -> list[str]:
    model = certificate["meta"]["model_id"]
    expected = where.expected_path(certificate, manifest.model_list)
    if expected is None:
        return [f"meta.model_id: {model!r} is not in the manifest's model_list"]
    findings = []
    if expected != path:
        findings.append(f"belongs at {expected}, by its model, scenario and run")
    revision = manifest.revisions.get(model)
    if certificate["meta"]["revision"] != revision:
        findings.append(f"meta.revision: recorded {certificate['meta']['revision']!r}, the manifest has {revision!r}")
    return findings


def _check_file_findings(path: str, certificate: JsonObject, structure: Structure, *, clean: bool) -> list[str]:
    """Compare the maker's ``verify.json`` with what was found here; a difference is news only if all else holds."""
    recorded = structure.documents.get(where.beside(path, where.CHECK_FILE))
    if recorded is None:
        return [f"{where.CHECK_FILE}: missing"]
    expected = {
        "certificate": where.CERTIFICATE_FILE,
        "certificate_digest": certificate["certificate_digest"],
        "certificate_sha256": structure.snapshot.files[path].sha256,
        "ok": True,
        "findings": [],
    }
    wrong = [key for key, value in expected.items() if compact_json(recorded.get(key)) != compact_json(value)]
    return [f"{where.CHECK_FILE}: {key} is not what the certificate gives" for key in wrong] if clean else []
