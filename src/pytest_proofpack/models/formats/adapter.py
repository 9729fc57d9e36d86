"""An adapter beside a model: transformers would load both, and what is digested here would not be what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_FILE = "adapter_config.json"


def _refusal(_files: CheckpointFiles) -> str:
    return (
        f"holds an adapter ({_FILE}). Merge it into its base model and save that: "
        "model.merge_and_unload().save_pretrained(directory)."
    )


ADAPTER = CheckpointFormat("adapter", recognises=lambda files: _FILE in files.names, refuses=_refusal)
