from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pytest_proofpack.certificate.derive import derive
from pytest_proofpack.certificate.policy import policy_digest
from pytest_proofpack.common.strict_json import JsonObject, sha256_of
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.demands import Demands
from pytest_proofpack.pack.verify import PackVerifier, Status, VerificationReport, verify_pack
from tests.pack.conftest import Maker
from tests.support.forgery import (
    change_document,
    files_of,
    forge_certificate,
    recompute_verdict,
    reseal,
    rewrite_checksums,
)
from tests.support.openpgp import AGES_AGO
from tests.support.packs import keyring, using

QUANT = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"
STRESS = "certs/acme__tiny-1m/prune_50pct_stress/run_1/evaluation.cert.json"
FAULT = "certs/acme__tiny-1m/errors/nan_injection/evaluation.cert.json"


def status_of(report: VerificationReport) -> dict[str, Status]:
    """Statuses by step, certificates together: failed if one failed."""
    statuses: dict[str, Status] = {}
    for result in report.steps:
        name = result.step.partition("[")[0]
        statuses[name] = result.status if statuses.get(name, Status.PASSED) is Status.PASSED else statuses[name]
    return statuses


def findings_of(report: VerificationReport, step: str) -> str:
    """Findings of a step as one text; the report as a whole must have failed on them."""
    found = [finding for result in report.steps if result.step.startswith(step) for finding in result.findings]
    assert not report.ok
    return "\n".join(found)


class TestHonestPacks:
    def test_everything_holds(self, signed: Path, gnupg: Maker) -> None:
        report = verify_pack(signed)
        assert report.ok
        assert (report.verdict, report.fingerprint, report.pinned) == ("PASS", gnupg[1], False)
        assert report.signer == f"signed by {gnupg[1]}, not pinned"

    def test_steps_run_in_their_order(self, signed: Path) -> None:
        verifier = PackVerifier(signed)
        certificates = [path for path in files_of(signed) if path.endswith(".cert.json")]
        assert len(certificates) == 18
        expected = [
            "signature",
            "manifest",
            "files",
            "structure",
            *(f"certificates[{path}]" for path in certificates),
            "agreement",
            "verdict",
        ]
        assert list(verifier.steps) == expected
        assert [result.step for result in verifier.results()] == expected

    def test_one_step_alone_runs_what_it_builds_on(self, signed: Path) -> None:
        (signed / "extra").write_text("", encoding="utf-8")
        assert PackVerifier(signed).run("verdict").status is Status.NOT_REACHED
        assert PackVerifier(signed).run("signature").status is Status.PASSED

    def test_a_trusted_signer_is_pinned(self, signed: Path, gnupg: Maker) -> None:
        report = verify_pack(signed, Demands(trusted_keys=("0" * 40, gnupg[1].lower()), require_signature=True))
        assert report.ok
        assert report.signer == f"signed by {gnupg[1]}, pinned"

    def test_a_hard_link_is_a_file_like_any_other(self, signed: Path, tmp_path: Path) -> None:
        os.link(signed / QUANT, tmp_path / "link")
        assert verify_pack(signed).ok

    def test_an_unsigned_pack_passes_with_a_warning(self, unsigned: Path) -> None:
        report = verify_pack(unsigned)
        assert report.ok
        assert report.steps[0].warnings == ("the pack is unsigned: nothing tells who made it",)
        assert report.signer.startswith("unsigned")

    def test_the_result_as_json(self, signed: Path, gnupg: Maker) -> None:
        (signed / "extra").write_text("", encoding="utf-8")
        document = json.loads(json.dumps(verify_pack(signed).to_json()))
        assert document["ok"] is False
        assert document["signature"]["fingerprint"] == gnupg[1]
        assert document["signature"]["pinned"] is False
        assert document["steps"][2] == {
            "step": "files",
            "status": "failed",
            "findings": ["'extra': an extra file that manifest.json does not name",
                         "checksums.sha256: does not list 'extra'"],
            "warnings": [],
            "note": f"{len(files_of(signed))} files",
        }  # fmt: skip

    def test_bytes_are_judged_as_they_were_read(self, signed: Path) -> None:
        verifier = PackVerifier(signed)
        shutil.rmtree(signed)
        assert verifier.report().ok


