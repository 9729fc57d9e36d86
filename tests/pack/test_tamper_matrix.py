"""What somebody without the maker's key may try: every attack is rejected, each for its own stated reason."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from pytest_proofpack.certificate.policy import policy_digest
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.verify import Status, verify_pack
from tests.pack.conftest import Maker
from tests.support.certificates import make_run_directory
from tests.support.forgery import load, recompute_verdict, reseal, rewrite_checksums
from tests.support.packs import copy_of, keyring, pack_of, using
from tests.support.tampering import (
    QUANT,
    REVISIONS,
    SCENARIOS,
    STRESS,
    SUMMARY,
    TUNED,
    VERDICT,
    VERDICT_TEXT,
    Attack,
    Stranger,
    as_invarlock,
    certificate,
    checksum_line,
    document,
    flipped,
    manifest,
    manifest_kept,
    removed,
    renamed,
    resealed,
    scenario,
    with_checksums,
    written,
)

FOLDER = QUANT.removesuffix("evaluation.cert.json")
CHECK, PAGE = f"{FOLDER}verify.json", f"{FOLDER}evaluation.html"
LISTED = ("README.md", "index.html", QUANT, CHECK, PAGE, VERDICT, VERDICT_TEXT, SUMMARY, SCENARIOS, TUNED, REVISIONS)
OF_INVARLOCK = "is one of InvarLock 0.3.7, which names files without their digests"


class Case(NamedTuple):
    """An attack, the step that stops it, and words of the reason it gives."""

    name: str
    attack: Attack
    step: str
    reason: str


@pytest.fixture(scope="module")
def honest(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_directory(
        tmp_path_factory.mktemp("run"), runs={"calibration": 1, "clean": 1, "stress": 1, "error": 0}
    )
    with using(maker[0]):
        target = tmp_path_factory.mktemp("packs") / "pack"
        return pack_of(run.directory, target, sign=SigningMode.REQUIRED, html=True)


@pytest.fixture
def pack(honest: Path, gnupg: Maker, tmp_path: Path) -> Path:
    return copy_of(honest, tmp_path / "pack")


@pytest.fixture(scope="module")
def outsider(maker: Maker) -> Iterator[Stranger]:
    """Somebody whose public key the verifier has, and does not trust."""
    with keyring() as ring:
        key = ring.make_key("Outsider")
        ring.copy_public_keys_to(maker[0])
        yield Stranger(ring, key)


def rejected(pack: Path, case: Case, demands: Demands) -> None:
    """Make sure that a pack fails at one step, for one reason, and that nothing after it was reached."""
    case.attack(pack)
    report = verify_pack(pack, demands)
    assert not report.ok
    failed = [step for step in report.steps if step.status is Status.FAILED]
    assert failed, report.to_json()
    assert failed[0].step.partition("[")[0] == case.step, failed[0]
    assert case.reason in "\n".join(failed[0].findings)
    assert report.steps[-1].status is not Status.PASSED


def by_name(cases: list[Case]) -> list[object]:
    return [pytest.param(case, id=case.name) for case in cases]


# Beneath the signature: manifest and signature stay as they are, the checksums are made to agree.


def _grow(name: str, pack: Path) -> None:
    (pack / name).write_bytes((pack / name).read_bytes() + b"\n")


CHANGED = [
    *(Case(f"changed-{name}", with_checksums(flipped(name)), "files", f"{name!r}: changed") for name in LISTED),
    *(Case(f"grown-{name}", with_checksums(partial(_grow, name)), "files", "bytes, manifest.json says")
      for name in LISTED),
    *(Case(f"emptied-{name}", with_checksums(written(name, "")), "files", f"{name!r}: 0 bytes, manifest.json says")
      for name in LISTED),
    *(Case(f"removed-{name}", with_checksums(removed(name)), "files", f"{name!r}: missing; manifest.json names it")
      for name in LISTED),
]  # fmt: skip

EXTRA = [
    *(Case(f"extra-{name}", with_checksums(written(name)), "files", f"{name!r}: an extra file")
      for name in (
          "conftest.py", "pytest.ini", "pyproject.toml", "sitecustomize.py", "jsonschema.py", "evil.pth", ".hidden",
          "certs/acme__tiny-1m/quant_4bit_clean/run_2/evaluation.cert.json", f"{QUANT}.bak", "certs/other.json",
          "__pycache__/conftest.cpython-311.pyc", "state/notes.json", "manifest.json.sig", "results/eval_results.csv",
      )),
    Case("extra-unlisted", written("notes.txt"), "files", "checksums.sha256: does not list 'notes.txt'"),
    Case("extra-folder", lambda pack: (pack / "empty").mkdir(), "files", "'empty': an empty folder"),
    Case("extra-pipe", lambda pack: os.mkfifo(pack / "pipe"), "files", "'pipe': a device, a pipe or a socket"),
    Case("extra-link", lambda pack: (pack / "link").symlink_to("README.md"), "files", "'link': a symbolic link"),
    Case("extra-loop", lambda pack: (pack / "loop").symlink_to("loop"), "files", "'loop': a symbolic link"),
    Case("extra-twin", with_checksums(written("readme.md")), "files", "has a twin, 'README.md'"),
    Case("extra-wide-twin", with_checksums(written("ＲＥＡＤＭＥ.md")), "files", "has a twin, 'README.md'"),
    Case("extra-folder-twin", with_checksums(written("State/a")), "files", "has a twin, 'State'"),
    Case("extra-backslash", with_checksums(written("a\\b")), "files", "holds a backslash"),
    Case("extra-escape", with_checksums(written("a\x1b[2J")), "files", "a character that cannot be printed"),
    Case("extra-right-to-left", with_checksums(written("a\u202eb")), "files", "a character that cannot be printed"),
]  # fmt: skip

HIDDEN = [
    Case("hidden-certificate", with_checksums(renamed(QUANT, f"{FOLDER}evaluation.cert.jsn")), "files",
         f"{QUANT!r}: missing; manifest.json names it"),
    Case("swapped-certificates", with_checksums(lambda pack: shutil.copy(pack / STRESS, pack / QUANT)), "files",
         f"{QUANT!r}: "),
    Case("checksums-missing", removed("checksums.sha256"), "manifest", "checksums.sha256: missing"),
    Case("checksums-emptied", written("checksums.sha256", ""), "files", "checksums.sha256: does not list"),
    Case("checksums-nonsense", written("checksums.sha256", "nonsense\n"), "files", "line 1 is not a checksum"),
    Case("checksums-of-nothing", lambda pack: _append(pack, checksum_line("gone")), "files", "lists 'gone', missing"),
    Case("checksums-twice", lambda pack: _append(pack, checksum_line("README.md")), "files", "a second time"),
    Case("checksums-outside", lambda pack: _append(pack, checksum_line("../x")), "files", "leads outside"),
    Case("checksums-without-end", written("checksums.sha256", "\n" * 30_000), "files", "30000 lines, more than"),
    Case("manifest-missing", removed("manifest.json"), "manifest", "manifest.json: missing"),
    Case("manifest-link", lambda pack: _linked(pack, "manifest.json"), "manifest", "manifest.json: missing"),
    Case("manifest-folder", lambda pack: _foldered(pack, "manifest.json"), "manifest", "manifest.json: missing"),
]  # fmt: skip


def _append(pack: Path, line: str) -> None:
    with (pack / "checksums.sha256").open("a", encoding="utf-8") as stream:
        stream.write(line)


def _linked(pack: Path, name: str) -> None:
    (pack / name).rename(pack.parent / "moved")
    (pack / name).symlink_to(pack.parent / "moved")


def _foldered(pack: Path, name: str) -> None:
    (pack / name).unlink()
    (pack / name).mkdir()


@pytest.mark.parametrize("case", by_name([*CHANGED, *EXTRA, *HIDDEN]))
def test_beneath_the_signature(pack: Path, case: Case) -> None:
    rejected(pack, case, Demands())


# The manifest itself, under a signature that covers its every byte, and a signer that the verifier has pinned.


def _drop(key: str, document: JsonObject) -> None:
    del document[key]


def _set(key: str, value: object, document: JsonObject) -> None:
    document[key] = value


MANIFEST = [
    *(Case(f"manifest-without-{key}", manifest_kept(partial(_drop, key)), "signature", "does not belong to manifest")
      for key in ("artifact_digests", "verdict", "signing", "generated_at")),
    *(Case(f"manifest-{key}", manifest_kept(partial(_set, key, value)), "signature",
           "does not belong to manifest.json: one of the two was changed")
      for key, value in (("suite", "full"), ("model_list", ["x"]), ("determinism", "strict"), ("format", "x"))),
    Case("manifest-no-json", with_checksums(written("manifest.json", "[" * 10**6)), "signature", "does not belong"),
    Case("manifest-emptied", with_checksums(written("manifest.json", "")), "signature", "does not belong"),
    Case("manifest-space", with_checksums(lambda pack: (pack / "manifest.json").write_bytes(
        (pack / "manifest.json").read_bytes() + b" ")), "signature", "does not belong"),
    Case("manifest-crlf", with_checksums(lambda pack: (pack / "manifest.json").write_bytes(
        (pack / "manifest.json").read_bytes().replace(b"\n", b"\r\n"))), "signature", "does not belong"),
    Case("signature-stripped", with_checksums(removed("manifest.json.asc")), "signature", "the pack is unsigned"),
    Case("signature-emptied", with_checksums(written("manifest.json.asc", "")), "signature",
         "not one detached, armored OpenPGP signature"),
    Case("signature-nonsense", with_checksums(written("manifest.json.asc", b"\x00\xff" * 99)), "signature",
         "not one detached, armored OpenPGP signature"),
    Case("signature-long", with_checksums(written("manifest.json.asc", "-" * 70_000)), "signature",
         "70000 bytes, more than the 65536 allowed"),
    Case("signature-twice", with_checksums(lambda pack: (pack / "manifest.json.asc").write_bytes(
        (pack / "manifest.json.asc").read_bytes() * 2)), "signature", "not one detached, armored OpenPGP signature"),
    Case("resealed-unsigned", reseal, "signature", "the pack is unsigned, and a signature is required"),
    Case("unbound-unsigned", lambda pack: as_invarlock(pack, lambda name: name == "README.md"), "signature",
         "the pack is unsigned, and a signature is required"),
]  # fmt: skip


@pytest.mark.parametrize("case", by_name(MANIFEST))
def test_with_a_pinned_signer_the_signature_comes_first(pack: Path, maker: Maker, case: Case) -> None:
    rejected(pack, case, Demands((maker[1],)))


def test_a_stripped_signature_is_missed_where_none_is_demanded(pack: Path) -> None:
    case = Case("", with_checksums(removed("manifest.json.asc")), "manifest", "says that it was signed, but")
    rejected(pack, case, Demands())


def _foreign_signature(pack: Path, outsider: Stranger) -> None:
    outsider.sign(pack)


def _resigned(pack: Path, outsider: Stranger) -> None:
    reseal(pack, signer=(outsider.ring, outsider.key))


def _cleartext(pack: Path, outsider: Stranger) -> None:
    data = (pack / "manifest.json").read_bytes()
    (pack / "manifest.json.asc").write_bytes(outsider.ring.gpg("--local-user", outsider.key, "--clear-sign", data=data))
    rewrite_checksums(pack)


def _of_text(pack: Path, outsider: Stranger) -> None:
    data = (pack / "manifest.json").read_bytes()
    (pack / "manifest.json.asc").write_bytes(outsider.ring.sign(data, outsider.key, "--textmode"))
    rewrite_checksums(pack)


def _of_something_else(pack: Path, outsider: Stranger) -> None:
    (pack / "manifest.json.asc").write_bytes(outsider.ring.sign(b"something else", outsider.key))
    rewrite_checksums(pack)


def _unbound(pack: Path, outsider: Stranger) -> None:
    as_invarlock(pack, lambda name: name in {"README.md", "index.html", VERDICT, VERDICT_TEXT})
    outsider.sign(pack)


@pytest.mark.parametrize(
    ("attack", "pinned", "step", "reason"),
    [
        (_foreign_signature, True, "signature", "which is not one of the trusted keys"),
        (_foreign_signature, False, "manifest", "but manifest.json names"),
        (_resigned, True, "signature", "which is not one of the trusted keys"),
        (_cleartext, False, "signature", "not one detached, armored OpenPGP signature"),
        (_of_text, False, "signature", "not one over a file's exact bytes"),
        (_of_something_else, False, "signature", "does not belong to manifest.json"),
        (_unbound, True, "signature", "which is not one of the trusted keys"),
        (_unbound, False, "manifest", OF_INVARLOCK),
    ],
)
def test_with_a_key_of_ones_own(
    *,
    pack: Path,
    maker: Maker,
    outsider: Stranger,
    attack: Callable[[Path, Stranger], object],
    pinned: bool,
    step: str,
    reason: str,
) -> None:
    demands = Demands((maker[1],)) if pinned else Demands(require_signature=True)
    rejected(pack, Case("", lambda pack: attack(pack, outsider), step, reason), demands)


# The downgrade: a manifest that says it is one of InvarLock 0.3.7, which binds nothing.


def _cut_down(pack: Path) -> None:
    as_invarlock(pack, lambda name: name in {"README.md", "index.html", VERDICT, VERDICT_TEXT})


def _renamed_out_of_sight(pack: Path) -> None:
    for path in list(pack.rglob("evaluation.cert.json")):
        path.rename(path.with_name("evaluation.cert.bak"))
    as_invarlock(pack, lambda name: not name.startswith("state/"))


def _certificate_elsewhere(pack: Path) -> None:
    kept = {"README.md", VERDICT, VERDICT_TEXT}
    shutil.copy(pack / QUANT, pack / "results/notes.json")
    _write_theirs(pack)
    as_invarlock(pack, lambda name: name in kept | {"results/notes.json", THEIRS})


THEIRS = "certs/org__model/quant/run_1/evaluation.cert.json"


def _write_theirs(pack: Path) -> None:
    written(THEIRS, '{"schema_version": "v1", "primary_metric": {}, "validation": {}}')(pack)


def _theirs_with(*names: str) -> Attack:
    def run(pack: Path) -> None:
        _write_theirs(pack)
        as_invarlock(pack, lambda name: name in {THEIRS, *names})

    return run


def _with_key(**more: object) -> Attack:
    def run(pack: Path) -> None:
        _write_theirs(pack)
        as_invarlock(pack, lambda name: name == THEIRS, **more)

    return run


UNBOUND = [
    Case("unbound", _theirs_with(), "manifest", OF_INVARLOCK),
    Case("unbound-cut-down", _cut_down, "manifest", OF_INVARLOCK),
    Case("unbound-covers-nothing", _theirs_with(), "manifest", f"signature does not cover {THEIRS}"),
]
ACCEPTED = [
    Case("cut-down", _cut_down, "files", "'index.html': no file of a pack of InvarLock 0.3.7 has this name"),
    Case("without-certificates", lambda pack: as_invarlock(pack, lambda name: name in {"README.md", VERDICT}),
         "structure", "there is no certificate in this pack"),
    Case("out-of-sight", _renamed_out_of_sight, "files", "evaluation.cert.bak': no file of a pack of InvarLock"),
    Case("elsewhere", _certificate_elsewhere, "structure", "results/notes.json: a certificate under another name"),
    Case("certificate-of-ours", _theirs_with(QUANT), "structure", f"{QUANT}: a certificate of pytest-proofpack"),
    Case("check-file-of-ours", _theirs_with(CHECK), "structure", f"{CHECK}: a file of pytest-proofpack"),
    Case("scenarios-of-ours", _theirs_with(SCENARIOS), "structure", f"{SCENARIOS}: a file of pytest-proofpack"),
    Case("tuned-of-ours", _theirs_with(TUNED), "files", f"{TUNED!r}: no file of a pack of InvarLock"),
    Case("key-of-ours", _with_key(tool={"name": "pytest-proofpack", "version": "0.1.0"}), "manifest",
         "'artifact_digests' is a required property"),
    Case("digests-of-ours", _with_key(artifact_digests={}), "manifest", "is a required property"),
    Case("format-of-ours", _with_key(schema_version=2), "manifest", "is a required property"),
    Case("verdict-of-ours", _with_key(verdict="PASS"), "manifest", "is a required property"),
    Case("format-altered", _with_key(format="proof-pack-v0"), "manifest", "'proof-pack-v1' was expected"),
    Case("version-no-text", _with_key(invarlock_version=0.3), "manifest", "is a required property"),
    Case("names-no-texts", _with_key(artifacts=[1]), "manifest", "is a required property"),
    Case("names-outside", _with_key(artifacts=["/etc/passwd", THEIRS]), "files", "an absolute path"),
    Case("names-missing", _with_key(artifacts=[THEIRS, "README.md"]), "files", "'README.md': missing"),
]  # fmt: skip


@pytest.mark.parametrize("case", by_name(UNBOUND))
def test_an_unbound_pack(pack: Path, case: Case) -> None:
    rejected(pack, case, Demands())


@pytest.mark.parametrize("case", by_name(ACCEPTED))
def test_what_cannot_be_one_is_not_accepted_as_one(pack: Path, case: Case) -> None:
    rejected(pack, case, Demands(accept_unbound=True))


def test_one_that_can_be_is_accepted_and_never_called_verified(pack: Path) -> None:
    _theirs_with()(pack)
    report = verify_pack(pack, Demands(accept_unbound=True))
    assert (report.ok, report.unbound, report.verdict) == (True, True, None)


# Made to agree throughout, unsigned: what is left to be found are the lies.


def _loosened(certificate: JsonObject) -> None:
    policy = certificate["resolved_policy"]
    policy["primary_metric"]["ratio_limit"] = 9.0
    digest = policy_digest(policy, certificate["policy_provenance"]["overrides"])
    certificate["policy_provenance"]["policy_digest"] = digest
    certificate["policy_digest"]["thresholds_hash"] = digest


def _without_certificate(path: str) -> Attack:
    def run(pack: Path) -> None:
        shutil.rmtree((pack / path).parents[1])
        recompute_verdict(pack)
        reseal(pack)

    return run


def _other_edit(certificate: JsonObject) -> None:
    edit = {"type": "quant_rtn", "scope": "ffn", "parameters": {"bits": 8, "group_size": 32}}
    certificate["provenance"]["edit"] = {**edit, "sha256": sha256_of(edit)}


def _windows(key: str, value: object) -> Attack:
    return certificate(QUANT, lambda c: c["evaluation_windows"]["final"][key].__setitem__(0, value))


def _twice(certificate: JsonObject) -> None:
    ids = certificate["evaluation_windows"]["final"]["window_ids"]
    ids[1] = ids[0]


LIES = [
    Case("ratio", certificate(QUANT, lambda c: c["primary_metric"].update(ratio_vs_baseline=1.0)), "certificates",
         "primary_metric.ratio_vs_baseline: recorded 1.0"),
    Case("interval", certificate(QUANT, lambda c: c["primary_metric"].update(display_ci=[0.9, 1.0])), "certificates",
         "primary_metric.display_ci[0]: recorded 0.9"),
    Case("baseline", certificate(QUANT, lambda c: c["baseline_ref"]["primary_metric"].update(final=1.0)),
         "certificates", "baseline_ref.primary_metric.final: recorded 1.0"),
    Case("gate", certificate(STRESS, lambda c: c["validation"].update(primary_metric_acceptable=True)),
         "certificates", "validation.primary_metric_acceptable: recorded True"),
    Case("outcome", certificate(STRESS, lambda c: c["outcome"].update(passed=True, failed_gates=[])),
         "certificates", "outcome.passed: recorded True"),
    Case("tail", certificate(STRESS, lambda c: c["primary_metric_tail"].update(warned=False)), "certificates",
         "primary_metric_tail.warned: recorded False"),
    Case("loss", _windows("logloss", 0.0), "certificates", "primary_metric.final: recorded"),
    Case("loss-null", _windows("logloss", None), "certificates", "primary_metric.invalid: recorded False"),
    Case("loss-text", _windows("logloss", "1"), "certificates", "expected losses in nats"),
    Case("loss-negative", _windows("logloss", -1.0), "certificates", "expected losses in nats"),
    Case("loss-huge", _windows("baseline_logloss", 1e308), "certificates", "expected losses in nats"),
    Case("count-zero", _windows("token_counts", 0), "certificates", "expected whole numbers from 1"),
    Case("count-too-many", _windows("token_counts", 10**9), "certificates", "expected whole numbers from 1"),
    Case("window-other", _windows("window_ids", "f" * 64), "certificates", "dataset.hash.final: recorded"),
    Case("window-twice", certificate(QUANT, _twice), "certificates", "a window stands there twice"),
    Case("resamples-fewer", certificate(QUANT, lambda c: c["dataset"]["windows"]["stats"]["bootstrap"].update(
        replicates=10)), "certificates", "bootstrap.replicates: recorded 10"),
    Case("seed-chosen", certificate(QUANT, lambda c: c["dataset"]["windows"]["stats"]["bootstrap"].update(seed=1)),
         "certificates", "bootstrap.seed: recorded 1"),
    Case("policy-loosened", certificate(QUANT, _loosened), "certificates",
         "resolved_policy.primary_metric.ratio_limit is 9.0, the balanced tier has"),
    Case("policy-digest", certificate(QUANT, lambda c: c["policy_provenance"].update(policy_digest="0" * 16)),
         "certificates", "policy_provenance.policy_digest: does not match the recorded policy"),
    Case("policy-version", certificate(QUANT, lambda c: c["policy_provenance"].update(policy_version="9")),
         "certificates", "policy_provenance.policy_version: '9', known is"),
    Case("tier-unknown", certificate(QUANT, lambda c: c["policy_provenance"].update(tier="lax")),
         "certificates", "policy_provenance.tier: "),
    Case("digest", certificate(QUANT, lambda c: c["meta"].update(dtype="float64"), redigest=False), "certificates",
         "certificate_digest: does not match the content"),
    Case("something-added", certificate(QUANT, lambda c: c["outcome"].update(approved=True)), "structure",
         "'approved' was unexpected"),
    Case("metric-added", certificate(QUANT, lambda c: c["primary_metric"].update(approved=True)), "certificates",
         "primary_metric.approved: nothing in the evidence supports it"),
    Case("other-model", certificate(QUANT, lambda c: c["meta"].update(model_id="acme/Other")), "certificates",
         "'acme/Other' is not in the manifest's model_list"),
    Case("other-revision", manifest(lambda m: m["models"][0].update(revision="abc")), "certificates",
         "meta.revision: recorded None, the manifest has 'abc'"),
    Case("other-edit", certificate(QUANT, _other_edit), "certificates", "provenance.model_digest.subject: recorded"),
    Case("other-run", certificate(QUANT, lambda c: c["scenario"].update(run=2)), "certificates", "belongs at certs/"),
    Case("other-scenario", certificate(QUANT, lambda c: c["scenario"].update(id="quant_8bit_clean")), "certificates",
         "belongs at certs/"),
    Case("another-in-its-place", resealed(lambda pack: shutil.copytree(
        (pack / STRESS).parent, (pack / QUANT).parent, dirs_exist_ok=True)), "certificates", "belongs at certs/"),
    Case("format-unknown", certificate(QUANT, lambda c: c.update(certificate_format=3), redigest=False), "structure",
         "certificate_format: 3 is not known"),
    Case("format-earlier", manifest(lambda m: m.update(schema_version=1)), "structure",
         "is of format 2, manifest.json says that the pack is of format 1"),
    Case("check-file", document(CHECK, lambda check: check.update(ok=False)), "certificates", "verify.json: ok is not"),
    Case("check-file-of-another", document(CHECK, lambda check: check.update(certificate_sha256="0" * 64)),
         "certificates", "verify.json: certificate_sha256 is not"),
    Case("certificate-dropped", _without_certificate(QUANT), "verdict", "manifest.json: verdict: recorded 'PASS'"),
    Case("all-certificates-dropped", resealed(lambda pack: shutil.rmtree(pack / "certs")), "structure",
         "there is no certificate in this pack"),
    Case("certificate-hidden", resealed(renamed(QUANT, f"{FOLDER}evaluation.cert.bak")), "files",
         "evaluation.cert.bak': no file of a pack has this name"),
    Case("verdict", document(VERDICT, lambda v: v.update(verdict="FAIL")), "verdict",
         "results/final_verdict.json: verdict: recorded 'FAIL', recomputed 'PASS'"),
    Case("verdict-count", document(VERDICT, lambda v: v["counts"].update(must_pass_total=99)), "verdict",
         "counts.must_pass_total: recorded 99"),
    Case("verdict-added", document(VERDICT, lambda v: v.update(approved_by="NIST")), "verdict",
         "holds something that the certificates do not give"),
    Case("verdict-text", resealed(written(VERDICT_TEXT, "VERDICT: FAIL\n")), "verdict", "does not begin with VERDICT"),
    Case("verdict-text-table", resealed(lambda pack: (pack / VERDICT_TEXT).write_bytes(
        (pack / VERDICT_TEXT).read_bytes().replace(b"PASSED", b"FAILED"))), "verdict",
        "is not the text that this verdict has"),
    Case("claimed-verdict", manifest(lambda m: m.update(verdict="FAIL")), "verdict", "manifest.json: verdict:"),
    Case("claimed-suite", manifest(lambda m: m.update(suite="full")), "verdict", "suite: recorded 'full'"),
    Case("manifest-models", manifest(lambda m: m.update(model_list=["acme/Tiny-1M", "acme/More"])), "verdict",
         "manifest.json: model_list: recorded"),
    Case("manifest-licenses", manifest(lambda m: m.update(model_licenses={})), "verdict", "model_licenses: recorded"),
    Case("manifest-repeats", manifest(lambda m: m.update(repeats=5)), "verdict", "repeats: recorded 5"),
    Case("manifest-extensions", manifest(lambda m: m.update(
        extensions=[{"name": "x", "version": None, "sha256": "0" * 64}])), "verdict", "extensions: recorded"),
    Case("manifest-count", manifest(lambda m: m["verification"].update(certificates_verified=99)), "verdict",
         "verification.certificates_verified: recorded 99"),
    Case("manifest-lists", manifest(lambda m: m["artifacts"].pop()), "files", "name different files"),
    Case("manifest-outside", manifest(lambda m: m["artifact_digests"].update(
        {"../x": {"sha256": "0" * 64, "size": 1}})), "files", "'../x': leads outside of the pack"),
    Case("manifest-absolute", manifest(lambda m: m["artifact_digests"].update(
        {"/etc/passwd": {"sha256": "0" * 64, "size": 1}})), "files", "'/etc/passwd': an absolute path"),
    Case("manifest-unknown-key", manifest(lambda m: m.update(approved=True)), "manifest", "'approved' was unexpected"),
    Case("manifest-unknown-format", manifest(lambda m: m.update(schema_version=3)), "manifest", "3 is not one of"),
    Case("manifest-unknown-signer", manifest(lambda m: m["signing"].update(signer="notary")), "manifest",
         "'notary', a signer that is not installed here"),
    Case("manifest-claims-a-signature", manifest(lambda m: m["signing"].update(fingerprint="A" * 40)), "manifest",
         "says that it was signed, but manifest.json.asc is missing"),
    Case("demand-dropped", scenario(lambda s: s["scenarios"].pop(0)), "verdict",
         "verdict_recomputed: recorded 'PASS', the pack gives 'FAIL'"),
    Case("plan-missing", document(SCENARIOS, lambda s: s.pop("plan")), "structure", "holds no plan"),
    Case("scenario-twice", document(SCENARIOS, lambda s: s["scenarios"].append(s["scenarios"][0])), "structure",
         "stands there twice, or is reserved"),
    Case("scenario-other-edit", scenario(lambda s: s["scenarios"][0]["generation"].update(
        edit_spec="quant_rtn:8:32:ffn")), "verdict", "provenance.edit: recorded"),
    Case("scenario-skipped", scenario(lambda s: s["plan"]["skipped"].append(
        {"model": "acme/Tiny-1M", "scenario": "quant_4bit_clean", "reason": "not wanted"})), "verdict",
        "the tuned parameters do not skip it"),
    Case("tuned-other", document(TUNED, lambda t: t["defaults"]["quant_rtn"].update(bits=8)), "verdict",
         "provenance.edit: recorded"),
    Case("tuned-skipped", document(TUNED, lambda t: t["defaults"].update(
        quant_rtn={"status": "skipped", "reason": "x"})), "verdict", "skips this edit (x), and yet there is"),
    Case("revision", document(REVISIONS, lambda r: r["models"]["acme/Tiny-1M"].update(revision="abc")), "verdict",
         "models: acme/Tiny-1M: recorded None, the pack gives 'abc'"),
    Case("license", document(REVISIONS, lambda r: r["models"]["acme/Tiny-1M"].update(license="mit")), "verdict",
         "model_licenses: recorded"),
    Case("summary", document(SUMMARY, lambda s: s.update(statement="Certified by NIST")), "verdict",
         "is not what manifest.json says under verification"),
    Case("json-twice", resealed(written(SUMMARY, '{"a": 1, "a": 2}')), "structure", "stands twice in one object"),
    Case("json-nan", resealed(written(REVISIONS, '{"x": NaN}')), "structure", "NaN is not JSON"),
    Case("json-deep", resealed(written(VERDICT, '{"x": ' + "[" * 99 + "]" * 99 + "}")), "structure", "levels deep"),
    Case("json-no-utf-8", resealed(written(VERDICT, b'{"\xff": 1}')), "structure", "not UTF-8 text"),
    Case("json-no-object", resealed(written(VERDICT, "[]")), "structure", "expected a JSON object at the top"),
    Case("json-many-values", resealed(written(VERDICT, f'{{"x": [{"0," * 300_000}0]}}')), "structure",
         "values, more than the 250000 allowed"),
]  # fmt: skip


@pytest.mark.parametrize("case", by_name(LIES))
def test_lies_in_a_pack_that_agrees_throughout(pack: Path, case: Case) -> None:
    rejected(pack, case, Demands())


def test_the_matrix_is_as_large_as_it_is_meant_to_be() -> None:
    cases = [*CHANGED, *EXTRA, *HIDDEN, *MANIFEST, *UNBOUND, *ACCEPTED, *LIES]
    assert len({case.name for case in cases}) == len(cases) >= 150


def test_the_honest_pack_passes(pack: Path, maker: Maker) -> None:
    assert verify_pack(pack, Demands((maker[1],))).ok
    assert load(pack / VERDICT)["verdict"] == "PASS"
