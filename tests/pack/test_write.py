from __future__ import annotations

import getpass
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_proofpack import report
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.presets import preset_document
from pytest_proofpack.certificate.repeats import RepeatRequest, sample_of, summarize
from pytest_proofpack.common.budgets import Budgets
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, pretty_json, read_json
from pytest_proofpack.errors import ConfigurationError, PackError
from pytest_proofpack.pack import write
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.signers import Signer
from pytest_proofpack.pack.verify import verify_pack
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.pack.conftest import Maker
from tests.support.certificates import RunFiles, make_plan, make_run_directory
from tests.support.forgery import change_document, files_of
from tests.support.packs import NEW_YEAR, keyring, pack_of, using

CERTIFICATE = "acme__tiny-1m/certificates/quant_4bit_clean/run_1/evaluation.cert.json"


@pytest.fixture
def run(run_files: RunFiles, tmp_path: Path) -> Path:
    """A run directory to damage."""
    return Path(shutil.copytree(run_files.directory, tmp_path / "run"))


def test_a_pack_holds_the_run_and_a_page_per_certificate(run_files: RunFiles, tmp_path: Path) -> None:
    pack = pack_of(run_files.directory, tmp_path / "pack", html=True)
    files = set(files_of(pack))
    folders = {path.replace("/certificates/", "/").rpartition("/")[0] for path in run_files.certificates}
    names = ("evaluation.cert.json", "evaluation.html", "verify.json")
    assert files == {f"certs/{folder}/{name}" for folder in folders for name in names} | {
        "README.md", "checksums.sha256", "index.html", "manifest.json",
        "results/final_verdict.json", "results/final_verdict.txt", "results/verification_summary.json",
        "state/model_revisions.json", "state/scenarios.json", "state/tuned_edit_params.json",
    }  # fmt: skip
    assert (pack / "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json").read_bytes() == (
        run_files.directory / CERTIFICATE
    ).read_bytes()
    links = re.findall(r'href="(certs/[^"]+)"', (pack / "index.html").read_text(encoding="utf-8"))
    assert {link for link in links if link in files} == {path for path in files if path.endswith("/evaluation.html")}
    assert verify_pack(pack).ok


def test_the_second_layout_nests_results_and_state(run: Path, tmp_path: Path) -> None:
    repeated = next(request for request in make_plan()[1].requests if request.scenario.id == "quant_4bit_clean")
    samples = [sample_of(read_json(run / CERTIFICATE), number) for number in (0, 1, 2)]
    summary = summarize(RepeatRequest(repeated, 2, "throughput"), samples)
    atomic_write(run / "analysis/determinism_repeats.json", pretty_json(summary))
    calibration = read_json(run / "acme__tiny-1m/certificates/calibration/run_1/evaluation.cert.json")
    preset = pretty_json(preset_document([calibration], resolve_policy("balanced")))
    atomic_write(run / "presets/calibrated_preset_acme__tiny-1m.json", preset)
    request = PackRequest(run, tmp_path / "pack", layout="v2", sign=SigningMode.OFF, html=False)
    pack = write_pack(request).directory
    assert {path for path in files_of(pack) if not path.startswith("certs/")} == {
        "README.md", "checksums.sha256", "manifest.json",
        "results/verdicts/final_verdict.json", "results/verdicts/final_verdict.txt",
        "results/analysis/verification_summary.json", "results/analysis/determinism_repeats.json",
        "metadata/model_revisions.json", "metadata/scenarios.json", "metadata/tuned_edit_params.json",
        "metadata/presets/calibrated_preset_acme__tiny-1m.json",
    }  # fmt: skip
    manifest = read_json(pack / "manifest.json")
    assert (manifest["repeats"], manifest["determinism_repeats"]) == (2, summary)
    assert verify_pack(pack).ok


def test_the_manifest_says_what_the_pack_is(signed_original: Path, maker: Maker) -> None:
    manifest = read_json(signed_original / "manifest.json")
    assert schema_findings("manifest", manifest) == []
    assert manifest["generated_at"] == "2026-01-01T00:00:00Z"
    assert manifest["models"] == [{"model_id": "acme/Tiny-1M", "revision": None}]
    assert manifest["model_licenses"] == {"acme/Tiny-1M": "apache-2.0"}
    assert manifest["verdict"] == "PASS"
    assert manifest["verification"]["certificates_verified"] == 18
    assert "proves nothing to anybody else" in manifest["verification"]["statement"]
    assert manifest["signing"] == {"status": "signed", "fingerprint": maker[1], "reason": None}
    assert manifest["artifacts"] == [
        path for path in files_of(signed_original) if path.rpartition(".")[2] not in {"asc", "sha256"}
        and path != "manifest.json"
    ]  # fmt: skip