class TestSignatureRequired:
    @pytest.mark.parametrize("options", [Demands(require_signature=True), Demands(("A" * 40,))])
    def test_an_unsigned_pack_fails(self, unsigned: Path, options: Demands) -> None:
        assert "the pack is unsigned" in findings_of(verify_pack(unsigned, options), "signature")

    def test_a_key_that_is_not_trusted_fails(self, signed: Path, gnupg: Maker) -> None:
        report = verify_pack(signed, Demands(("A" * 40,)))
        assert f"signed by {gnupg[1]}, which is not one of the trusted keys" in findings_of(report, "signature")
        assert set(list(status_of(report).values())[1:]) == {Status.NOT_REACHED}

    def test_a_pack_signed_anew_by_another_does_not_pass_for_the_makers(
        self, signed: Path, gnupg: Maker, stranger: Maker
    ) -> None:
        reseal(signed, signer=stranger)
        gnupg[0].copy_public_keys_to(stranger[0])
        with using(stranger[0]):
            assert verify_pack(signed).ok
            report = verify_pack(signed, Demands((gnupg[1],)))
        assert "not one of the trusted keys" in findings_of(report, "signature")

    def test_a_signer_other_than_the_manifest_names_fails(self, signed: Path, gnupg: Maker) -> None:
        reseal(signed, lambda manifest: manifest["signing"].update(fingerprint="B" * 40), gnupg)
        assert f"signed by {gnupg[1]}, but manifest.json names {'B' * 40}" in findings_of(
            verify_pack(signed), "manifest"
        )

    @pytest.mark.parametrize(
        ("generated_at", "finding"),
        [
            ("2039-01-01T00:00:00Z", "more than a day before manifest.json was made (2039-01-01T00:00:00Z)"),
            ("2026-02-30T00:00:00Z", "generated_at is '2026-02-30T00:00:00Z', a time that there is not"),
        ],
    )
    def test_a_time_that_cannot_be_fails(self, signed: Path, gnupg: Maker, generated_at: str, finding: str) -> None:
        reseal(signed, lambda manifest: manifest.update(generated_at=generated_at), gnupg)
        assert finding in findings_of(verify_pack(signed), "manifest")

    def test_the_key_may_come_from_a_file(self, signed: Path, gnupg: Maker, stranger: Maker) -> None:
        demands = Demands(key_files=(gnupg[0].gpg("--export", gnupg[1]),))
        with using(stranger[0]):
            report = verify_pack(signed, demands)
        assert (report.ok, report.pinned, report.fingerprint) == (True, True, gnupg[1])
        assert report.signed_at is not None

    def test_without_the_public_key_the_pack_fails(self, signed: Path, gnupg: Maker, stranger: Maker) -> None:
        with using(stranger[0]):
            report = verify_pack(signed)
        assert f"signed by key {gnupg[1]}, which is not in your keyring" in findings_of(report, "signature")
        assert report.signer == "the signature could not be checked"

    def test_a_key_that_expired_fails(self, unsigned: Path) -> None:
        with keyring() as ring, using(ring):
            key = ring.make_key(expires="1y", at=AGES_AGO)
            reseal(unsigned, lambda manifest: manifest["signing"].update(status="signed", fingerprint=key))
            manifest = (unsigned / "manifest.json").read_bytes()
            (unsigned / "manifest.json.asc").write_bytes(ring.sign(manifest, key, at=AGES_AGO))
            rewrite_checksums(unsigned)
            assert "the key that signed has expired" in findings_of(verify_pack(unsigned), "signature")

    def test_a_key_that_was_revoked_fails(self, unsigned: Path) -> None:
        with keyring() as ring, using(ring):
            key = ring.make_key()
            reseal(unsigned, signer=(ring, key))
            assert verify_pack(unsigned).ok
            ring.revoke(key)
            assert "was revoked" in findings_of(verify_pack(unsigned), "signature")

    def test_a_signature_cannot_be_stripped(self, signed: Path) -> None:
        (signed / "manifest.json.asc").unlink()
        rewrite_checksums(signed)
        assert "says that it was signed" in findings_of(verify_pack(signed), "manifest")

    def test_a_damaged_signature_fails(self, signed: Path) -> None:
        lines = (signed / "manifest.json.asc").read_text(encoding="utf-8").split("\n")
        lines[3] = lines[3][::-1]
        (signed / "manifest.json.asc").write_text("\n".join(lines), encoding="utf-8")
        rewrite_checksums(signed)
        report = verify_pack(signed)
        assert findings_of(report, "signature")
        assert report.fingerprint is None

    @pytest.mark.parametrize("key", ["1234ABCD", "maker@example.org", ""])
    def test_a_short_key_id_is_a_usage_error(self, key: str) -> None:
        with pytest.raises(ConfigurationError, match="not a full fingerprint"):
            Demands((key,))


