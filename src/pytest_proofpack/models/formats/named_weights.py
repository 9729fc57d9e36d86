"""A configuration that names other weights than the usual ones, which alone are checked and digested here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_KEY = "transformers_weights"


def _refusal(_files: CheckpointFiles) -> str:
    return (
        f"{_KEY} in its config.json names other weights than model.safetensors. Remove the key, and give the weights "
        "the usual name."
    )


NAMED_WEIGHTS = CheckpointFormat("named_weights", recognises=lambda files: _KEY in files.claims, refuses=_refusal)
