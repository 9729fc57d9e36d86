"""Files to start from: a suite, its scenarios, and a CI's file, with comments that say what may be changed."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from pytest_proofpack.common.documentation import PAGES
from pytest_proofpack.common.words import printable
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.text_sources import TEXT_SOURCES

SUITE, SCENARIOS = "suite.toml", "scenarios.json"
CI_FILES: Mapping[str, str] = {"github": ".github/workflows/proof-pack.yml", "gitlab": ".gitlab-ci.yml"}
"""Where each CI looks for its file."""
DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M"
_SUFFIXES = {".txt": "local_text", ".jsonl": "local_jsonl"}


def starter_files(folder: Path, model: str, text: str | None, ci: str | None) -> dict[str, str]:
    """Return the files by their path below a folder; that of the CI's by an absolute one where it belongs above it.

    Args:
        folder: where they go; paths of a model and a text are written relative to it.
        model: a directory, or an id of the hub as ``ID[@REV]``.
        text: a ``.txt`` or ``.jsonl`` file; None for WikiText-2.
        ci: a key of :data:`CI_FILES`; None for no such file.

    Raises:
        ConfigurationError: the text is of another kind or not there, or the model has no name.
    """
    suite = _packaged(SUITE).replace("@MODEL@", _model(folder, model)).replace("@TEXT@", _text(folder, text))
    files = {SUITE: suite, SCENARIOS: _packaged(SCENARIOS)}
    return files if ci is None else {**files, **_ci_file(folder, ci)}


def _ci_file(folder: Path, ci: str) -> dict[str, str]:
    """Return a CI's file, which is only looked for at the top of a repository: the one that the folder lies in."""
    below = folder.resolve()
    root = next((path for path in (below, *below.parents) if (path / ".git").exists()), below)
    suite = (below / SUITE).relative_to(root).as_posix()
    place = CI_FILES[ci] if root == below else str(root / CI_FILES[ci])
    text = _packaged(f"{ci}.yml").replace("--proofpack-suite=@SUITE@", shlex.quote(f"--proofpack-suite={suite}"))
    return {place: text.replace('"@SUITE@"', _quoted(suite)).replace("@SUITE@", printable(suite))}


def _packaged(name: str) -> str:
    text = resources.files("pytest_proofpack").joinpath("data", "starter", name).read_text(encoding="utf-8")
    return text.replace("@DOCS@", PAGES)


def _model(folder: Path, model: str) -> str:
    path = Path(model).expanduser()
    if path.is_dir():
        name = path.resolve().name
        return (
            f"id = {_quoted(name)}\npath = {_quoted(_relative(path, folder))}                 # relative to this file"
        )
    if model.startswith((".", "/", "~")):
        raise ConfigurationError(f"--model={model}: there is no such directory")
    model_id, _, revision = model.partition("@")
    if not model_id:
        raise ConfigurationError(f"--model={model}: name a directory, or a model of the hub as ID[@REV]")
    pin = (
        f"revision = {_quoted(revision)}"
        if revision
        else '# revision = "..."                      # branch, tag or commit'
    )
    return f"id = {_quoted(model_id)}\n{pin}"


def _text(folder: Path, text: str | None) -> str:
    if text is None:
        return 'provider = "wikitext2"                    # or a text of your own: "local_text" with path = "text.txt"'
    path = Path(text).expanduser()
    provider = _SUFFIXES.get(path.suffix)
    if provider is None or provider not in TEXT_SOURCES:
        raise ConfigurationError(f"--text={text}: expected a {' or '.join(_SUFFIXES)} file")
    if not path.is_file():
        raise ConfigurationError(f"--text={text}: there is no such file")
    return f'provider = "{provider}"\npath = {_quoted(_relative(path, folder))}'


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _quoted(text: str) -> str:
    # A path has to stay what it is: letters that run leftwards are escaped where it is shown, not here.
    return json.dumps(text if text.isprintable() else printable(text), ensure_ascii=False)