class TestForgedContent:
    """Somebody changes numbers, and makes as much of the rest agree as they can."""

    def test_the_forgery_that_passed_in_0_3_7(self, signed: Path) -> None:
        """Certificate, verdict and checksums changed together; the signature over the manifest stays good."""
        forge_certificate(signed, STRESS, lambda certificate: certificate["outcome"].update(passed=True))
        rewrite_checksums(signed)
        report = verify_pack(signed)
        found = findings_of(report, "files")
        assert f"'{STRESS}'" in found
        assert "'results/final_verdict.json'" in found
        assert status_of(report) == {
            "signature": Status.PASSED,
            "manifest": Status.PASSED,
            "files": Status.FAILED,
            "structure": Status.NOT_REACHED,
            "certificates": Status.NOT_REACHED,
            "agreement": Status.NOT_REACHED,
            "verdict": Status.NOT_REACHED,
        }

    def test_a_manifest_that_agrees_breaks_the_signature(self, signed: Path) -> None:
        signature = (signed / "manifest.json.asc").read_bytes()
        forge_certificate(signed, QUANT, lambda certificate: certificate["meta"].update(dtype="float64"))
        reseal(signed)
        (signed / "manifest.json.asc").write_bytes(signature)
        rewrite_checksums(signed)
        assert "does not belong to manifest.json" in findings_of(verify_pack(signed), "signature")

    @pytest.mark.parametrize(
        ("path", "change", "field"),
        [
            (QUANT, lambda c: c["primary_metric"].update(ratio_vs_baseline=1.0), "primary_metric.ratio_vs_baseline"),
            (QUANT, lambda c: c["primary_metric"].update(display_ci=[0.9, 1.0]), "primary_metric.display_ci[0]"),
            (QUANT, lambda c: c["baseline_ref"]["primary_metric"].update(final=1.0), "baseline_ref.primary_metric"),
            (STRESS, lambda c: c["validation"].update(primary_metric_acceptable=True), "primary_metric_acceptable"),
            (STRESS, lambda c: c["outcome"].update(passed=True, failed_gates=[]), "outcome.passed"),
            (STRESS, lambda c: c["evaluation_windows"]["final"]["logloss"].__setitem__(0, 0.0), "primary_metric.final"),
            (QUANT, lambda c: c["evaluation_windows"]["preview"]["baseline_logloss"].__setitem__(0, 9), "baseline_ref"),
            (QUANT, lambda c: c["evaluation_windows"]["final"]["window_ids"].__setitem__(0, "f" * 64), "hash.final"),
            (QUANT, lambda c: c["dataset"]["windows"]["stats"]["bootstrap"].update(seed=1), "bootstrap"),
            (FAULT, lambda c: c["invariants"].update(status="pass"), "invariants.status"),
            (FAULT, lambda c: c["invariants"].update(violations=[]), "invariants"),
            (QUANT, lambda c: c["policy_provenance"].update(policy_digest="0" * 16), "policy_digest"),
            (QUANT, lambda c: c["provenance"]["provider_digest"].update(ids_sha256="0" * 64), "ids_sha256"),
        ],
    )  # fmt: skip
    def test_a_number_that_does_not_follow_is_named(
        self, signed: Path, gnupg: Maker, path: str, change: Callable[[JsonObject], object], field: str
    ) -> None:
        forge_certificate(signed, path, change)
        reseal(signed, signer=gnupg)
        report = verify_pack(signed)
        assert f"{path}: " in findings_of(report, "certificates")
        assert field in findings_of(report, "certificates")
        assert status_of(report)["verdict"] is Status.NOT_REACHED

    def test_a_policy_looser_than_its_tier_is_named(self, signed: Path, gnupg: Maker) -> None:
        def loosen(certificate: JsonObject) -> None:
            policy = certificate["resolved_policy"]
            policy["primary_metric"]["ratio_limit"] = 9.0
            digest = policy_digest(policy, certificate["policy_provenance"]["overrides"])
            certificate["policy_provenance"]["policy_digest"] = digest
            certificate["policy_digest"]["thresholds_hash"] = digest

        forge_certificate(signed, QUANT, loosen)
        reseal(signed, signer=gnupg)
        found = findings_of(verify_pack(signed), "certificates")
        assert "resolved_policy.primary_metric.ratio_limit is 9.0, the balanced tier has 1.1" in found

    def test_a_certificate_digest_that_does_not_match_is_named(self, signed: Path, gnupg: Maker) -> None:
        change = lambda certificate: certificate["meta"].update(dtype="float64")  # noqa: E731
        forge_certificate(signed, QUANT, change, redigest=False)
        reseal(signed, signer=gnupg)
        assert "certificate_digest: does not match" in findings_of(verify_pack(signed), "certificates")

    def test_a_certificate_in_anothers_place_is_named(self, signed: Path, gnupg: Maker) -> None:
        other = QUANT.replace("quant_4bit_clean", "fp8_e5m2_clean")
        shutil.copytree((signed / other).parent, (signed / QUANT).parent, dirs_exist_ok=True)
        reseal(signed, signer=gnupg)
        assert f"{QUANT}: belongs at {other}" in findings_of(verify_pack(signed), "certificates")

    def test_a_certificate_of_another_edit_is_named(self, signed: Path, gnupg: Maker) -> None:
        edit = {"type": "quant_rtn", "scope": "ffn", "parameters": {"bits": 8, "group_size": 32}}

        def forge(certificate: JsonObject) -> None:
            certificate["provenance"]["edit"] = {**edit, "sha256": sha256_of(edit)}
            certificate["provenance"]["model_digest"] |= derive(certificate)["provenance"]["model_digest"]

        forge_certificate(signed, QUANT, forge)
        reseal(signed, signer=gnupg)
        assert f"{QUANT}: provenance.edit: recorded" in findings_of(verify_pack(signed), "verdict")

    def test_a_model_that_the_manifest_does_not_name_is_named(self, signed: Path, gnupg: Maker) -> None:
        forge_certificate(signed, QUANT, lambda certificate: certificate["meta"].update(model_id="acme/Other"))
        reseal(signed, signer=gnupg)
        assert "'acme/Other' is not in the manifest's model_list" in findings_of(verify_pack(signed), "certificates")

    def test_a_revision_other_than_the_manifests_is_named(self, signed: Path, gnupg: Maker) -> None:
        reseal(signed, lambda manifest: manifest["models"][0].update(revision="abc"), gnupg)
        assert "meta.revision: recorded None, the manifest has 'abc'" in findings_of(
            verify_pack(signed), "certificates"
        )

    @pytest.mark.parametrize("key", ["certificate", "ok", "findings", "certificate_digest", "certificate_sha256"])
    def test_a_check_file_that_says_something_else_is_named(self, signed: Path, gnupg: Maker, key: str) -> None:
        change_document((signed / QUANT).with_name("verify.json"), lambda check: check.update({key: "other"}))
        reseal(signed, signer=gnupg)
        assert f"{QUANT}: verify.json: {key} is not" in findings_of(verify_pack(signed), "certificates")

    def test_absurd_evidence_is_refused_and_not_computed(self, signed: Path, gnupg: Maker) -> None:
        def demand(certificate: JsonObject) -> None:
            certificate["dataset"]["windows"]["stats"]["bootstrap"]["replicates"] = 100_000
            windows = certificate["evaluation_windows"]["final"]
            for key, values in windows.items():
                windows[key] = values * 100

        forge_certificate(signed, QUANT, demand)
        reseal(signed, signer=gnupg)
        assert "resamples of 8000 windows, more than" in findings_of(verify_pack(signed), "structure")

    @pytest.mark.parametrize("losses", [[1e308, -1e308], ["1", []], [None, {}], [10**200, 0]])
    def test_losses_that_are_none_do_not_stop_verification(
        self, signed: Path, gnupg: Maker, losses: list[object]
    ) -> None:
        def poison(certificate: JsonObject) -> None:
            windows = certificate["evaluation_windows"]["final"]
            windows["logloss"][:2] = losses
            windows["baseline_logloss"][:2] = losses[::-1]

        forge_certificate(signed, QUANT, poison)
        reseal(signed, signer=gnupg)
        assert f"{QUANT}: " in findings_of(verify_pack(signed), "certificates")


