from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_proofpack.commands.verify import main
from pytest_proofpack.pack.attest import AttestRequest
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.write import PackRequest, write_pack
from tests.support.attest_keys import AttestKey
from tests.support.certificates import make_run_directory
from tests.support.forgery import forge_certificate, reseal, rewrite_checksums
from tests.support.openpgp import Keyring
from tests.support.packs import copy_of, keyring, pack_of, using
from tests.support.tampering import as_invarlock, written

CERTIFICATE = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"
Maker = tuple[Keyring, str]


@pytest.fixture(scope="module")
def maker() -> Iterator[Maker]:
    with keyring() as ring:
        yield ring, ring.make_key()


@pytest.fixture(scope="module")
def original(maker: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_directory(tmp_path_factory.mktemp("run"))
    with using(maker[0]):
        return pack_of(run.directory, tmp_path_factory.mktemp("packs") / "pack", sign=SigningMode.REQUIRED)


@pytest.fixture
def pack(original: Path, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GNUPGHOME", str(maker[0].home))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return copy_of(original, tmp_path / "pack")


def test_a_good_pack(pack: Path, maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(pack)]) == 0
    lines = capsys.readouterr().out.split("\n")
    steps = ["signature", "manifest", "files", "structure", "certificates", "agreement", "verdict"]
    assert [line.split()[0] for line in lines[:7]] == steps
    assert lines[4].split(maxsplit=2)[1:] == ["passed", "18 of 18 hold"]
    assert "VERIFIED: all that this pack claims holds; its verdict is PASS." in lines
    assert (
        "Not covered: what the pages for people say (1 of .html and .md): they are the maker's, bound by digest only."
        in lines
    )
    assert f"Signed by {maker[1]}, not pinned." in lines
    assert lines[-2].endswith(f"--trusted-key={maker[1]}")


def test_a_pinned_signer(pack: Path, maker: Maker, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(pack), "--trusted-key", "A" * 40, f"--trusted-key={maker[1]}", "--require-signature"]) == 0
    assert capsys.readouterr().out.endswith(f"Signed by {maker[1]}, pinned.\n")


def test_a_signer_pinned_by_a_file(
    pack: Path, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "maker.asc").write_bytes(maker[0].gpg("--armor", "--export", maker[1]))
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "none"))
    assert main([str(pack), f"--trusted-key-file={tmp_path / 'maker.asc'}"]) == 0
    assert capsys.readouterr().out.endswith(f"Signed by {maker[1]}, pinned.\n")
    assert main([str(pack), f"--trusted-key-file={tmp_path / 'none.asc'}"]) == 2
    assert "--trusted-key-file=" in capsys.readouterr().err


def test_an_attester_that_is_demanded(
    original: Path, maker: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("GNUPGHOME", str(maker[0].home))
    private, public = AttestKey().write(tmp_path)
    run = make_run_directory(tmp_path / "run")
    attest = AttestRequest(keys=(str(private),))
    pack = write_pack(PackRequest(run.directory, tmp_path / "attested", attest=attest, html=False)).directory
    assert main([str(pack), f"--attest-key={public}", f"--json={tmp_path / 'result.json'}"]) == 0
    assert "Attested by key " in capsys.readouterr().out
    assert json.loads((tmp_path / "result.json").read_bytes())["attestation"]["pinned"] is True
    assert main([str(original), f"--attest-key={public}"]) == 1
    assert "the pack has no attestation, and one is required" in capsys.readouterr().out
    assert main([str(pack), f"--attest-key={private}"]) == 2
    assert main([str(pack), "--attest-identity=me@example.org"]) == 2
    assert "--attest-issuer" in capsys.readouterr().err


def test_a_forged_pack(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    forge_certificate(pack, CERTIFICATE, lambda certificate: certificate["primary_metric"].update(final=1.0))
    rewrite_checksums(pack)
    assert main([str(pack)]) == 1
    output = capsys.readouterr().out
    assert f"    '{CERTIFICATE}': " in output
    assert "structure     not reached  files did not pass\ncertificates  not reached  0 of 18 hold\n" in output
    assert "agreement     not reached  the certificates did not pass\n" in output
    assert "NOT VERIFIED: " in output


def test_what_is_no_pack_has_no_certificate_that_passed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path)]) == 1
    assert "certificates  not reached  0 of 0 hold\n" in capsys.readouterr().out
    (tmp_path / "proof_pack").mkdir()
    (tmp_path / "proof_pack/manifest.json").touch()
    assert main([str(tmp_path)]) == 1
    assert f"This is no pack; there is one in it: {tmp_path / 'proof_pack'}\n" in capsys.readouterr().out
    archive = tmp_path / "pack.tar.gz"
    archive.touch()
    assert main([str(archive)]) == 2
    assert "there is no such directory, but a file; unpack it if it is an archive. " in capsys.readouterr().err
    assert main([str(tmp_path), f"--trusted-key-file={archive}"]) == 2
    assert f"--trusted-key-file={archive}: holds no public key of OpenPGP" in capsys.readouterr().err
    assert main([str(tmp_path), "--require-signature"]) == 1
    assert "require-signature: the pack is unsigned, and a signature is required\n" in capsys.readouterr().out


