"""The CI files of docs/ci.md and the action at the top: their shell steps run as they stand, in a repository."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.support.openpgp import Keyring
from tests.support.packs import keyring
from tests.support.workflows import PIP, PYTHON_OF_A_VENV, Runner, sh_steps

pytestmark = pytest.mark.slow  # sessions that certify a model

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/ci.md"
CERTIFY = "pip install pytest-proofpack[certify]"
VERIFY = "pip install pytest-proofpack"
SUITE = """
schema = "proof_pack_suite_v1"
name = "release"
[[models]]
id = "acme/model"
path = "model"
[text]
provider = "local_text"
path = "text.txt"
[windows]
seq_len = 32
[runs]
calibration = 1
clean = 0
stress = 0
error = 0
"""
NO_PINS = '{"schema": "model_revisions_v1", "models": {}, "datasets": {}}'


@pytest.fixture(scope="module")
def signer() -> Iterator[Keyring]:
    with keyring() as ring:
        ring.make_key("CI")
        yield ring


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the commands that the steps call: those of this environment, but no real pip."""
    folder = tmp_path_factory.mktemp("tools")
    for name in ("pytest", "proofpack"):
        (folder / name).symlink_to(Path(sys.executable).parent / name)
    (folder / "real-python3").symlink_to(sys.executable)
    for name, script in (("pip", PIP), ("python3", PYTHON_OF_A_VENV)):
        (folder / name).write_text(script)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def checkout(tmp_path: Path, signer: Keyring, saved_model: Path, sample_text: Path) -> Path:
    """Return a repository as the CI files expect it: a suite, its pins and the public key."""
    (tmp_path / "suite.toml").write_text(SUITE)
    (tmp_path / "model").symlink_to(saved_model)
    (tmp_path / "text.txt").symlink_to(sample_text)
    (tmp_path / "model_revisions.json").write_text(NO_PINS)
    (tmp_path / "proofpack.asc").write_bytes(signer.gpg("--export", "--armor"))
    return tmp_path


def block(title: str) -> str:
    """Return the file below a title of the page."""
    section = PAGE.read_text().partition(f"\n## {title}\n")[2]
    return section.partition("\n```")[2].partition("\n")[2].partition("\n```")[0]


def secret(signer: Keyring) -> str:
    return signer.gpg("--export-secret-keys", "--armor").decode()


def on_another_machine(checkout: Path, target: Path) -> Path:
    """Return another checkout that has the run and nothing of what made it: no model, no text."""
    target.mkdir()
    shutil.copy(checkout / "proofpack.asc", target)
    shutil.copytree(checkout / "run", target / "run")
    return target


def test_github(checkout: Path, tools: Path, signer: Keyring, tmp_path_factory: pytest.TempPathFactory) -> None:
    jobs = yaml.safe_load(block("GitHub Actions"))["jobs"]
    certify = Runner(checkout, tools, {"secrets.PROOFPACK_SIGNING_KEY": secret(signer)})
    certify.steps(jobs["certify"]["steps"])
    assert certify.installed == [CERTIFY]
    assert (checkout / "proof-pack.xml").is_file()
    assert (checkout / ".GITHUB_STEP_SUMMARY").read_text().startswith("### PASS: 1 of 1 certificates are what")

    assert jobs["verify"]["needs"] == "certify"
    verify = Runner(on_another_machine(checkout, tmp_path_factory.mktemp("other") / "checkout"), tools)
    assert "VERIFIED" in verify.steps(jobs["verify"]["steps"])
    assert verify.installed == [VERIFY]


def test_gitlab(checkout: Path, tools: Path, signer: Keyring, tmp_path_factory: pytest.TempPathFactory) -> None:
    file = yaml.safe_load(block("GitLab"))
    key = tmp_path_factory.mktemp("variables") / "PROOFPACK_SIGNING_KEY"
    key.write_text(secret(signer))
    certify = Runner(checkout, tools, environment={"PROOFPACK_SIGNING_KEY": str(key)})
    certify.run("\n".join(file["certify"]["script"]))
    assert certify.installed == [CERTIFY]
    assert (checkout / file["certify"]["artifacts"]["reports"]["junit"]).is_file()

    verify = Runner(on_another_machine(checkout, tmp_path_factory.mktemp("other") / "checkout"), tools)
    assert "VERIFIED" in verify.run("\n".join(file["verify"]["script"]))


def test_jenkins(checkout: Path, tools: Path, signer: Keyring, tmp_path_factory: pytest.TempPathFactory) -> None:
    install, certifies, verifies = sh_steps(block("Jenkins"))
    key = tmp_path_factory.mktemp("credentials") / "key.asc"
    key.write_text(secret(signer))
    certify = Runner(checkout, tools, environment={"SIGNING_KEY_FILE": str(key)})
    certify.run(install, interpreter="sh")
    certify.run(certifies, interpreter="sh")
    assert certify.installed == [CERTIFY]

    verify = Runner(on_another_machine(checkout, tmp_path_factory.mktemp("other") / "checkout"), tools)
    assert "VERIFIED" in verify.run(verifies, interpreter="sh")


def test_the_action(checkout: Path, tools: Path, signer: Keyring) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text())
    given = {"suite": "suite.toml", "signing-key": secret(signer), "options": "-q -p no:cacheprovider"}
    inputs = {name: given.get(name, entry.get("default")) for name, entry in action["inputs"].items()}
    runner = Runner(checkout, tools, {f"inputs.{name}": value for name, value in inputs.items()})
    runner.steps(action["runs"]["steps"])

    assert runner.installed == [CERTIFY]
    output = (checkout / ".GITHUB_OUTPUT").read_text().strip()
    assert output == "pack=proof-pack-run/proof_pack"
    verified = runner.run(
        "proofpack verify proof-pack-run/proof_pack --trusted-key-file=proofpack.asc --require-verdict=PASS"
    )
    assert "VERIFIED" in verified
    assert (checkout / "proof-pack-run-junit.xml").is_file()