class TestForgedText:
    """Certificates whose text is from a data set, at the commit that the run had pinned."""

    @staticmethod
    def verified(pack: Path, gnupg: Maker, others: str = "a") -> VerificationReport:
        """Say that all texts are from a data set, all but one from another commit, and verify."""
        for path in sorted(pack.glob("certs/**/evaluation.cert.json")):
            name = path.relative_to(pack).as_posix()
            commit = ("a" if name == QUANT else others) * 40
            source = {"dataset": "acme/texts", "config": None, "revision": commit, "field": "text"}
            forge_certificate(pack, name, partial(_record_source, source))
        pinned = {"datasets": {"acme/texts": {"revision": "a" * 40, "license": None}}}
        change_document(pack / "state/model_revisions.json", lambda document: document.update(pinned))
        reseal(pack, signer=gnupg)
        return verify_pack(pack)

    def test_the_pinned_commit_is_fine(self, signed: Path, gnupg: Maker) -> None:
        assert self.verified(signed, gnupg).ok

    def test_another_commit_is_named(self, signed: Path, gnupg: Maker) -> None:
        found = findings_of(self.verified(signed, gnupg, others="b"), "verdict")
        assert f"{STRESS}: dataset.source.revision: recorded {'b' * 40!r}, state/model_revisions.json: " in found
        assert f"{QUANT}: dataset.source.revision" not in found
        assert "dataset.source: is not that of the other certificates" in found


def _record_source(source: JsonObject, certificate: JsonObject) -> None:
    certificate["dataset"]["source"] = source


