"""Code that a model brings along (``auto_map``, ``custom_generate``): run by nobody here, but perhaps by others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.common.words import first_of, printable
from pytest_proofpack.errors import FormatError
from pytest_proofpack.models.tokenizer import TOKENIZER_CONFIG

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

_GENERATE = "custom_generate/generate.py"
_SHOWN = 3
_LENGTH = 80


def code_warnings(spec: ModelSpec, files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warnings that a model names code of its own which was not run; nothing if it does not, or was."""
    found = []
    if not spec.trust_remote_code:
        if shown := _named(files.claims):
            found.append(
                f"its config.json names code of its own (auto_map: {shown}), which was not run: what was "
                "measured is what transformers itself makes of this type of model. Others may run that code "
                "(trust_remote_code), and then it may behave differently."
            )
        if shown := _named(_tokenizer_config(files)):
            found.append(
                f"its {TOKENIZER_CONFIG} names code of its own (auto_map: {shown}), which was not run. Others may run "
                "it (trust_remote_code), and then text may be split differently."
            )
    if (files.path / _GENERATE).is_file():
        found.append(
            f"holds code of its own that generates text ({_GENERATE}), which was not run: nothing here is generated. "
            "Others may run it (trust_remote_code)."
        )
    return tuple(found)


def _named(settings: JsonObject) -> str:
    """Return what an ``auto_map`` names, shortened; nothing if there is none."""
    named: Any = settings.get("auto_map")
    if not isinstance(named, dict) or not named:
        return ""
    return first_of([printable(f"{key}: {value}")[:_LENGTH] for key, value in sorted(named.items())], _SHOWN)


def _tokenizer_config(files: CheckpointFiles) -> JsonObject:
    """Return what the file says; nothing if it can't be read, which others tell."""
    path = files.path / TOKENIZER_CONFIG
    try:
        return read_json(path, f"{path}") if path.is_file() else {}
    except FormatError:
        return {}
