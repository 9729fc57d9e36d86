"""What extensions register, by which name and digest they are known, and that nothing of them stays."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import pytest

from pytest_proofpack.common.registry import Registry
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.extensions import (
    Extension,
    Registries,
    extension_of_file,
    extension_of_module,
    require_same_extensions,
    source_digest,
)


@dataclass(frozen=True)
class Thing:
    name: str


THINGS = (Thing("own"),)


def module_of(path: Path, name: str) -> ModuleType:
    module = ModuleType(name)
    module.__file__ = str(path)
    return module


def test_what_was_registered_goes_with_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    things: Registry[Thing] = Registry("thing", f"{__name__}:THINGS")
    things.register(Thing("of somebody else"))
    place = ModuleType("place")
    vars(place)["GUARDS"] = things
    monkeypatch.setitem(sys.modules, "pytest_proofpack.guards.registry", place)

    registries = Registries()
    cast("Registry[Any]", registries.guards).register(Thing("mine"))
    assert list(things) == ["own", "of somebody else", "mine"]
    registries.close()
    assert list(things) == ["own", "of somebody else"]


def test_the_digest_is_that_of_all_of_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "edits_of_mine"
    (package / "inner").mkdir(parents=True)
    for file in ("__init__.py", "inner/__init__.py", "inner/more.py"):
        (package / file).write_text(f"# {file}\n")
    top = module_of(package / "__init__.py", "edits_of_mine")
    inner = module_of(package / "inner/more.py", "edits_of_mine.more")
    monkeypatch.setitem(sys.modules, "edits_of_mine", top)
    before = extension_of_module(inner)
    assert (before.name, before.version) == ("edits_of_mine.more", None)
    assert extension_of_module(top).sha256 == before.sha256
    (package / "inner/more.py").write_text("# another\n")
    assert extension_of_module(inner).sha256 != before.sha256


def test_one_file_has_the_digest_that_everybody_computes(tmp_path: Path) -> None:
    (tmp_path / "one.py").write_bytes(b"# one\n")
    expected = hashlib.sha256(b"# one\n").hexdigest()
    assert extension_of_module(module_of(tmp_path / "one.py", "one")) == Extension("one", None, expected)
    assert extension_of_file("one.py", b"# one\n").sha256 == source_digest({"one.py": b"# one\n"}) == expected


def test_an_installed_one_has_a_version() -> None:
    assert extension_of_module(pytest).version == pytest.__version__


def test_what_has_no_source_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="extension nowhere: it has no source file"):
        extension_of_module(ModuleType("nowhere"))


def test_another_file_on_a_worker_is_refused() -> None:
    mine, other = extension_of_file("a.py", b"1"), extension_of_file("a.py", b"2")
    require_same_extensions([mine], [mine])
    with pytest.raises(ConfigurationError, match=rf"session has a.py \(sha256 {other.sha256[:12]}\), the worker a.py"):
        require_same_extensions([mine], [other])
    with pytest.raises(ConfigurationError, match=r"the session has a.py .*, the worker none"):
        require_same_extensions([], [mine])
    assert Extension(**json.loads(json.dumps(mine.to_json()))) == mine
