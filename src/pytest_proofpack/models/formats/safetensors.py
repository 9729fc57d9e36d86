"""Dense weights in one ``model.safetensors``, or in the files that ``model.safetensors.index.json`` names."""

from __future__ import annotations

from pytest_proofpack.models.checkpoint_formats import CheckpointFormat

SAFETENSORS = CheckpointFormat("safetensors", recognises=lambda _files: True)
