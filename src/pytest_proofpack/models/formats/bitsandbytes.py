"""Weights in eight or four bits by bitsandbytes, saved as transformers quantized them while it loaded a model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, Loaded
from pytest_proofpack.models.formats.quantized import advice, not_packed
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "bitsandbytes"
_PACKED = re.compile(r".*\.(SCB|weight\.(absmax|quant_map|quant_state\..*))")
_ROWS_TOGETHER = 32
"""What the fast path for CPUs with AVX512-BF16 packs together; it takes no matrix of another number of rows."""


def _recognises(files: CheckpointFiles) -> bool:
    config = files.quantization_config  # the first versions named no method
    return files.quantization_method == METHOD or True in (config.get("load_in_4bit"), config.get("load_in_8bit"))


def _quantization(files: CheckpointFiles) -> Quantization:
    config = files.quantization_config
    eight = config.get("load_in_8bit") is True
    kind = "int8" if eight else config.get("bnb_4bit_quant_type")
    scheme = kind if kind in ("int8", "nf4", "fp4") else "4bit"
    twice = not eight and config.get("bnb_4bit_use_double_quant") is True
    return quantization_words(
        METHOD,
        f"{scheme}-double" if twice else scheme,
        f"bnb-{scheme}",
        bits=8 if eight else 4,
        symmetric=True if eight else None,
        activations="int8, dynamically, by token, outliers apart" if eight else None,
        ignored=config.get("llm_int8_skip_modules"),
    )


def _unavailable(files: CheckpointFiles) -> str | None:
    """Return that no weight is packed, though the configuration says so: what is there may be dense."""
    if any(_PACKED.fullmatch(name) for name in files.stored):
        return None
    return not_packed(METHOD, "*.SCB, *.quant_state.*")


def _dequantize(model: PreTrainedModel) -> Iterator[tuple[str, Tensor]]:
    from bitsandbytes import functional, nn
    from transformers.pytorch_utils import Conv1D

    modules: dict[str, Any] = dict(model.named_modules())
    for name, module in modules.items():
        if isinstance(module, nn.Linear8bitLt):
            values = functional.int8_vectorwise_dequant(module.weight.data, _packed_with(module, name, "SCB"))
        elif isinstance(module, nn.Linear4bit):
            state = _packed_with(module, name, "quant_state")
            _take_a_path_that_fits(module, name)
            values = functional.dequantize_4bit(module.weight.data, state)
        else:
            continue
        # Weights of a Conv1D are stored the other way round, as those of a linear module are.
        yield f"{name}.weight", values.t() if issubclass(module.source_cls, Conv1D) else values


def _packed_with(module: Any, name: str, scales: str) -> Any:
    """Return the scales of a packed matrix.

    Raises:
        EvaluationError: it has none, so the file holds it dense.
    """
    found = getattr(module.weight, scales, None)
    if found is None:
        raise EvaluationError(
            f"{name}.weight: config.json says that it is quantized by {METHOD}, and it has no {scales}. If it is "
            "dense, name it under llm_int8_skip_modules; or save the model again, whole."
        )
    return found


def _take_a_path_that_fits(module: Any, name: str) -> None:
    """Keep a matrix off the package's fast path for CPUs if its shape is one that it fails on.

    Raises:
        EvaluationError: no path for CPUs fits it. Up to 0.50.2, four bits of rows that are no whole number of blocks
            are unpacked to wrong values on a CPU, and nothing says so.
    """
    state = module.weight.quant_state
    rows, columns = state.shape
    if module.weight.device.type == "cpu" and columns % state.blocksize:
        raise EvaluationError(
            f"{name}: has rows of {columns} values, no multiple of the {state.blocksize} that share a scale, which "
            "bitsandbytes unpacks to wrong values on a CPU. Certify this model on a GPU, or save it dense there."
        )
    if rows % _ROWS_TOGETHER:
        module.support_avx512bf16_for_cpu = False


BITSANDBYTES = CheckpointFormat(
    METHOD,
    recognises=_recognises,
    loaded=Loaded.PACKED,
    advice=advice,
    package=METHOD,
    unavailable=_unavailable,
    quantization=_quantization,
    dequantize=_dequantize,
)
