"""What an outsider can do to a pack: change it, and make agree what can be made to agree without the maker's key."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from tests.support.forgery import (
    Change,
    change_document,
    files_of,
    forge_certificate,
    load,
    recompute_verdict,
    reseal,
    rewrite_checksums,
)
from tests.support.openpgp import Keyring

Attack = Callable[[Path], object]
QUANT = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"
STRESS = "certs/acme__tiny-1m/prune_50pct_stress/run_1/evaluation.cert.json"
SCENARIOS, TUNED, REVISIONS = "state/scenarios.json", "state/tuned_edit_params.json", "state/model_revisions.json"
VERDICT, VERDICT_TEXT = "results/final_verdict.json", "results/final_verdict.txt"
SUMMARY = "results/verification_summary.json"
INVARLOCK_KEYS = (
    "format", "generated_at", "suite", "network_mode", "determinism", "repeats", "determinism_repeats", "model_list",
    "models", "checksums_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Stranger:
    """Somebody else who has a key of their own."""

    ring: Keyring
    key: str

    def sign(self, pack: Path) -> None:
        """Sign the manifest as it is, and make the checksums agree."""
        manifest = (pack / "manifest.json").read_bytes()
        (pack / "manifest.json.asc").write_bytes(self.ring.sign(manifest, self.key))
        rewrite_checksums(pack)


def resealed(attack: Attack, change: Change | None = None) -> Attack:
    """Do something, then make digests and checksums agree; the signature has to go."""

    def run(pack: Path) -> None:
        attack(pack)
        reseal(pack, change)

    return run


def manifest(change: Change) -> Attack:
    """Change the manifest, digests and checksums made to agree; the signature has to go."""
    return lambda pack: reseal(pack, change)


def manifest_kept(change: Change) -> Attack:
    """Change the manifest beneath its signature."""

    def run(pack: Path) -> None:
        document = load(pack / "manifest.json")
        change(document)
        (pack / "manifest.json").write_text(pretty_json(document), encoding="utf-8")
        rewrite_checksums(pack)

    return run


def document(path: str, change: Change) -> Attack:
    """Change a JSON document, all that covers it made to agree."""
    return resealed(lambda pack: change_document(pack / path, change))


def certificate(path: str, change: Change, *, redigest: bool = True) -> Attack:
    """Change a certificate and what is made from it, all that covers it made to agree."""
    return resealed(lambda pack: forge_certificate(pack, path, change, redigest=redigest))


def scenario(change: Change) -> Attack:
    """Change the scenarios and the verdict that follows from them."""

    def run(pack: Path) -> None:
        change_document(pack / SCENARIOS, change)
        recompute_verdict(pack)
        verdict = load(pack / VERDICT)["verdict"]
        reseal(pack, lambda document: document.update(verdict=verdict))

    return run


def with_checksums(attack: Attack) -> Attack:
    """Do something and make the checksums agree; manifest and signature stay."""

    def run(pack: Path) -> None:
        attack(pack)
        rewrite_checksums(pack)

    return run


def written(name: str, content: str | bytes = "{}") -> Attack:
    """Write a file, its folders too."""

    def run(pack: Path) -> None:
        (pack / name).parent.mkdir(parents=True, exist_ok=True)
        (pack / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return run


def removed(name: str) -> Attack:
    """Remove a file, and its folder if that is empty then."""

    def run(pack: Path) -> None:
        (pack / name).unlink()
        if not any((pack / name).parent.iterdir()):
            (pack / name).parent.rmdir()

    return run


def renamed(old: str, new: str) -> Attack:
    """Give a file another name."""

    def run(pack: Path) -> None:
        (pack / new).parent.mkdir(parents=True, exist_ok=True)
        (pack / old).rename(pack / new)

    return run


def flipped(name: str) -> Attack:
    """Change the last byte of a file."""

    def run(pack: Path) -> None:
        data = (pack / name).read_bytes()
        (pack / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))

    return run


def as_invarlock(pack: Path, keep: Callable[[str], bool], **more: object) -> None:
    """Cut a pack down to some files, under an unsigned manifest that calls itself InvarLock 0.3.7's."""
    ours = load(pack / "manifest.json")
    for name in files_of(pack):
        if not keep(name) or name == "manifest.json.asc":
            removed(name)(pack)
    _prune(pack)
    theirs: JsonObject = {key: ours[key] for key in INVARLOCK_KEYS}
    names = [name for name in files_of(pack) if name not in {"manifest.json", "checksums.sha256"}]
    theirs |= {"invarlock_version": "0.3.7", "run_dir": "/data/run", "artifacts": names, **more}
    (pack / "manifest.json").write_text(json.dumps(theirs), encoding="utf-8")
    rewrite_checksums(pack)


def checksum_line(name: str, data: bytes = b"") -> str:
    """Return a line of checksums.sha256."""
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def _prune(folder: Path) -> None:
    for child in sorted(folder.rglob("*"), reverse=True):
        if child.is_dir() and not any(child.iterdir()):
            child.rmdir()
