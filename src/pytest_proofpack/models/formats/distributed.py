"""The shards of a distributed checkpoint, which transformers would prefer to the weights that are checked here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

_SHARD = re.compile(r"shard-\d{5}-model-\d{5}-of-\d{5}\.safetensors")


def _shard(files: CheckpointFiles) -> str | None:
    return next((name for name in files.names if _SHARD.fullmatch(name)), None)


def _refusal(files: CheckpointFiles) -> str:
    return (
        f"holds a distributed checkpoint ({_shard(files)}). Load it where it was made and save the whole model: "
        "model.save_pretrained(directory)."
    )


DISTRIBUTED = CheckpointFormat("distributed", recognises=lambda files: _shard(files) is not None, refuses=_refusal)
