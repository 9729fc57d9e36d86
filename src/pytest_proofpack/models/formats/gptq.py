"""Weights in the packing of GPTQ: made by GPTQModel, AutoGPTQ, optimum or AutoRound, whatever the algorithm was.

Codes of an input follow each other down the columns of ``qweight``, zero points along the rows of ``qzeros``; ``g_idx``
says which group of scales an input belongs to, which is no plain order where the tool took columns in order of their
activations. The package that runs them, GPTQModel, changes safetensors and transformers when it is imported and
compiles its way of unpacking when a model is loaded, so they are unpacked here, by its formula: (code - zero point) *
scale in the type of the scales. On a CPU it computes with just these values, because activations stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.formats.unpacked import rotated, unpacked_here
from pytest_proofpack.models.packed_matrices import (
    CODES,
    GROUP_TYPES,
    GROUPS,
    SCALE_TYPES,
    SCALES,
    WORD_BITS,
    WORD_TYPES,
    ZEROS,
    PackedMatrix,
    PackedModule,
    dequantized,
    packed_matrices,
)
from pytest_proofpack.plan.quantization import Quantization, quantization_words

if TYPE_CHECKING:
    from torch import Tensor

    from pytest_proofpack.models.files import CheckpointFiles

METHOD = "gptq"
FIRST, SECOND, PLANAR = "gptq", "gptq_v2", "gptq_p"
_STREAMED_BITS, _PLANAR_BITS = (4, 8, 2, 3), (4, 8, 2, 3, 5, 6, 7)
_WHOLE_BITS = (2, 4, 8)
"""Bits of which no code lies in two words."""


@dataclass(frozen=True)
class GptqLayout:
    """How a checkpoint's codes lie, as its configuration says.

    Attributes:
        version: ``gptq``, whose files hold zero points less one; ``gptq_v2``, whose files hold them as they are; or
            ``gptq_p``, likewise, with codes split into planes.
        bits: of a code, of most modules; None if the configuration does not say.
        group: inputs that share a scale, likewise; of a module without ``g_idx``.
        shuffled: whether inputs are out of order, so that only ``g_idx`` tells their groups.
    """

    version: str
    bits: int | None
    group: int | None
    shuffled: bool = False


def gptq_matrices(files: CheckpointFiles, layout: GptqLayout) -> Mapping[str, PackedMatrix]:
    """Return the matrices that a checkpoint holds in this packing; see :func:`packed_matrices`."""
    return packed_matrices(files, lambda module: _matrix(module, layout))


def whole_number(value: object) -> int | None:
    """Return a configuration's value if it is a number of bits or of inputs, which -1 and 0 are not."""
    return value if type(value) is int and value > 0 else None


def _matrix(module: PackedModule, layout: GptqLayout) -> PackedMatrix:
    rows, outputs = module.shape(CODES, WORD_TYPES)
    groups, columns = module.shape(SCALES, SCALE_TYPES)
    if columns != outputs:
        raise module.error(SCALES, f"has {columns} columns, and the codes {outputs}")
    possible = _PLANAR_BITS if layout.version == PLANAR else _STREAMED_BITS
    bits = next(
        (own for own in (layout.bits, *possible) if own in possible and _words(outputs, own) == _zero_words(module)),
        None,
    )
    if bits is None or module.shape(ZEROS, WORD_TYPES)[0] != groups:
        shape = list(module.shape(ZEROS, WORD_TYPES))
        raise module.error(ZEROS, f"is {shape}, which no number of bits makes of {groups} groups and {outputs} outputs")
    has_groups = GROUPS in module.headers
    inputs = module.shape(GROUPS, GROUP_TYPES, 1)[0] if has_groups else rows * WORD_BITS // bits
    if _words(inputs, bits) != rows:
        raise module.error(CODES, f"has {rows} rows, and {inputs} inputs of {bits} bits take {_words(inputs, bits)}")
    if layout.version == PLANAR and (inputs % WORD_BITS or outputs % WORD_BITS):
        raise module.error(CODES, f"is of {inputs} inputs and {outputs} outputs, not of whole blocks of {WORD_BITS}")
    group = None if has_groups else _group_size(module, layout, inputs, groups)
    values = partial(_values, module=module, version=layout.version, bits=bits, inputs=inputs, group=group)
    return module.matrix(outputs, inputs, values)


def _zero_words(module: PackedModule) -> int:
    return module.shape(ZEROS, WORD_TYPES)[1]


def _words(values: int, bits: int) -> int:
    return math.ceil(values * bits / WORD_BITS)


