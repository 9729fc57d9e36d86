"""The step that compares files with manifest and checksums: nothing extra, missing, changed or unsafe."""

from __future__ import annotations

from collections.abc import Mapping

from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.pack.layout import CHECKSUMS
from pytest_proofpack.pack.manifest import parse_checksums
from pytest_proofpack.pack.paths import path_findings
from pytest_proofpack.pack.snapshot import FileFacts, Snapshot
from pytest_proofpack.pack.steps import Opened, StepOutcome
from pytest_proofpack.pack.unbound import foreign_names


def check_files(opened: Opened) -> StepOutcome:
    """Compare names, sizes and digests."""
    snapshot, names = opened.snapshot, opened.listed
    findings = list(snapshot.findings)
    findings += path_findings(names)
    if opened.manifest is None:
        findings += foreign_names(names)
    else:
        findings += [
            f"{name!a}: no file of a pack has this name" for name in sorted(names) if not _belongs(name, opened)
        ]
        findings += _digest_findings(opened.manifest.digests, snapshot.files)
        if opened.document["artifacts"] != sorted(names):
            findings.append("manifest.json: artifacts and artifact_digests name different files")
    found = snapshot.files.keys() - opened.control_files
    findings += [f"{name!a}: an extra file that manifest.json does not name" for name in sorted(found - names)]
    findings += [f"{name!a}: missing; manifest.json names it" for name in sorted(names - found)]
    findings += _checksum_findings(snapshot)
    return StepOutcome(tuple(dict.fromkeys(findings)), note=f"{len(snapshot.files)} files")


def _belongs(name: str, opened: Opened) -> bool:
    return name not in opened.control_files and opened.layout.knows(name)


def _digest_findings(expected: Mapping[str, FileFacts], found: Mapping[str, FileFacts]) -> list[str]:
    findings = []
    for name in sorted(expected.keys() & found.keys()):
        if found[name].size != expected[name].size:
            findings.append(f"{name!a}: {found[name].size} bytes, manifest.json says {expected[name].size}")
        elif found[name].sha256 != expected[name].sha256:
            findings.append(f"{name!a}: changed; its digest is not the one in manifest.json")
    return findings


def _checksum_findings(snapshot: Snapshot) -> list[str]:
    data = snapshot.contents[CHECKSUMS]
    if (lines := data.count(b"\n")) > BUDGETS.files:
        return [f"{CHECKSUMS}: {lines} lines, more than the {BUDGETS.files} allowed"]
    digests, findings = parse_checksums(data.decode("utf-8", "replace"))
    expected = {name: facts.sha256 for name, facts in snapshot.files.items() if name != CHECKSUMS}
    findings += path_findings(digests)
    findings += [f"{CHECKSUMS}: does not list {name!a}" for name in sorted(expected.keys() - digests.keys())]
    findings += [f"{CHECKSUMS}: lists {name!a}, missing" for name in sorted(digests.keys() - expected.keys())]
    return findings + [
        f"{CHECKSUMS}: the digest of {name!a} does not match"
        for name in sorted(expected.keys() & digests.keys())
        if digests[name] != expected[name]
    ]
