"""What two packs of one run have in common, whoever made them, and when."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject

_TIMES = {"volatile", "generated_at", "resolved_at", "signed_at"}


def documents(pack: Path) -> dict[str, JsonObject]:
    """Return every JSON document of a pack, but for times and what is volatile."""
    found = {str(path.relative_to(pack)): _timeless(json.loads(path.read_text())) for path in pack.rglob("*.json")}
    del found["manifest.json"]["artifact_digests"]  # of files with times in them
    return {path: document for path, document in found.items() if not path.endswith("verify.json")}


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(entry) for entry in value]
    if not isinstance(value, dict):
        return value
    return {key: _timeless(entry) for key, entry in value.items() if key not in _TIMES}
