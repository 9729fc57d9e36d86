"""Weights that AutoRound exported in its own form: packed as GPTQ packs, or as AWQ does, whichever its name says.

What it exports as ``auto_gptq`` or ``auto_awq`` calls itself ``gptq`` or ``awq``, and is that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pytest_proofpack.models.formats.awq import awq_matrices
from pytest_proofpack.models.formats.gptq import (
    FIRST,
    SECOND,
    GptqLayout,
    gptq_matrices,
    whole_number,
)
from pytest_proofpack.models.formats.unpacked import rotated, unpacked_here
from pytest_proofpack.models.packed_matrices import PackedMatrix
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "auto-round"
_PREFIX = "auto_round:"
_AWQ = "auto_awq"
_PACKINGS: Mapping[str, str] = {
    "auto_gptq": FIRST,
    "gptq": FIRST,
    "auto": FIRST,
    "auto_round": SECOND,
    "gptqmodel": SECOND,
    _AWQ: _AWQ,
    "awq": _AWQ,
}
"""By what follows ``auto_round:`` in a configuration's ``packing_format``, the version of GPTQ's packing, or AWQ's."""
_FLOATING = 16


def _packing(files: CheckpointFiles) -> str:
    return str(files.quantization_config.get("packing_format", "gptq")).removeprefix(_PREFIX)


def _unpacks(files: CheckpointFiles) -> Mapping[str, PackedMatrix]:
    version = _PACKINGS[_packing(files)]
    if version == _AWQ:
        return awq_matrices(files)
    config = files.quantization_config
    return gptq_matrices(
        *(files, GptqLayout(version, whole_number(config.get("bits")), whole_number(config.get("group_size"))))
    )


def _unavailable(files: CheckpointFiles) -> str | None:
    config = files.quantization_config
    packing, kind, inputs = _packing(files), str(config.get("data_type", "int")), config.get("act_bits")
    form = None
    if packing not in _PACKINGS:
        form = f"packed as {packing[:40]!r}"
    elif not kind.startswith("int"):
        form = f"of the type {kind[:40]!r}"
    elif type(inputs) is int and inputs < _FLOATING:
        form = f"with activations of {inputs} bits"
    if form is not None:
        return (
            f"is quantized by AutoRound, {form}, which is not read here. Export it as auto_gptq, auto_awq or "
            "llm_compressor, or dense."
        )
    return rotated(config.get("rotation_config"))


def _quantization(files: CheckpointFiles) -> Quantization:
    config = files.quantization_config
    own = config.get("extra_config")
    rules = own if isinstance(own, Mapping) else {}
    bits = {name: rule.get("bits", config.get("bits")) for name, rule in rules.items() if isinstance(rule, Mapping)}
    left = [name for name, given in bits.items() if type(given) is int and given >= _FLOATING]
    others = any(given != config.get("bits") for name, given in bits.items() if name not in left)
    return quantization_words(
        METHOD,
        _packing(files),
        METHOD,
        bits=None if others else config.get("bits"),
        group=config.get("group_size"),
        symmetric=config.get("sym"),
        ignored=left,
    )


AUTO_ROUND = unpacked_here(METHOD, unavailable=_unavailable, quantization=_quantization, unpacks=_unpacks)