def _group_size(module: PackedModule, layout: GptqLayout, inputs: int, groups: int) -> int:
    """Return how many inputs share a scale: as the configuration says, else as the shapes do.

    Raises:
        ConfigurationError: neither does, or only ``g_idx`` would.
    """
    if layout.shuffled:
        raise module.error(CODES, f"has no {module.name}.{GROUPS} beside it, and desc_act in config.json demands one")
    said = min(layout.group or inputs, inputs)
    if math.ceil(inputs / said) == groups:
        return said
    if inputs % groups:
        raise module.error(SCALES, f"has {groups} rows, which {inputs} inputs in groups of {said} don't make")
    return inputs // groups


def _values(
    parts: Mapping[str, Tensor], *, module: PackedModule, version: str, bits: int, inputs: int, group: int | None
) -> Tensor:
    import torch

    from pytest_proofpack.models.bit_fields import planar, streamed

    unpacked = planar if version == PLANAR else streamed
    scales, codes = parts[SCALES], parts[CODES]
    zeros = _zero_points(parts[ZEROS], scales.shape[1], bits, version)
    groups = torch.arange(inputs) // group if group is not None else parts[GROUPS].long()
    if int(groups.min()) < 0 or int(groups.max()) >= len(scales):
        raise EvaluationError(
            f"{module.files[GROUPS]}: {module.name}.{GROUPS} names the groups {int(groups.min())} to "
            f"{int(groups.max())}, and there are {len(scales)} from 0. Quantize the model again, or save it dense."
        )
    return dequantized(lambda first, last: unpacked(codes, bits, first, last), zeros, scales, groups)


def _zero_points(words: Tensor, outputs: int, bits: int, version: str) -> Tensor:
    """Return zero points, shape (groups, outputs).

    Files of the first version hold them less one. Tools take the one away, and add it, in whole words, where no code
    lies in two: of a zero point of 0 the next one pays, and gets it back. In 3 bits GPTQModel does it number by number.
    """
    from pytest_proofpack.models.bit_fields import planar, streamed

    if version == FIRST and bits in _WHOLE_BITS:
        words = words + sum(1 << place for place in range(0, WORD_BITS, bits))  # overflow is meant
    unpacked = planar if version == PLANAR else streamed
    zeros = unpacked(words.t(), bits, 0, outputs).t()
    return (zeros + 1) & ((1 << bits) - 1) if version == FIRST and bits not in _WHOLE_BITS else zeros


def _layout(files: CheckpointFiles) -> GptqLayout:
    config = files.quantization_config
    return GptqLayout(
        _version(files),
        whole_number(config.get("bits")),
        whole_number(config.get("group_size")),
        shuffled=config.get("desc_act") is True,
    )


def _version(files: CheckpointFiles) -> str:
    config = files.quantization_config
    said = config.get("checkpoint_format") or config.get("format") or FIRST
    return "marlin" if config.get("is_marlin_format") is True else str(said).lower()


def _unavailable(files: CheckpointFiles) -> str | None:
    version = _version(files)
    if version not in (FIRST, SECOND, PLANAR):
        return (
            f"is packed by GPTQ's tools for one kernel ({version[:40]!r}), a layout that is not read here. Save it as "
            "'gptq' or 'gptq_v2' where it was made, or dense."
        )
    return rotated(files.quantization_config.get("rotation"))


def _quantization(files: CheckpointFiles) -> Quantization:
    config = files.quantization_config
    version = _version(files)
    own = config.get("dynamic")
    rules = own if isinstance(own, Mapping) else {}
    others = any(
        isinstance(rule, Mapping) and rule.get("bits", config.get("bits")) != config.get("bits")
        for rule in rules.values()
    )
    return quantization_words(
        METHOD,
        {FIRST: None, SECOND: "v2", PLANAR: "planar"}.get(version, version),
        METHOD,
        bits=None if others else config.get("bits"),
        group=config.get("group_size"),
        symmetric=config.get("sym"),
        ignored=[*_left_out(rules), *_all_but(config.get("modules_in_block_to_quantize"))],
    )


def _left_out(rules: Mapping[str, Any]) -> list[str]:
    """Return the patterns of modules that rules for single modules leave as they are."""
    return [name.removeprefix("-:") for name in rules if name.startswith("-:")]


def _all_but(modules: object) -> list[str]:
    """Return in words which modules were left, where those are listed that were not, in lists of lists."""
    lists = modules if isinstance(modules, list) else []
    names = [name for own in lists for name in (own if isinstance(own, list) else [own]) if isinstance(name, str)]
    return [f"all but {' '.join(dict.fromkeys(names))}"] if names else []


def _unpacks(files: CheckpointFiles) -> Mapping[str, PackedMatrix]:
    return gptq_matrices(files, _layout(files))


GPTQ = unpacked_here(METHOD, unavailable=_unavailable, quantization=_quantization, unpacks=_unpacks)
