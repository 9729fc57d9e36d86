from __future__ import annotations

import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import pytest_proofpack
from pytest_proofpack import ConfigurationError, FormatError, VerificationError, load_pack, verify
from pytest_proofpack.common.budgets import BUDGETS, Budgets
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.pack import snapshot
from tests.pack.conftest import Maker
from tests.support.forgery import change_document, files_of, load

CERTIFICATE = "certs/acme__tiny-1m/quant_4bit_clean/run_1/evaluation.cert.json"
NAN = "certs/acme__tiny-1m/errors/nan_injection/evaluation.cert.json"


def test_a_pack_is_loaded_as_it_is_recorded(signed: Path) -> None:
    pack = load_pack(signed)
    assert pack.verdict == "PASS"
    assert pack.manifest["suite"] == load(signed / "manifest.json")["suite"]
    assert [certificate.path for certificate in pack.certificates] == [
        path for path in files_of(signed) if path.endswith(".cert.json")
    ]
    certificate = next(found for found in pack.certificates if found.path == CERTIFICATE)
    document = load(signed / CERTIFICATE)
    assert (certificate.model, certificate.scenario, certificate.run) == ("acme/Tiny-1M", "quant_4bit_clean", 1)
    assert certificate.ratio == document["primary_metric"]["ratio_vs_baseline"]
    assert certificate.interval == tuple(document["primary_metric"]["display_ci"])
    assert certificate.outcome == "pass"
    assert dict(certificate.document) == document


def test_a_certificate_without_a_finite_loss_has_no_ratio(signed: Path) -> None:
    def without_ratio(document: JsonObject) -> None:
        del document["primary_metric"]["ratio_vs_baseline"], document["primary_metric"]["display_ci"]

    change_document(signed / NAN, without_ratio)
    certificate = next(found for found in load_pack(str(signed)).certificates if found.path == NAN)
    assert (certificate.ratio, certificate.interval, certificate.outcome) == (None, None, "fail")


def test_records_are_read_only(signed: Path) -> None:
    pack = load_pack(signed)
    with pytest.raises(dataclasses.FrozenInstanceError):
        pack.verdict = "FAIL"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        pack.certificates[0].ratio = 1.0  # type: ignore[misc]
    with pytest.raises(TypeError, match="does not support item assignment"):
        pack.certificates[0].document["outcome"] = {}  # type: ignore[index]


def test_loading_verifies_nothing_and_verify_does(signed: Path, gnupg: Maker) -> None:
    good = verify(signed, trusted_keys=[gnupg[1].lower()], require_signature=True)
    assert (good.ok, good.verdict, good.pinned, good.fingerprint) == (True, "PASS", True, gnupg[1])
    change_document(signed / CERTIFICATE, lambda document: document["primary_metric"].update(ratio_vs_baseline=0.5))
    assert next(found for found in load_pack(signed).certificates if found.path == CERTIFICATE).ratio == 0.5
    report = verify(str(signed))
    assert not report.ok
    assert {step.step for step in report.steps if step.status is pytest_proofpack.Status.FAILED} == {"files"}


def test_what_verify_demands(unsigned: Path) -> None:
    assert verify(unsigned).ok
    assert not verify(unsigned, require_signature=True).ok
    assert not verify(unsigned, trusted_keys=["A" * 40]).ok
    with pytest.raises(ConfigurationError, match="not a full fingerprint"):
        verify(unsigned, trusted_keys=["ABCD1234"])


@pytest.mark.parametrize("function", [load_pack, verify])
@pytest.mark.parametrize("name", ["absent", "file"])
def test_what_is_no_directory(function: Callable[[Path], object], name: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="there is no such directory"):
        function(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("manifest.json", None, r"manifest\.json: missing"),
        ("manifest.json", b"{}", r"manifest\.json: .*required property.* \(and \d+ more findings"),
        ("manifest.json", b'{"a": 1, "a": 2}', r"manifest\.json: .*'a'"),
        (CERTIFICATE, b"[" * 100_000, r"evaluation\.cert\.json: "),
        (CERTIFICATE, b'{"ratio": NaN}', r"evaluation\.cert\.json: .*NaN"),
        ("state/scenarios.json", b"{}", r"scenarios\.json: "),
    ],
)
def test_documents_that_are_not_what_they_must_be(
    unsigned: Path, name: str, content: bytes | None, message: str
) -> None:
    (unsigned / name).unlink()
    if content is not None:
        (unsigned / name).write_bytes(content)
    with pytest.raises(FormatError, match=message):
        load_pack(unsigned)


def test_a_link_is_not_followed(unsigned: Path, tmp_path: Path) -> None:
    secret = tmp_path / "elsewhere.json"
    (unsigned / "manifest.json").rename(secret)
    (unsigned / "manifest.json").symlink_to(secret)
    with pytest.raises(FormatError, match=r"manifest\.json: missing, or not a regular file"):
        load_pack(unsigned)


def test_what_is_read_is_bounded(unsigned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "BUDGETS", Budgets(pack_bytes=10_000))
    with pytest.raises(VerificationError, match="more than 10000 bytes"):
        load_pack(unsigned)
    monkeypatch.undo()
    os.truncate(unsigned / "manifest.json", BUDGETS.manifest_bytes + 1)  # sparse: it takes no space, and is not read
    with pytest.raises(FormatError, match=r"manifest\.json: missing"):
        load_pack(unsigned)


def test_a_pack_that_is_only_names_is_not_loaded(unsigned: Path) -> None:
    names = json.dumps({"format": "proof-pack-v1", "invarlock_version": "0.3.7", "artifacts": []})
    (unsigned / "manifest.json").write_text(names, encoding="utf-8")
    with pytest.raises(FormatError, match=r"InvarLock 0\.3\.7"):
        load_pack(unsigned)


def test_every_public_name_is_there_and_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in pytest_proofpack.__all__:
        assert getattr(pytest_proofpack, name).__doc__
        assert name == "__version__" or re.search(rf"`{name}\b", text), name
    assert set(pytest_proofpack.__all__) <= set(dir(pytest_proofpack))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'pytest_proofpack' has no attribute 'load_packs'"):
        pytest_proofpack.load_packs  # type: ignore[attr-defined]  # noqa: B018


def test_importing_the_package_loads_nothing_and_using_it_no_model_library() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import pytest_proofpack; print(*sorted(set(sys.modules) - before))\n"
        "pytest_proofpack.verify, pytest_proofpack.FormatError\n"
        "print(*sorted({'torch', 'transformers', 'pytest', 'jinja2'} & sys.modules.keys()))"
    )
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output == "pytest_proofpack\n\n"