def test_a_signer_who_is_not_trusted(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(pack), f"--trusted-key={'A' * 40}"]) == 1
    assert "not one of the trusted keys" in capsys.readouterr().out


def test_an_unbound_pack_is_never_called_verified(pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = "certs/org__model/quant/run_1/evaluation.cert.json"
    written(theirs, '{"schema_version": "v1", "primary_metric": {}, "validation": {}}')(pack)
    as_invarlock(pack, lambda name: name == theirs)
    assert main([str(pack)]) == 1
    assert "NOT VERIFIED: 2 findings." in capsys.readouterr().out
    assert main([str(pack), "--accept-unbound", "--require-verdict=PASS"]) == 3
    assert "NOT MET      require-verdict=PASS: nothing of this pack was recomputed" in capsys.readouterr().out
    assert main([str(pack), "--accept-unbound"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert not any(line.startswith("VERIFIED") for line in lines)
    said = next(line for line in lines if line.startswith("ACCEPTED UNBOUND, NOT VERIFIED: "))
    assert "no file of it is bound by a signature, and no number or verdict in it was recomputed" in said


def test_the_result_as_json(pack: Path, tmp_path: Path) -> None:
    assert main([str(pack), f"--json={tmp_path / 'out' / 'result.json'}"]) == 0
    assert json.loads((tmp_path / "out" / "result.json").read_bytes())["ok"] is True


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["{pack}", "--unknown"],
        ["{pack}/absent"],
        ["{pack}/README.md"],
        ["{pack}", "--trusted-key=1234ABCD"],
        ["{pack}", "--json={pack}/result.json"],
        ["{pack}", "--json=/dev/null/result.json"],
    ],
)
def test_usage_errors(pack: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([argument.format(pack=pack) for argument in arguments]) == 2
    assert "proofpack-verify: " in capsys.readouterr().err
    assert not (pack / "result.json").exists()


def test_the_console_script_needs_neither_torch_nor_pytest(pack: Path) -> None:
    code = (
        "import sys\nfrom pytest_proofpack.commands.verify import main\nstatus = main([sys.argv[1]])\n"
        "loaded = {'torch', 'transformers', 'pytest', '_pytest', 'jinja2', 'matplotlib'} & sys.modules.keys()\n"
        "sys.exit(f'loaded {loaded}' if loaded else status)"
    )
    result = subprocess.run([sys.executable, "-P", "-c", code, pack], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_plain_terminal_can_show_every_name(pack: Path) -> None:
    forge_certificate(pack, CERTIFICATE, lambda certificate: certificate["meta"].update(model_id="acme/naïve"))
    reseal(pack)
    script = Path(sys.executable).with_name("proofpack-verify")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    result = subprocess.run([script, pack], capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 1, result.stderr
    assert r"'acme/na\xefve' is not in the manifest's model_list" in result.stdout
