"""The digest of a model's directory is the one that OpenSSF's own tool signs."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from model_signing import hashing, signing

from pytest_proofpack.common.model_directory import directory_digest
from pytest_proofpack.models.files import CheckpointFiles

FILES = ("config.json", "a/b", "a-b", "a.b", "a/c/d", "Z", "model-00001.safetensors", ".hidden", "ä")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A directory whose files come in another order by their names as text than by their parts."""
    folder = tmp_path / "model"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"content of {name}", encoding="utf-8")
    for name in (".gitattributes", ".gitignore"):
        (folder / name).write_text("no part of the model")
    return folder


def signed_statement(model: Path, folder: Path) -> dict[str, object]:
    """Sign a model by the tool, and return the in-toto statement of its signature."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    files = hashing.Config()  # type: ignore[no-untyped-call]
    files.set_ignored_paths(paths=[model / "model.sig"])
    config = signing.Config()  # type: ignore[no-untyped-call]
    config.use_elliptic_key_signer(private_key=folder / "key.pem")
    config.set_hashing_config(files)
    config.sign(model, model / "model.sig")
    bundle = json.loads((model / "model.sig").read_bytes())
    statement: dict[str, object] = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return statement


def test_it_is_the_subject_of_a_signature_by_model_signing(model: Path, tmp_path: Path) -> None:
    digest = directory_digest(model)
    statement = signed_statement(model, tmp_path)
    assert statement["subject"] == [{"name": "model", "digest": {"sha256": digest}}]
    assert directory_digest(model) == digest  # the signature lies there now
    assert CheckpointFiles.at(model).digest == digest


def test_another_file_or_another_byte_is_another_digest(model: Path) -> None:
    digest = directory_digest(model)
    (model / "a/b").write_text("content of a/B")
    assert directory_digest(model) != digest
    (model / "a/b").write_text("content of a/b")
    assert directory_digest(model) == digest
    (model / "a/new").touch()
    assert directory_digest(model) != digest