class TestForgedVerdict:
    def test_a_verdict_that_does_not_follow_is_named(self, signed: Path, gnupg: Maker) -> None:
        change_document(signed / "results/final_verdict.json", lambda verdict: verdict.update(verdict="FAIL"))
        reseal(signed, lambda manifest: manifest.update(verdict="FAIL"), gnupg)
        found = findings_of(verify_pack(signed), "verdict")
        assert "results/final_verdict.json: verdict: recorded 'FAIL', recomputed 'PASS'" in found
        assert "manifest.json: verdict: recorded 'FAIL', the pack gives 'PASS'" in found

    def test_a_text_that_says_another_verdict_is_named(self, signed: Path, gnupg: Maker) -> None:
        (signed / "results/final_verdict.txt").write_text("VERDICT: FAIL\n", encoding="utf-8")
        reseal(signed, signer=gnupg)
        assert "final_verdict.txt: does not begin with VERDICT: PASS" in findings_of(verify_pack(signed), "verdict")

    def test_a_verdict_with_something_added_is_named(self, signed: Path, gnupg: Maker) -> None:
        change_document(signed / "results/final_verdict.json", lambda verdict: verdict.update(approved_by="NIST"))
        reseal(signed, signer=gnupg)
        assert "holds something that the certificates do not give" in findings_of(verify_pack(signed), "verdict")

    def test_a_certificate_that_fails_cannot_be_left_out(self, signed: Path, gnupg: Maker) -> None:
        shutil.rmtree((signed / QUANT).parent)
        shutil.rmtree((signed / QUANT).parents[1])
        assert f"'{QUANT}': missing; manifest.json names it" in findings_of(verify_pack(signed), "files")
        reseal(signed, signer=gnupg)
        assert "results/final_verdict.json: " in findings_of(verify_pack(signed), "verdict")
        recompute_verdict(signed)
        reseal(signed, signer=gnupg)
        found = findings_of(verify_pack(signed), "verdict")
        assert "manifest.json: verdict: recorded 'PASS', the pack gives 'FAIL'" in found

    def test_a_certificate_that_fails_cannot_be_declared_left_out(self, signed: Path, gnupg: Maker) -> None:
        skipped = {"model": "acme/Tiny-1M", "scenario": "quant_4bit_clean", "reason": "not wanted"}
        shutil.rmtree((signed / QUANT).parents[1])
        change_document(signed / "state/scenarios.json", lambda document: document["plan"]["skipped"].append(skipped))
        recompute_verdict(signed)
        reseal(signed, signer=gnupg)
        found = findings_of(verify_pack(signed), "verdict")
        assert "quant_4bit_clean of acme/Tiny-1M: the tuned parameters do not skip it" in found

    def test_a_pack_without_any_certificate_proves_nothing(self, signed: Path, gnupg: Maker) -> None:
        shutil.rmtree(signed / "certs")
        reseal(signed, signer=gnupg)
        found = findings_of(verify_pack(signed), "structure")
        assert found == "there is no certificate in this pack, so it proves nothing"

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("suite", "full"),
            ("model_list", ["acme/Tiny-1M", "acme/More"]),
            ("determinism_repeats", {"drift": 0}),
            ("extensions", [{"name": "of_nobody.py", "sha256": "0" * 64, "version": None}]),
        ],
    )
    def test_a_manifest_that_says_something_else_is_named(
        self, signed: Path, gnupg: Maker, key: str, value: object
    ) -> None:
        reseal(signed, lambda manifest: manifest.update({key: value}), gnupg)
        assert f"manifest.json: {key}: recorded {value!r}" in findings_of(verify_pack(signed), "verdict")

    @pytest.mark.parametrize(
        ("facts", "key"), [({"license": "mit"}, "model_licenses"), ({"revision": "abc"}, "models: acme/Tiny-1M")]
    )
    def test_revisions_and_licenses_have_to_agree(
        self, signed: Path, gnupg: Maker, facts: JsonObject, key: str
    ) -> None:
        change = lambda document: document["models"]["acme/Tiny-1M"].update(facts)  # noqa: E731
        change_document(signed / "state/model_revisions.json", change)
        reseal(signed, signer=gnupg)
        assert f"manifest.json: {key}: recorded" in findings_of(verify_pack(signed), "verdict")

    def test_a_self_check_that_counts_wrong_is_named(self, signed: Path, gnupg: Maker) -> None:
        reseal(signed, lambda manifest: manifest["verification"].update(certificates_verified=99), gnupg)
        found = findings_of(verify_pack(signed), "verdict")
        assert "verification.certificates_verified: recorded 99, the pack gives 18" in found
        assert "verification_summary.json: is not what manifest.json says" in found

    def test_demands_cannot_be_dropped_from_the_scenarios(self, signed: Path, gnupg: Maker) -> None:
        """The digest of the scenarios stands in the verdict, but whoever re-signs may change both; the plan stays."""
        shadow = {"id": "calibration", "category": "clean", "strictness": "informational",
                  "generation": {"kind": "edit", "edit_spec": "noop"}}  # fmt: skip
        change_document(signed / "state/scenarios.json", lambda document: document["scenarios"].append(shadow))
        recompute_verdict(signed)
        reseal(signed, signer=gnupg)
        assert "'calibration' stands there twice, or is reserved" in findings_of(verify_pack(signed), "structure")

    def test_a_plan_of_millions_is_refused_and_not_counted(self, signed: Path, gnupg: Maker) -> None:
        def inflate(document: JsonObject) -> None:
            document["plan"]["models"] = [f"m{number}" for number in range(1000)]
            document["plan"]["runs"]["clean"] = 1000

        change_document(signed / "state/scenarios.json", inflate)
        reseal(signed, signer=gnupg)
        assert "plans more than 20000 certificates" in findings_of(verify_pack(signed), "structure")


