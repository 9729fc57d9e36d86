"""Demands on the signature. The step ``signature`` enforces them: a pack that breaks them is not even parsed."""

from __future__ import annotations

from pytest_proofpack.pack.key_files import read_key_files
from pytest_proofpack.pack.signers import normal_key
from pytest_proofpack.pack.terms.term import Term

TRUSTED_KEY = Term(
    "trusted-key",
    "demand a signature by this key (full fingerprint); may be given several times: by one of them",
    "FPR",
    lambda text: normal_key(text, "trusted key"),
    judge=None,
    repeatable=True,
)
TRUSTED_KEY_FILE = Term(
    "trusted-key-file",
    "the same by a public key in this file, whatever your keyring holds; may be given several times",
    "FILE",
    lambda text: read_key_files((text,), "--trusted-key-file")[0],
    judge=None,
    repeatable=True,
)
REQUIRE_SIGNATURE = Term("require-signature", "fail if the pack is unsigned", None, str, judge=None)