def test_the_usual_tools_accept_a_pack(signed: Path, gnupg: Maker) -> None:
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "checksums.sha256"], cwd=signed, check=True)
    listed = (signed / "checksums.sha256").read_text(encoding="utf-8").split("\n")[:-1]
    assert sorted(line[66:] for line in listed) == [path for path in files_of(signed) if path != "checksums.sha256"]
    gnupg[0].gpg("--verify", str(signed / "manifest.json.asc"), str(signed / "manifest.json"))


def test_packing_twice_gives_the_same_bytes(run_files: RunFiles, unsigned_original: Path, tmp_path: Path) -> None:
    again = pack_of(run_files.directory, tmp_path / "again")
    assert files_of(again) == files_of(unsigned_original)
    assert all((again / path).read_bytes() == (unsigned_original / path).read_bytes() for path in files_of(again))


def test_nothing_in_a_pack_tells_where_or_by_whom_it_was_made(run_files: RunFiles, tmp_path: Path) -> None:
    pack = pack_of(run_files.directory, tmp_path / "pack", html=True)
    private = {str(tmp_path), str(run_files.directory), str(Path.home()), str(Path.cwd()), socket.gethostname()}
    words = {word.encode() for word in private | {f"/{getpass.getuser()}/"}}
    for path in files_of(pack):
        data = (pack / path).read_bytes()
        assert not [word for word in words if word in data], path


def test_unsigned_is_said_with_its_reason(run_files: RunFiles, tmp_path: Path) -> None:
    with keyring() as ring, using(ring):
        result = write_pack(PackRequest(run_files.directory, tmp_path / "pack", html=False))
    assert result.signing.fingerprint is None
    signing = read_json(result.directory / "manifest.json")["signing"]
    assert signing["status"] == "unsigned"
    assert signing["reason"] == "gpg has no usable secret key that can sign"
    assert not (result.directory / "manifest.json.asc").exists()
    readme = (result.directory / "README.md").read_text(encoding="utf-8")
    assert "unsigned" in readme
    assert readme.count("- Judged by: `tier balanced, ratio at most 1.1`\n") == 1


def test_a_required_signature_that_cannot_be_made_leaves_nothing(run_files: RunFiles, tmp_path: Path) -> None:
    with keyring() as ring, using(ring), pytest.raises(PackError, match="has to be signed"):
        pack_of(run_files.directory, tmp_path / "pack", sign=SigningMode.REQUIRED)
    assert list(tmp_path.iterdir()) == []