class TestHostileDirectories:
    @pytest.mark.parametrize(
        "name",
        ["conftest.py", "pytest.ini", "pyproject.toml", "sitecustomize.py", "certs/conftest.py", "evil.pth",
         "__pycache__/conftest.cpython-311.pyc", ".hidden", "certs/acme__tiny-1m/notes.json"],
    )  # fmt: skip
    def test_an_extra_file_fails_also_if_the_manifest_names_it(self, signed: Path, gnupg: Maker, name: str) -> None:
        (signed / name).parent.mkdir(exist_ok=True)
        (signed / name).write_text("{}", encoding="utf-8")
        rewrite_checksums(signed)
        assert f"'{name}': an extra file" in findings_of(verify_pack(signed), "files")
        reseal(signed, signer=gnupg)
        assert f"'{name}': no file of a pack has this name" in findings_of(verify_pack(signed), "files")

    @pytest.mark.parametrize("name", ["README.md", "manifest.json", "state"])
    def test_a_symbolic_link_fails_wherever_it_leads(self, signed: Path, tmp_path: Path, name: str) -> None:
        (signed / name).rename(tmp_path / "moved")
        (signed / name).symlink_to(tmp_path / "moved")
        report = verify_pack(signed)
        step = "manifest" if name == "manifest.json" else "files"
        expected = {"README.md": "a symbolic link", "manifest.json": "manifest.json: missing", "state": "missing"}
        assert expected[name] in findings_of(report, step)

    def test_a_pipe_fails_and_is_not_waited_for(self, signed: Path) -> None:
        os.mkfifo(signed / "pipe")
        assert "'pipe': a device, a pipe or a socket" in findings_of(verify_pack(signed), "files")

    def test_an_empty_folder_fails(self, signed: Path) -> None:
        (signed / "__pycache__").mkdir()
        assert "'__pycache__': an empty folder" in findings_of(verify_pack(signed), "files")

    def test_a_bottomless_folder_fails(self, signed: Path) -> None:
        (signed / "/".join("a" * 40)).mkdir(parents=True)
        assert "nested too deeply" in findings_of(verify_pack(signed), "files")

    def test_a_huge_file_fails_unread(self, signed: Path) -> None:
        with (signed / "README.md").open("wb") as stream:
            stream.truncate(1 << 40)
        assert "'README.md': 1099511627776 bytes, more than" in findings_of(verify_pack(signed), "files")

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("readme.md", "has a twin, 'README.md'"),
            ("State/scenarios.json", "has a twin, 'State'"),
            ("ＲＥＡＤＭＥ.md", "has a twin, 'README.md'"),
            ("a\\b", "holds a backslash"),
            ("a\nb", "cannot be printed"),
            ("a\u202eb", "cannot be printed"),
            ("C:evil", "an absolute path"),
        ],
    )  # fmt: skip
    def test_a_name_that_others_read_differently_fails(
        self, signed: Path, gnupg: Maker, name: str, reason: str
    ) -> None:
        (signed / name).parent.mkdir(exist_ok=True)
        (signed / name).write_text("{}", encoding="utf-8")
        reseal(signed, signer=gnupg)
        assert reason in findings_of(verify_pack(signed), "files")

    @pytest.mark.parametrize(
        "name", ["/etc/passwd", "../outside.json", "certs/../manifest.json", "./README.md", "a//b"]
    )
    def test_a_path_that_leads_outside_fails(self, signed: Path, gnupg: Maker, name: str) -> None:
        digest = {"sha256": "0" * 64, "size": 1}
        reseal(signed, lambda manifest: manifest["artifact_digests"].update({name: digest}), gnupg)
        found = findings_of(verify_pack(signed), "files")
        assert f"'{name}': " + ("an absolute path" if name.startswith("/") else "leads outside") in found

    def test_what_a_terminal_would_obey_is_escaped(self, signed: Path, gnupg: Maker) -> None:
        (signed / "\x1b[2J").write_text("", encoding="utf-8")
        change_document(signed / QUANT, lambda certificate: certificate["meta"]["determinism"].update({"\x1b[2J": 1}))
        reseal(signed, signer=gnupg)
        assert "'\\x1b[2J'" in findings_of(verify_pack(signed), "files")
        (signed / "\x1b[2J").unlink()
        reseal(signed, signer=gnupg)
        report = verify_pack(signed)
        assert "meta.determinism" in findings_of(report, "structure")
        assert "x1b[2J" in findings_of(report, "structure")
        assert all(line.isprintable() for result in report.steps for line in (*result.findings, result.note))

    def test_checksums_have_to_agree(self, signed: Path) -> None:
        text = (signed / "checksums.sha256").read_text(encoding="utf-8").split("\n")
        (signed / "checksums.sha256").write_text(
            "\n".join([f"{'0' * 64}  {text[0][66:]}", *text[2:]]), encoding="utf-8"
        )
        found = findings_of(verify_pack(signed), "files")
        assert f"checksums.sha256: the digest of '{text[0][66:]}' does not match" in found
        assert f"checksums.sha256: does not list '{text[1][66:]}'" in found

    @pytest.mark.parametrize("line", ["0" * 64, "nonsense", f"{'0' * 64}  README.md", f"{'0' * 64}  gone"])
    def test_checksums_may_hold_nothing_else(self, signed: Path, line: str) -> None:
        with (signed / "checksums.sha256").open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
        assert "checksums.sha256: " in findings_of(verify_pack(signed), "files")

    def test_two_lists_of_files_in_one_manifest_have_to_agree(self, signed: Path, gnupg: Maker) -> None:
        reseal(signed, lambda manifest: manifest["artifacts"].pop(), gnupg)
        assert "artifacts and artifact_digests name different files" in findings_of(verify_pack(signed), "files")

    def test_what_is_no_directory_is_a_usage_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="no such directory"):
            PackVerifier(tmp_path / "absent")

    def test_an_empty_directory_is_no_pack(self, tmp_path: Path) -> None:
        found = findings_of(verify_pack(tmp_path), "manifest")
        assert "manifest.json: missing" in found
        assert "checksums.sha256: missing" in found


