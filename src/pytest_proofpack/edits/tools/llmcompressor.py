"""llm-compressor: its preset schemes by ``QuantizationModifier``, without data, saved in compressed-tensors' form.

It demands exact versions of transformers and compressed-tensors, so it is no extra of this package: it is installed
beside it into an environment of its own.
"""

from __future__ import annotations

from pytest_proofpack.common.documentation import page
from pytest_proofpack.edits.tools.compressed_tensors import RECIPES, heads, preset
from pytest_proofpack.plan.tool_edits import Tool, ToolJob

_NAME = "llmcompressor"
_INSTALL = f"pytest-proofpack {_NAME} httpx2 psutil, in an environment of its own: {page('how-to/suite.md')}"


def _make(job: ToolJob) -> None:
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier

    model = job.load()
    modifier = QuantizationModifier(config_groups={"group_0": preset(job)}, ignore=heads(model))
    oneshot(model=model, recipe=modifier)
    model.save_pretrained(job.target, save_compressed=True)


LLMCOMPRESSOR = Tool(_NAME, _NAME, RECIPES, _make, install=_INSTALL)
