"""What a forger does to a pack: change something, then make digests, checksums and signatures agree again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.certificate.verdict import compute_verdict
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.errors import FormatError
from tests.support.openpgp import Keyring

CONTROL = {"manifest.json", "manifest.json.asc", "checksums.sha256"}
Change = Callable[[JsonObject], object]


def files_of(pack: Path) -> list[str]:
    """List every file of a pack by its relative path."""
    return sorted(path.relative_to(pack).as_posix() for path in pack.rglob("*") if path.is_file())


def load(path: Path) -> JsonObject:
    """Read a JSON object."""
    document: JsonObject = json.loads(path.read_bytes())
    return document


def change_document(path: Path, change: Change) -> None:
    """Change a JSON file in place."""
    document = load(path)
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")


def rewrite_checksums(pack: Path) -> None:
    """Make checksums.sha256 agree with the files."""
    names = [name for name in files_of(pack) if name != "checksums.sha256"]
    lines = [f"{hashlib.sha256((pack / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (pack / "checksums.sha256").write_text("".join(lines), encoding="utf-8")


def reseal(pack: Path, change: Change | None = None, signer: tuple[Keyring, str] | None = None) -> None:
    """Make the manifest's digests, the signature and the checksums agree with the files.

    Args:
        pack: the pack.
        change: a change to the manifest, made last.
        signer: signs the manifest anew; None leaves it unsigned, and says so in the manifest.
    """
    manifest = load(pack / "manifest.json")
    names = [name for name in files_of(pack) if name not in CONTROL]
    manifest["artifacts"] = names
    manifest["artifact_digests"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name in names
        for data in [(pack / name).read_bytes()]
    }
    status, fingerprint = ("signed", signer[1]) if signer else ("unsigned", None)
    manifest["signing"] = {"status": status, "fingerprint": fingerprint, "reason": None}
    if change:
        change(manifest)
    data = pretty_json(manifest).encode()
    (pack / "manifest.json").write_bytes(data)
    (pack / "manifest.json.asc").unlink(missing_ok=True)
    if signer:
        (pack / "manifest.json.asc").write_bytes(signer[0].sign(data, signer[1]))
    rewrite_checksums(pack)


def forge_certificate(pack: Path, path: str, change: Change, *, redigest: bool = True) -> None:
    """Change a certificate and everything in the pack that is made from it, except for manifest and checksums."""
    file = pack / path
    certificate = load(file)
    change(certificate)
    if redigest:
        with contextlib.suppress(FormatError):  # an integer that canonical JSON has no room for
            certificate = finish_certificate(certificate)
    file.write_text(json.dumps(certificate), encoding="utf-8")
    digests = {
        "certificate_digest": certificate["certificate_digest"],
        "certificate_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    change_document(file.with_name("verify.json"), lambda check: check.update(digests))
    recompute_verdict(pack)


def forge_evidence(pack: Path, path: str, change: Change) -> None:
    """Change a certificate's evidence, and with it whatever follows from that and is made of the certificate."""

    def consistently(certificate: JsonObject) -> None:
        change(certificate)
        with contextlib.suppress(FormatError):  # then it is refused by itself
            rederive(certificate)

    forge_certificate(pack, path, consistently)


def rederive(certificate: JsonObject) -> None:
    """Make whatever follows from a certificate's evidence follow from it again, but for its digest."""
    for _ in range(2):  # the bootstrap's seed follows from that of the run
        _merge(certificate, derive(certificate))


def _merge(certificate: JsonObject, derived: JsonObject) -> None:
    for key, value in derived.items():
        if isinstance(value, dict) and isinstance(certificate.get(key), dict):
            _merge(certificate[key], value)
        else:
            certificate[key] = value


def recompute_verdict(pack: Path) -> None:
    """Make the verdict agree with the certificates."""
    certificates = [load(path) for path in sorted(pack.glob("certs/**/evaluation.cert.json"))]
    verdict = compute_verdict(load(pack / "state/scenarios.json"), certificates)
    (pack / "results/final_verdict.json").write_text(pretty_json(verdict), encoding="utf-8")