class TestStructure:
    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [
            ("manifest.json", '{"a": 1, "a": 2}', "stands twice"),
            ("manifest.json", "[]", "expected a JSON object"),
            ("state/scenarios.json", '{"x": NaN}', "NaN is not JSON"),
            ("results/final_verdict.json", '{"x": ' + "[" * 99 + "]" * 99 + "}", "levels deep"),
            (QUANT, "{}", "is a required property"),
            (QUANT, '{"x": 1e999}', "out of range"),
            ("state/model_revisions.json", '{"x": "\\ud800"}', "half of a surrogate pair"),
            ("state/scenarios.json", "{}", "is a required property"),
            ("state/tuned_edit_params.json", "{}", "is a required property"),
        ],
    )
    def test_a_document_that_does_not_fit_is_named(
        self, signed: Path, gnupg: Maker, name: str, text: str, reason: str
    ) -> None:
        (signed / name).write_text(text, encoding="utf-8")
        if name != "manifest.json":
            reseal(signed, signer=gnupg)
        report = verify_pack(signed)
        step = "manifest" if name == "manifest.json" else "structure"
        found = findings_of(report, step)
        assert name in found
        assert reason in found
        statuses = status_of(report)
        assert [step for step, status in statuses.items() if status is Status.FAILED] == (
            ["signature", step] if name == "manifest.json" else [step]
        )
        assert statuses["verdict"] is Status.NOT_REACHED

    @pytest.mark.parametrize("key", ["artifact_digests", "tool", "schema_version", "verdict", "signing"])
    def test_no_key_of_the_manifest_may_be_missing(self, signed: Path, gnupg: Maker, key: str) -> None:
        reseal(signed, lambda manifest: manifest.pop(key), gnupg)
        assert f"'{key}' is a required property" in findings_of(verify_pack(signed), "manifest")

    def test_a_plan_has_to_be_there(self, signed: Path, gnupg: Maker) -> None:
        change_document(signed / "state/scenarios.json", lambda document: document.pop("plan"))
        reseal(signed, signer=gnupg)
        assert "holds no plan" in findings_of(verify_pack(signed), "structure")
        (signed / "state/scenarios.json").unlink()
        reseal(signed, signer=gnupg)
        assert "state/scenarios.json: missing" in findings_of(verify_pack(signed), "structure")


