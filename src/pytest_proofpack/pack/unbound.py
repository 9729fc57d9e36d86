"""Packs of InvarLock 0.3.7, whose manifest names files without digests: what one can be, and what cannot pass for one.

Everybody can write such a manifest for files of theirs, or for a pack of ours from which they took what speaks against
them. So a pack is read as one only if there is nothing in it that InvarLock 0.3.7 does not write.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack.layout import is_certificate
from pytest_proofpack.pack.manifest import FORMAT

_REQUIRED = frozenset({"format", "invarlock_version", "artifacts"})
_KEYS = _REQUIRED | {
    "checksums_sha256", "determinism", "determinism_repeats", "generated_at", "model_licenses", "model_list", "models",
    "network_mode", "repeats", "run_dir", "suite", "verification",
}  # fmt: skip
"""All that its manifest ever holds."""
_NAMES = re.compile(
    r"README\.md"
    r"|results/(?:verdicts/|analysis/)?[a-z_]+\.(?:json|txt|csv)"
    r"|(?:state|metadata)/(?:model_revisions|scenarios)\.json"
    r"|certs/[^/]+/.+/(?:evaluation\.cert\.json|evaluation\.html|verify\.json)"
)
"""All files that it ever packs."""
_CERTIFICATE_KEYS = frozenset({"primary_metric", "validation", "evaluation_windows"})


def is_unbound(document: JsonObject) -> bool:
    """Tell whether this is a manifest of InvarLock 0.3.7.

    One of ours that lost its digests is not, because of any key in it that InvarLock does not write.
    """
    artifacts = document.get("artifacts")
    return (
        document.keys() >= _REQUIRED
        and document.keys() <= _KEYS
        and document["format"] == FORMAT
        and isinstance(document["invarlock_version"], str)
        and isinstance(artifacts, list)
        and all(isinstance(name, str) for name in artifacts)
    )


def foreign_names(names: Iterable[str]) -> list[str]:
    """Name every file that InvarLock 0.3.7 does not pack."""
    return [
        f"{name!a}: no file of a pack of InvarLock 0.3.7 has this name"
        for name in sorted(names)
        if not _NAMES.fullmatch(name)
    ]


def foreign_documents(documents: Mapping[str, JsonObject]) -> Iterator[str]:
    """Name every document that is of this package, and every certificate under the name of something else."""
    for path, document in sorted(documents.items()):
        if is_certificate(path):
            if _is_ours(document):
                yield f"{path}: a certificate of pytest-proofpack, whose own manifest was taken away"
        elif len(_CERTIFICATE_KEYS & document.keys()) > 1:
            yield f"{path}: a certificate under another name"
        elif "checked_with" in document or "plan" in document:
            yield f"{path}: a file of pytest-proofpack, whose own manifest was taken away"


def _is_ours(certificate: Mapping[str, Any]) -> bool:
    windows = certificate.get("evaluation_windows")
    final = windows.get("final") if isinstance(windows, dict) else None
    evidence = isinstance(final, dict) and "baseline_logloss" in final
    return evidence or not {"certificate_format", "certificate_digest"}.isdisjoint(certificate)