def test_a_bad_key_is_a_usage_error(run_files: RunFiles, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="--proofpack-gpg-key"):
        write_pack(PackRequest(run_files.directory, tmp_path / "pack", gpg_key="1234ABCD"))
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_holds_something_is_left_alone(run_files: RunFiles, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "mine").write_text("precious", encoding="utf-8")
    with pytest.raises(PackError, match="not empty"):
        pack_of(run_files.directory, tmp_path / "pack")
    assert files_of(tmp_path) == ["pack/mine"]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_target_that_is_no_directory_is_left_alone(run_files: RunFiles, tmp_path: Path, kind: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "pack"
    if kind == "file":
        target.write_text("precious", encoding="utf-8")
    else:
        target.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PackError, match="not a directory"):
        pack_of(run_files.directory, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "pack"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_empty_target_is_filled(run_files: RunFiles, tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    assert verify_pack(pack_of(run_files.directory, tmp_path / "pack")).ok


class Intruder:
    """The real reports, and somebody who takes the target while they are made."""

    def __init__(self, target: Path) -> None:
        self.target = target

    certificate_html = staticmethod(report.certificate_html)

    def pack_readme(self, manifest_facts: JsonObject, signer: Signer, attestation: str | None = None) -> str:
        self.target.mkdir()
        (self.target / "mine").write_text("precious", encoding="utf-8")
        return report.pack_readme(manifest_facts, signer, attestation)

    index_html = staticmethod(report.index_html)


def test_a_target_taken_in_the_meantime_is_not_overwritten(run_files: RunFiles, tmp_path: Path) -> None:
    target = tmp_path / "pack"
    with pytest.raises(PackError, match="could not be written"):
        write_pack(PackRequest(run_files.directory, target, sign=SigningMode.OFF, html=False), Intruder(target))
    assert files_of(tmp_path) == ["pack/mine"]
    assert [path.name for path in tmp_path.iterdir()] == ["pack"]


def lower_a_ratio(run: Path) -> None:
    change_document(run / CERTIFICATE, lambda certificate: certificate["primary_metric"].update(ratio_vs_baseline=1.0))


def drop_a_certificate(run: Path) -> None:
    (run / CERTIFICATE).unlink()


def move_a_certificate(run: Path) -> None:
    (run / CERTIFICATE).parent.rename((run / CERTIFICATE).parents[1] / "run_2")


def flip_the_verdict(run: Path) -> None:
    change_document(run / "reports/final_verdict.json", lambda verdict: verdict.update(verdict="FAIL"))


def drop_all_certificates(run: Path) -> None:
    for path in list(run.glob("*/certificates")):
        shutil.rmtree(path)


def change_the_text(run: Path) -> None:
    with (run / "reports/final_verdict.txt").open("a", encoding="utf-8") as stream:
        stream.write("All is well.\n")


def drop_the_plan(run: Path) -> None:
    change_document(run / "state/scenarios.json", lambda scenarios: scenarios.pop("plan"))


def break_the_tuned_file(run: Path) -> None:
    (run / "state/tuned_edit_params.json").write_text('{"models": NaN}', encoding="utf-8")


def pin_another_revision(run: Path) -> None:
    change_document(
        run / "state/model_revisions.json", lambda document: document["models"]["acme/Tiny-1M"].update(revision="abc")
    )


def stop_early(run: Path) -> None:
    (run / "reports/final_verdict.txt").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lower_a_ratio, "quant_4bit_clean/run_1/evaluation.cert.json does not verify"),
        (drop_a_certificate, "final_verdict.json of the run is not what its certificates give"),
        (move_a_certificate, "run_2/evaluation.cert.json does not verify"),
        (drop_all_certificates, "a pack without any proves nothing"),
        (change_the_text, "final_verdict.txt of the run is not the text of its verdict"),
        (flip_the_verdict, "final_verdict.json of the run is not what its certificates give"),
        (drop_the_plan, "holds no plan"),
        (break_the_tuned_file, "tuned_edit_params.json of the run cannot be packed"),
        (pin_another_revision, "the certificates of acme/Tiny-1M are of different revisions (None, abc)"),
        (stop_early, "the run did not finish"),
    ],
)
def test_a_run_that_does_not_prove_its_verdict_is_not_packed(
    run: Path, tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(run)
    with pytest.raises(PackError, match=re.escape(message)):
        pack_of(run, tmp_path / "packs" / "pack")
    assert not (tmp_path / "packs").exists()


def test_a_failed_run_is_packed_as_one(tmp_path: Path) -> None:
    """A FAIL is evidence too: the pack verifies, and proves it."""
    run = make_run_directory(tmp_path / "run", shifts={"quant_4bit_clean": 0.5})
    result = write_pack(PackRequest(run.directory, tmp_path / "pack", sign=SigningMode.OFF, html=False))
    assert result.verdict == "FAIL"
    verification = verify_pack(result.directory)
    assert verification.ok
    assert verification.verdict == "FAIL"


def test_a_pack_inside_of_its_run_is_not_packed_again(run: Path) -> None:
    first = pack_of(run, run / "proof_pack")
    second = write_pack(
        PackRequest(run, run / "second", sign=SigningMode.OFF, html=False, generated_at=NEW_YEAR)
    ).directory
    assert files_of(first) == files_of(second)


def test_a_pack_that_verification_would_find_too_large_is_not_written(
    run_files: RunFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "BUDGETS", Budgets(files=50))
    with pytest.raises(PackError, match=r"would have \d+ files and folders, more than the 50 that verification takes"):
        pack_of(run_files.directory, tmp_path / "pack")
    monkeypatch.setattr(write, "BUDGETS", Budgets(json_values=100))
    with pytest.raises(PackError, match=r"would have \d+ values in one document, more than the 100"):
        pack_of(run_files.directory, tmp_path / "pack")
    assert not (tmp_path / "pack").exists()