class TestPacksOfInvarLock:
    """A pack as InvarLock 0.3.7 writes it: a manifest of names, and certificates without evidence."""

    @pytest.fixture
    def theirs(self, tmp_path: Path, gnupg: Maker) -> Path:
        pack = tmp_path / "theirs"
        files: dict[str, object] = {
            "certs/org__model/quant_4bit_clean/run_1/evaluation.cert.json": {
                "schema_version": "v1",
                "primary_metric": {"kind": "ppl_causal", "final": 12.0, "ratio_vs_baseline": 1.01},
                "validation": {"primary_metric_acceptable": True},
            },
            "certs/org__model/quant_4bit_clean/run_1/verify.json": {"summary": {"ok": True}},
            "results/final_verdict.json": {"verdict": "PASS"},
            "results/final_verdict.txt": "PASS",
            "results/eval_results.csv": "model,edit",
        }
        for name, content in files.items():
            (pack / name).parent.mkdir(parents=True, exist_ok=True)
            (pack / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        manifest = {
            "format": "proof-pack-v1",
            "generated_at": "2026-01-01T00:00:00Z",
            "suite": "subset",
            "network_mode": "offline",
            "determinism": "throughput",
            "repeats": 0,
            "determinism_repeats": None,
            "run_dir": "/data/proof_pack_runs/subset",
            "invarlock_version": "0.3.7",
            "model_list": ["org/model"],
            "models": [{"model_id": "org/model", "revision": "abc"}],
            "artifacts": sorted(files),
            "checksums_sha256": "checksums.sha256",
        }
        data = json.dumps(manifest, indent=2).encode()
        (pack / "manifest.json").write_bytes(data)
        (pack / "manifest.json.asc").write_bytes(gnupg[0].sign(data, gnupg[1]))
        rewrite_checksums(pack)
        text = (pack / "checksums.sha256").read_text(encoding="utf-8")
        (pack / "checksums.sha256").write_text(text.replace("  ", "  ./"), encoding="utf-8")
        return pack

    CERTIFICATE = "certs/org__model/quant_4bit_clean/run_1/evaluation.cert.json"

    def test_what_it_does_not_prove_is_said(self, theirs: Path) -> None:
        report = verify_pack(theirs)
        found = findings_of(report, "manifest")
        assert "is one of InvarLock 0.3.7, which names files without their digests" in found
        assert f"signature does not cover {self.CERTIFICATE}" in found
        assert status_of(report) == {
            "signature": Status.PASSED,
            "manifest": Status.FAILED,
            "files": Status.NOT_REACHED,
            "structure": Status.NOT_REACHED,
            "certificates": Status.NOT_REACHED,
            "agreement": Status.NOT_REACHED,
            "verdict": Status.NOT_REACHED,
        }

    def test_it_can_be_accepted_with_warnings(self, theirs: Path, gnupg: Maker) -> None:
        report = verify_pack(theirs, Demands((gnupg[1],), accept_unbound=True))
        assert report.ok
        assert (report.verdict, report.unbound) == (None, True)
        assert "no file of it is bound by a signature" in report.not_covered[0]
        warnings = "\n".join(warning for result in report.steps for warning in result.warnings)
        assert f"signature does not cover {self.CERTIFICATE}" in warnings
        assert f"{self.CERTIFICATE}: carries no window losses" in warnings
        assert "'PASS' is what the pack's maker says; it cannot be recomputed" in warnings

    @pytest.mark.parametrize("damage", ["change", "extra"])
    def test_its_checksums_count_all_the_same(self, theirs: Path, damage: str) -> None:
        name = "conftest.py" if damage == "extra" else "results/eval_results.csv"
        (theirs / name).write_text("other", encoding="utf-8")
        assert f"'{name}'" in findings_of(verify_pack(theirs, Demands(accept_unbound=True)), "files")

    def test_accepting_it_accepts_no_bad_signature(self, theirs: Path) -> None:
        change_document(theirs / "manifest.json", lambda manifest: manifest.update(suite="full"))
        rewrite_checksums(theirs)
        report = verify_pack(theirs, Demands(accept_unbound=True))
        assert "does not belong to manifest.json" in findings_of(report, "signature")

    def test_a_pack_of_ours_does_not_become_one_by_losing_its_digests(self, signed: Path, gnupg: Maker) -> None:
        def strip(manifest: JsonObject) -> None:
            del manifest["artifact_digests"]
            manifest["invarlock_version"] = "0.3.7"

        reseal(signed, strip, gnupg)
        report = verify_pack(signed, Demands(accept_unbound=True))
        assert "'artifact_digests' is a required property" in findings_of(report, "manifest")

    def test_a_certificate_of_ours_is_not_taken_for_one_of_theirs(self, theirs: Path, signed: Path) -> None:
        shutil.copy(signed / QUANT, theirs / self.CERTIFICATE)
        rewrite_checksums(theirs)
        report = verify_pack(theirs, Demands(accept_unbound=True))
        assert f"{self.CERTIFICATE}: a certificate of pytest-proofpack" in findings_of(report, "structure")
