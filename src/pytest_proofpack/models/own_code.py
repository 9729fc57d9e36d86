"""Code that a model brings along (``auto_map`` in its ``config.json``): run by nobody here, but perhaps by others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.common.words import first_of, printable

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

_SHOWN = 3
_LENGTH = 80


def code_warnings(spec: ModelSpec, files: CheckpointFiles) -> tuple[str, ...]:
    """Return the warning that a model names code of its own which was not run; nothing if it does not, or was."""
    named = files.claims.get("auto_map")
    if spec.trust_remote_code or not isinstance(named, dict) or not named:
        return ()
    shown = first_of([printable(f"{key}: {value}")[:_LENGTH] for key, value in sorted(named.items())], _SHOWN)
    return (
        f"its config.json names code of its own (auto_map: {shown}), which was not run: what was "
        "measured is what transformers itself makes of this type of model. Others may run that code "
        "(trust_remote_code), and then it may behave differently.",
    )
