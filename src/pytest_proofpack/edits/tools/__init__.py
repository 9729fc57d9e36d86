"""Quantization tools that a suite can call by name: one module each, with its record.

To read the records needs neither torch nor the tools: what quantizes is imported when it is called.
"""

from __future__ import annotations

from pytest_proofpack.edits.tools.bitsandbytes import BITSANDBYTES
from pytest_proofpack.edits.tools.compressed_tensors import COMPRESSED_TENSORS
from pytest_proofpack.edits.tools.llmcompressor import LLMCOMPRESSOR
from pytest_proofpack.edits.tools.torchao import TORCHAO
from pytest_proofpack.plan.tool_edits import Tool

BUILTIN_TOOLS: tuple[Tool, ...] = (TORCHAO, BITSANDBYTES, COMPRESSED_TENSORS, LLMCOMPRESSOR)
"""The package's own; :data:`pytest_proofpack.plan.tool_edits.TOOLS` has those of extensions too."""
