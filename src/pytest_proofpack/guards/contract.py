"""Measurement contracts: how a guard's numbers were made, as a small JSON object, and its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def contract_hash(contract: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a contract, first 16 hexadecimal digits.

    Over ``json.dumps(contract, sort_keys=True, default=str)``, not over our canonical JSON: it is what InvarLock 0.3.7
    computes.
    """
    return hashlib.sha256(json.dumps(contract, sort_keys=True, default=str).encode()).hexdigest()[:16]
