"""Attesting by an identity that Sigstore certifies: against a fake of its services, with its own client."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack.attest import AttestRequest, open_attestor
from pytest_proofpack.pack.attestations import FILE
from pytest_proofpack.pack.attestations.bundle import parse_bundle
from pytest_proofpack.pack.attestations.by_identity import SIGSTORE
from pytest_proofpack.pack.attestations.trust import AttestTrust
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import PackVerifier, VerificationReport, verify_pack
from tests.support.attest_keys import AttestKey
from tests.support.certificates import RunFiles
from tests.support.packs import pack_of
from tests.support.sigstore_services import IDENTITY, ISSUER, SigstoreServices, sigstore_services


@pytest.fixture(scope="module")
def services() -> Iterator[SigstoreServices]:
    with sigstore_services() as running:
        yield running


@pytest.fixture(scope="module")
def original(run_files: RunFiles, services: SigstoreServices, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("attested")
    attest = AttestRequest("sigstore", trust_config=str(services.write_trust_config(folder)))
    return pack_of(run_files.directory, folder / "pack", attest=attest, network_mode="online")


def trust(services: SigstoreServices, identity: str = IDENTITY, issuer: str = ISSUER) -> AttestTrust:
    return AttestTrust((), identity, issuer, json.dumps(services.trust_config()).encode())


def attestation_findings(pack: Path, whom: AttestTrust) -> str:
    return " | ".join(PackVerifier(pack, Demands(attesters=whom)).run("attestation").findings)


def findings(report: VerificationReport) -> str:
    return " | ".join(finding for step in report.steps for finding in step.findings)


def test_the_identity_and_its_issuer_are_pinned(pack: Path, services: SigstoreServices) -> None:
    report = verify_pack(pack, Demands(attesters=trust(services)))
    assert report.ok, findings(report)
    assert report.attestation is not None
    assert report.attestation.sentence == f"attested by {IDENTITY} (says {ISSUER}), pinned"


def test_the_bundle_is_one_of_version_0_3(pack: Path) -> None:
    bundle = json.loads((pack / FILE).read_bytes())
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert bundle["verificationMaterial"].keys() >= {"certificate", "tlogEntries"}


@pytest.mark.parametrize(
    ("identity", "issuer", "finding"),
    [
        ("https://github.com/evil/models/.github/workflows/certify.yml@refs/heads/main", ISSUER, "SANs do not match"),
        (IDENTITY, "https://accounts.example.org", "OIDCIssuer does not match"),
    ],
)
def test_another_identity_or_issuer_is_refused(
    pack: Path, services: SigstoreServices, identity: str, issuer: str, finding: str
) -> None:
    assert finding in attestation_findings(pack, trust(services, identity, issuer)).replace("'s ", "")


def test_services_that_are_not_trusted_count_for_nothing(pack: Path) -> None:
    """The same identity, certified by somebody else; and the public services know nothing of it."""
    with sigstore_services() as others:
        assert "does not hold" in attestation_findings(pack, trust(others))


def without_entry(bundle: JsonObject) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = []


def other_payload(bundle: JsonObject) -> None:
    bundle["dsseEnvelope"]["payload"] = "e30="


def other_time(bundle: JsonObject) -> None:
    bundle["verificationMaterial"]["tlogEntries"][0]["integratedTime"] = "1600000000"


def no_certificate(bundle: JsonObject) -> None:
    bundle["verificationMaterial"]["certificate"]["rawBytes"] = "AAAA"


def odd_entry(bundle: JsonObject) -> None:
    bundle["verificationMaterial"]["tlogEntries"] = [{"logIndex": {}}]


@pytest.mark.parametrize("change", [without_entry, other_payload, other_time, no_certificate, odd_entry])
def test_a_bundle_that_was_changed_is_refused(pack: Path, services: SigstoreServices, change: object) -> None:
    bundle = json.loads((pack / FILE).read_bytes())
    assert callable(change)
    change(bundle)
    (pack / FILE).write_text(json.dumps(bundle), encoding="utf-8")
    assert "the attestation does not hold" in attestation_findings(pack, trust(services))
    assert SIGSTORE.claimed(parse_bundle((pack / FILE).read_bytes()))


def test_without_an_identity_to_trust_it_is_attested_and_not_pinned(pack: Path) -> None:
    report = verify_pack(pack)
    assert report.ok, findings(report)
    assert report.attestation is not None
    assert not report.attestation.pinned
    assert report.attestation.attester == f"{IDENTITY} (says {ISSUER})"


def test_a_key_demanded_and_an_identity_given(pack: Path) -> None:
    assert "which is not one of those that are trusted" in attestation_findings(
        pack, AttestTrust((AttestKey().public_pem,))
    )


def test_verifying_asks_nobody(original: Path, services: SigstoreServices, tmp_path: Path) -> None:
    """In a process of its own, in which no socket can be made."""
    code = (
        "import socket, sys\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "from pytest_proofpack.commands.verify import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    config = services.write_trust_config(tmp_path)
    options = [f"--attest-identity={IDENTITY}", f"--attest-issuer={ISSUER}"]
    for extra, status in ([f"--attest-trust-config={config}"], 0), ([], 1):
        command = [sys.executable, "-c", code, str(original), *options, *extra]
        home = {"HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=home)
        assert done.returncode == status, done.stdout + done.stderr
        assert "network" not in done.stderr


def test_without_a_token_it_says_what_a_job_needs(
    services: SigstoreServices, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = AttestRequest("sigstore", trust_config=str(services.write_trust_config(tmp_path)))
    monkeypatch.delenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    with pytest.raises(PackError, match="id-token: write"):
        open_attestor(request, "online")
    monkeypatch.delenv("GITHUB_ACTIONS")
    with pytest.raises(PackError, match="there is no identity here"):
        open_attestor(request, "online")


@pytest.mark.parametrize("path", ["/api/v2/signingCert", "/api/v1/log/entries"])
def test_services_that_fail_are_named(services: SigstoreServices, tmp_path: Path, path: str) -> None:
    attesting = open_attestor(
        AttestRequest("sigstore", trust_config=str(services.write_trust_config(tmp_path))), "online"
    )
    assert attesting is not None
    services.refuses.add(path)
    try:
        with pytest.raises(PackError, match="Sigstore's services did not attest"):
            attesting.sign(b'{"_type": "https://in-toto.io/Statement/v1"}')
        statement = {
            "_type": "https://in-toto.io/Statement/v1",
            "subject": [{"name": "a", "digest": {"sha256": "0" * 64}}],
            "predicateType": "https://example.org/a",
            "predicate": {},
        }
        with pytest.raises(PackError, match="Sigstore's services did not attest"):
            attesting.sign(json.dumps(statement).encode())
    finally:
        services.refuses.clear()


def test_a_key_has_no_use(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no use for a key"):
        open_attestor(AttestRequest("sigstore", ("a.pem",)), "online")


@pytest.mark.parametrize("config", [b"", b"{}", b"\xff"])
def test_what_is_no_trust_config_is_a_usage_error(config: bytes) -> None:
    with pytest.raises(ConfigurationError, match="no client trust config"):
        AttestTrust((), IDENTITY, ISSUER, config)


@pytest.mark.parametrize("whom", [{"identity": IDENTITY}, {"issuer": ISSUER}, {"trust_config": b"{}"}])
def test_half_a_trust_is_a_usage_error(whom: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError, match="--attest-identity"):
        AttestTrust(**whom)  # type: ignore[arg-type]


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sigstore", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'pytest-proofpack\[sigstore\]'"):
        AttestTrust((), IDENTITY, ISSUER)
