"""What is attested: an in-toto Statement v1 with a test-result predicate, which follows from the pack alone.

So whoever verifies makes the statement anew and compares; what it says needs no belief beyond the pack's own.

Forms: https://github.com/in-toto/attestation, spec/v1/statement.md and spec/predicates/test-result.md. The predicate
``eval-result`` that was proposed there (pull request 575) is not in its directory yet, has one threshold a claim and
wants salted names of model and data; a certificate has many gates and names both, so ``test-result`` says more of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256

from pytest_proofpack.certificate.derive import is_loaded
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.common.words import shortened
from pytest_proofpack.pack.layout import MANIFEST

TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://in-toto.io/attestation/test-result/v0.1"
_WHAT = "the attested statement"
_SHOWN = 100


def make_statement(
    manifest: bytes, configuration: Mapping[str, str], verdict: JsonObject, certificates: Iterable[JsonObject]
) -> JsonObject:
    """Return the statement of a pack.

    Args:
        manifest: the bytes of ``manifest.json``, through which every other file is attested.
        configuration: SHA-256 of what says what was to be tested, by its path in the pack.
        verdict: the verdict.
        certificates: every certificate.
    """
    tests = _tests(verdict)
    return {
        "_type": TYPE,
        "subject": [_resource(name, digest) for name, digest in _subjects(manifest, certificates).items()],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "result": "PASSED" if verdict["verdict"] == "PASS" else "FAILED",
            "configuration": [_resource(name, digest) for name, digest in sorted(configuration.items())],
            **tests,
        },
    }


def statement_bytes(statement: JsonObject) -> bytes:
    """Return the payload of the envelope."""
    return compact_json(statement).encode()


def parse_statement(payload: bytes) -> JsonObject:
    """Return the statement of a payload that may hold anything.

    Raises:
        FormatError: it is not strict JSON within the budgets.
    """
    return parse_json(payload, _WHAT, max_bytes=BUDGETS.attestation_bytes, max_values=BUDGETS.json_values)


def form_findings(statement: JsonObject, manifest: bytes) -> Iterator[str]:
    """Name what makes this no statement about the pack with this manifest, whatever else it says."""
    for key, wanted in (("_type", TYPE), ("predicateType", PREDICATE_TYPE)):
        if statement.get(key) != wanted:
            yield f"{_WHAT}: {key} is {_shown(statement.get(key))}, not {wanted}"
    subjects = statement.get("subject")
    if not isinstance(subjects, list) or _resource(MANIFEST, sha256(manifest).hexdigest()) not in subjects:
        yield f"{_WHAT} is about another pack: {MANIFEST} with this digest is not among its subjects"


def statement_findings(statement: JsonObject, expected: JsonObject) -> Iterator[str]:
    """Name what a statement says of the pack that is not so; fields that it has beyond ours are let be (in-toto)."""
    found = [compact_json(subject) for subject in statement["subject"]]
    wanted = {compact_json(subject): subject["name"] for subject in expected["subject"]}
    there = set(found)
    for text, name in wanted.items():
        if text not in there:
            yield f"{_WHAT}: the digest of {name!r} is missing, or another"
    for text in found:
        if text not in wanted:
            yield f"{_WHAT}: its subject {shortened(text, _SHOWN)} is none of this pack"
    if len(found) > len(there):
        yield f"{_WHAT}: names a subject twice"
    predicate = statement.get("predicate")
    for key, value in expected["predicate"].items():
        said = predicate.get(key) if isinstance(predicate, dict) else None
        if compact_json(said) != compact_json(value):
            yield f"{_WHAT}: predicate.{key} is {_shown(said)}, where the pack gives {_shown(value)}"


def _subjects(manifest: bytes, certificates: Iterable[JsonObject]) -> dict[str, str]:
    """Return the digest of everything that is attested: of models, the root of their directory (OpenSSF model signing).

    A model that was edited in memory is no artifact that anybody holds, and is no subject.
    """
    models: dict[str, str] = {}
    for certificate in certificates:
        model, digests = certificate["meta"]["model_id"], certificate["provenance"]["model_digest"]
        models[f"baseline {model}"] = digests["baseline"]
        if is_loaded(certificate):
            models[f"subject {certificate['scenario']['id']} of {model}"] = digests["subject"]
    return {MANIFEST: sha256(manifest).hexdigest(), **dict(sorted(models.items()))}


def _tests(verdict: JsonObject) -> dict[str, list[str]]:
    """Return the certificates by whether they are as demanded, with warnings or without, or not, or absent."""
    tests: dict[str, list[str]] = {"passedTests": [], "warnedTests": [], "failedTests": []}
    for row in verdict["certificates"]:
        kind = "failedTests" if not row["as_expected"] else "warnedTests" if row.get("warnings") else "passedTests"
        tests[kind].append(_name(row))
    tests["failedTests"] += [_name(row) for row in verdict["missing"]]
    return {kind: sorted(names) for kind, names in tests.items()}


def _name(row: JsonObject) -> str:
    return f"{row['model']} {row['scenario']} run {row['run']}"


def _resource(name: str, digest: str) -> JsonObject:
    return {"name": name, "digest": {"sha256": digest}}


def _shown(value: object) -> str:
    return shortened(repr(value), _SHOWN)
