"""The manifest: what a pack is, and the digest of every other file in it, so that one signature covers all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pytest_proofpack import __version__
from pytest_proofpack.certificate.formats import CURRENT
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.pack.layout import CHECKSUMS
from pytest_proofpack.pack.signers.openpgp import OPENPGP
from pytest_proofpack.pack.snapshot import FileFacts

FORMAT = "proof-pack-v1"
SCHEMA_VERSION = CURRENT.number
"""The format of the pack: of its digests, and of every certificate in it."""
TOOL: Mapping[str, str] = {"name": "pytest-proofpack", "version": __version__}

SELF_CHECK = (
    "A check that the pack's maker ran on its own certificates while packing. It proves nothing to anybody else: "
    "verify the pack yourself."
)


@dataclass(frozen=True)
class Signing:
    """Whether the maker signed the manifest.

    Attributes:
        fingerprint: who signs: the primary fingerprint of an OpenPGP key, or what another signer calls itself; None if
            unsigned.
        reason: why there is no signature; None if there is one.
        signer: name of the signer.
    """

    fingerprint: str | None
    reason: str | None
    signer: str = OPENPGP.name

    def to_json(self) -> JsonObject:
        """Return the manifest's ``signing`` block; it names the signer unless that is OpenPGP."""
        status = "unsigned" if self.fingerprint is None else "signed"
        named = {} if self.signer == OPENPGP.name else {"signer": self.signer}
        return {"status": status, "fingerprint": self.fingerprint, "reason": self.reason, **named}


@dataclass(frozen=True)
class Manifest:
    """A manifest.

    Attributes:
        generated_at: UTC, ``2026-01-31T12:00:00Z``.
        suite: name of the suite.
        network_mode: ``online`` or ``offline``.
        determinism: ``strict`` or ``throughput``.
        repeats: how often an edit was repeated.
        determinism_repeats: the drift summary of the repeats; None if there were none.
        model_list: ids in the order of the suite.
        revisions: revision of every model; None for a local directory.
        licenses: license of every model, None where it is not known.
        verification: the maker's self-check; see :data:`SELF_CHECK`.
        verdict: ``PASS`` or ``FAIL``.
        signing: whether the maker signed.
        digests: facts of every file but manifest, signature and checksums.
        extensions: what was added from outside to the package that made the certificates, as these have it.
        meta: facts that the maker states of the run, a commit for one; nothing in the pack can prove them.
    """

    generated_at: str
    suite: str
    network_mode: str
    determinism: str
    repeats: int
    determinism_repeats: JsonObject | None
    model_list: tuple[str, ...]
    revisions: Mapping[str, str | None]
    licenses: Mapping[str, str | None]
    verification: JsonObject
    verdict: str
    signing: Signing
    digests: Mapping[str, FileFacts]
    extensions: tuple[JsonObject, ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> JsonObject:
        """Return the document."""
        digests = {path: {"sha256": facts.sha256, "size": facts.size} for path, facts in self.digests.items()}
        return {**self.facts(), "artifacts": sorted(digests), "artifact_digests": digests}

    def facts(self) -> JsonObject:
        """Return the document without the list of files: what reports inside the pack may show."""
        return {
            "format": FORMAT,
            "schema_version": SCHEMA_VERSION,
            "tool": dict(TOOL),
            "generated_at": self.generated_at,
            "suite": self.suite,
            "network_mode": self.network_mode,
            "determinism": self.determinism,
            "repeats": self.repeats,
            "determinism_repeats": self.determinism_repeats,
            "model_list": list(self.model_list),
            "models": [{"model_id": model, "revision": self.revisions[model]} for model in sorted(self.model_list)],
            "model_licenses": dict(self.licenses),
            "verification": self.verification,
            "verdict": self.verdict,
            "signing": self.signing.to_json(),
            "checksums_sha256": CHECKSUMS,
            **({"extensions": list(self.extensions)} if self.extensions else {}),
            **({"meta": dict(self.meta)} if self.meta else {}),
        }


def parse_manifest(document: JsonObject) -> Manifest:
    """Return the manifest of a document that is valid against its schema."""
    signing = document["signing"]
    return Manifest(
        generated_at=document["generated_at"],
        suite=document["suite"],
        network_mode=document["network_mode"],
        determinism=document["determinism"],
        repeats=document["repeats"],
        determinism_repeats=document["determinism_repeats"],
        model_list=tuple(document["model_list"]),
        revisions={entry["model_id"]: entry["revision"] for entry in document["models"]},
        licenses=document["model_licenses"],
        verification=document["verification"],
        verdict=document["verdict"],
        signing=Signing(signing["fingerprint"], signing["reason"], signing.get("signer", OPENPGP.name)),
        digests={
            path: FileFacts(entry["sha256"], entry["size"]) for path, entry in document["artifact_digests"].items()
        },
        extensions=tuple(document.get("extensions", ())),
        meta=document.get("meta", {}),
    )


def extensions_of(certificates: Iterable[JsonObject]) -> tuple[JsonObject, ...]:
    """Return every extension that certificates were made with, once each, by name."""
    found = {
        compact_json(extension): extension
        for certificate in certificates
        for extension in certificate["provenance"].get("extensions", ())
    }
    return tuple(found[key] for key in sorted(found))


def pinned_facts(revisions: JsonObject, role: str = "models") -> dict[str, JsonObject]:
    """Return ``revision`` and ``license`` of every model or data set, from a file that may hold anything.

    Args:
        revisions: what ``model_revisions.json`` holds.
        role: ``models`` or ``datasets``.
    """
    entries = revisions.get(role)
    if not isinstance(entries, dict):
        return {}
    return {name: facts for name, facts in entries.items() if isinstance(facts, dict)}


def self_check(certificates: int, verdict: str) -> JsonObject:
    """Return the summary of the maker's self-check, made only when every check held."""
    return {
        "statement": SELF_CHECK,
        "checked_with": dict(TOOL),
        "certificates_total": certificates,
        "certificates_verified": certificates,
        "verdict_recomputed": verdict,
    }


def checksums_text(files: Mapping[str, FileFacts]) -> str:
    """Return the checksums file as ``sha256sum -c`` reads it."""
    return "".join(f"{files[path].sha256}  {path}\n" for path in sorted(files))


def parse_checksums(text: str) -> tuple[dict[str, str], list[str]]:
    """Read a checksums file.

    Returns:
        Digest by path (a leading ``./`` and the marker of binary mode are dropped), and one finding per line that
        cannot be read or names a file again.
    """
    digests: dict[str, str] = {}
    findings = []
    for number, line in enumerate(text.split("\n"), start=1):
        digest, separator, name = line[:64], line[64:66], line[66:].removeprefix("./")
        if not line:
            continue
        if separator not in {"  ", " *"} or not name or not _is_hex(digest) or name in digests:
            findings.append(f"{CHECKSUMS}: line {number} is not a checksum, or names a file a second time")
        else:
            digests[name] = digest
    return digests, findings


def _is_hex(text: str) -> bool:
    return len(text) == 64 and _all_in(text, "0123456789abcdef")


def _all_in(text: str, alphabet: Iterable[str]) -> bool:
    return set(text) <= set(alphabet)
