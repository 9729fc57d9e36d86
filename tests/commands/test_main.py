from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from pkgutil import resolve_name

import pytest

from pytest_proofpack import __version__
from pytest_proofpack.commands import COMMANDS
from pytest_proofpack.commands.main import main
from tests.support.certificates import make_run_directory
from tests.support.packs import copy_of, pack_of

LIBRARIES = {"numpy", "scipy", "jsonschema", "referencing", "attrs", "rfc8785", "conftest"}


def script(module: str) -> list[str]:
    """Return what pip's script does, with the working directory on the path besides.

    It is put there after the start (-P): Python 3.13 imports modules, from wherever, to run what -c gives it.
    """
    ours = f"from pytest_proofpack.commands.{module} import main; sys.exit(main())"
    return [sys.executable, "-P", "-c", f"import sys; sys.path.insert(0, ''); {ours}"]


FORMS = {
    "proofpack": [*script("main"), "verify"],
    "proofpack-verify": script("verify"),
    "python -m": [sys.executable, "-m", "pytest_proofpack", "verify"],
    "python -P -m": [sys.executable, "-P", "-m", "pytest_proofpack", "verify"],
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = make_run_directory(tmp_path_factory.mktemp("run"))
    return pack_of(run.directory, tmp_path_factory.mktemp("packs") / "pack")


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def imported_by_m() -> set[str]:
    """Return what ``python -m`` imports, from the working directory first, before any module of ours is reached."""
    code = "import runpy, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    return set(subprocess.check_output([sys.executable, "-P", "-c", code], text=True).split())


def plant(folder: Path, names: Sequence[str], marker: Path) -> None:
    for name in names:
        (folder / f"{name}.py").write_text(f"open({str(marker)!r}, 'a').write({name + ' '!r})\n", encoding="utf-8")


def environment_with(path: str) -> dict[str, str]:
    """Return the environment with one more entry on PYTHONPATH, before those that are there."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [path, os.environ.get("PYTHONPATH")]))}


@pytest.mark.parametrize("path", ["src", "./src", "."])
@pytest.mark.parametrize("form", ["proofpack", "proofpack-verify", "python -P -m"])
def test_a_python_path_of_ones_own_project_does_not_lead_into_the_pack(
    form: str, path: str, original: Path, tmp_path: Path
) -> None:
    """What Python itself imports at its start is out of our hands, so only libraries are planted."""
    pack, marker = copy_of(original, tmp_path / "pack"), tmp_path / "executed"
    (pack / "src").mkdir()
    plant(pack / path, sorted(LIBRARIES), marker)
    if path == ".":
        (pack / "src/other").touch()
    environment = environment_with(path)
    result = subprocess.run([*FORMS[form], "."], cwd=pack, capture_output=True, text=True, check=False, env=environment)
    assert not marker.exists(), marker.read_text(encoding="utf-8")
    assert result.returncode == 1, result.stderr
    assert "jsonschema.py': an extra file" in result.stdout


def test_what_a_pack_says_to_pytest_is_not_heard(original: Path, tmp_path: Path) -> None:
    pack, marker = copy_of(original, tmp_path / "pack"), tmp_path / "executed"
    for name in ("pytest.ini", "tox.ini", "setup.cfg"):
        section = "tool:pytest" if name == "setup.cfg" else "pytest"
        (pack / name).write_text(f"[{section}]\naddopts = -p evil\npythonpath = .\n", encoding="utf-8")
    plant(pack, ["evil", "conftest", "sitecustomize", "usercustomize"], marker)
    result = subprocess.run([*FORMS["proofpack"], "."], cwd=pack, capture_output=True, text=True, check=False)
    assert (result.returncode, marker.exists()) == (1, False), result.stderr
    assert "'pytest.ini': an extra file that manifest.json does not name" in result.stdout


@pytest.mark.parametrize("form", FORMS)
def test_nothing_in_the_pack_runs_even_from_inside(form: str, original: Path, tmp_path: Path) -> None:
    """The whole standard library is planted, with the pack as the working directory and on the path."""
    spared = imported_by_m() if form == "python -m" else set()  # docs/pack-format.md says so
    pack, marker = copy_of(original, tmp_path / "pack"), tmp_path / "executed"
    planted = sorted({*sys.stdlib_module_names, *LIBRARIES, "sitecustomize"} - spared)
    plant(pack, planted, marker)
    result = subprocess.run([*FORMS[form], "."], cwd=pack, capture_output=True, text=True, check=False)
    assert not marker.exists(), marker.read_text(encoding="utf-8")
    assert result.returncode == 1, result.stderr
    assert "'__future__.py': an extra file" in result.stdout


def test_a_package_of_our_name_in_the_pack_is_not_ours_but_for_a_plain_m(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    folder = tmp_path / "pack"
    folder.mkdir()
    plant(folder, ["pytest_proofpack"], marker)
    safe = [sys.executable, "-P", "-m", "pytest_proofpack", "--version"]
    assert subprocess.check_output(safe, cwd=folder, text=True) == f"proofpack {__version__}\n"
    assert not marker.exists()
    subprocess.run([part for part in safe if part != "-P"], cwd=folder, capture_output=True, check=False)
    assert marker.exists()  # docs/pack-format.md says so


def test_the_three_forms_of_one_command(original: Path) -> None:
    outputs = {subprocess.check_output([*form, original], text=True) for form in FORMS.values()}
    assert len(outputs) == 1
    assert "VERIFIED: " in outputs.pop()


def test_the_scripts_that_pip_makes() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"] == {
        "proofpack": "pytest_proofpack.commands.main:main",
        "proofpack-verify": "pytest_proofpack.commands.verify:main",
    }
    for target in project["scripts"].values():
        assert callable(resolve_name(target))


def test_help_names_every_sub_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    listed = capsys.readouterr().out
    for name in COMMANDS:
        assert f"\n    {name} " in listed
        assert main([name, "--help"]) == 0
        assert f"usage: proofpack {name} " in capsys.readouterr().out


def test_help_to_assemble_says_what_options_do_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["assemble", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "--attest-key FILE, --proofpack-attest-key FILE attest with this ECDSA P-256 key (PEM, or env:NAME)" in told
    assert "verification" not in told
    assert "(default: v1; environment: PACK_PACK_LAYOUT)" in told


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"proofpack {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["certify"], "proofpack: error: argument COMMAND: invalid choice: 'certify'"),
        (["verify"], "proofpack verify: error: the following arguments are required: DIR"),
        (["verify", "/absent"], "proofpack verify: /absent: there is no such directory."),
    ],
)
def test_usage_errors(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert message in capsys.readouterr().err


def test_a_reader_who_has_enough_ends_it_without_a_traceback(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([*FORMS["python -m"], tmp_path], stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_alone_it_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    told = capsys.readouterr().err
    assert all(f"\n    {name} " in told for name in COMMANDS)
