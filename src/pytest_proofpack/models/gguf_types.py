"""What GGUF's numbers mean: types of tensors with the size of their blocks, and kinds of files by how they quantize.

As ggml numbers them; a test compares the types with those of the ``gguf`` package.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from math import prod
from typing import NamedTuple


class BlockType(NamedTuple):
    """A type of tensors: so many values lie in a block of so many bytes."""

    name: str
    values: int
    bytes: int


BLOCK_TYPES: Mapping[int, BlockType] = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    16: BlockType("IQ2_XXS", 256, 66),
    17: BlockType("IQ2_XS", 256, 74),
    18: BlockType("IQ3_XXS", 256, 98),
    19: BlockType("IQ1_S", 256, 50),
    20: BlockType("IQ4_NL", 32, 18),
    21: BlockType("IQ3_S", 256, 110),
    22: BlockType("IQ2_S", 256, 82),
    23: BlockType("IQ4_XS", 256, 136),
    29: BlockType("IQ1_M", 256, 56),
    30: BlockType("BF16", 1, 2),
    34: BlockType("TQ1_0", 256, 54),
    35: BlockType("TQ2_0", 256, 66),
    39: BlockType("MXFP4", 32, 17),
}
"""The types that become values here, by number. Those that only come about while ggml computes are not among them."""

_ONLY = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q6_K": 18, "BF16": 32}
_FILE_TYPES: Mapping[int, tuple[str, tuple[str, ...]]] = {
    **{number: (name, (name,)) for name, number in _ONLY.items()},
    10: ("Q2_K", ("Q2_K",)),
    11: ("Q3_K_S", ("Q3_K",)),
    12: ("Q3_K_M", ("Q3_K",)),
    13: ("Q3_K_L", ("Q3_K",)),
    14: ("Q4_K_S", ("Q4_K",)),
    15: ("Q4_K_M", ("Q4_K",)),
    16: ("Q5_K_S", ("Q5_K",)),
    17: ("Q5_K_M", ("Q5_K",)),
    19: ("IQ2_XXS", ("IQ2_XXS",)),
    20: ("IQ2_XS", ("IQ2_XS",)),
    21: ("Q2_K_S", ("Q2_K",)),
    22: ("IQ3_XS", ("IQ3_XXS", "IQ3_S")),
    23: ("IQ3_XXS", ("IQ3_XXS",)),
    24: ("IQ1_S", ("IQ1_S",)),
    25: ("IQ4_NL", ("IQ4_NL",)),
    26: ("IQ3_S", ("IQ3_S",)),
    27: ("IQ3_M", ("IQ3_S",)),
    28: ("IQ2_S", ("IQ2_XS",)),
    29: ("IQ2_M", ("IQ2_S",)),
    30: ("IQ4_XS", ("IQ4_XS",)),
    31: ("IQ1_M", ("IQ1_M",)),
    36: ("TQ1_0", ("TQ1_0",)),
    37: ("TQ2_0", ("TQ2_0",)),
    38: ("MXFP4_MOE", ("MXFP4",)),
}
"""What ``general.file_type`` says, with the types of tensors one of which such a file holds."""


def file_type_name(stated: object, tensors: Iterable[tuple[str, tuple[int, ...]]]) -> str:
    """Return how a file is quantized, for example ``Q4_K_M``: as it says, where its tensors bear that out.

    Otherwise it is the type in which most values of its matrices lie: some files say nothing, and where a matrix is too
    narrow for the blocks of a type, llama.cpp takes another one.

    Args:
        stated: ``general.file_type``, whatever it holds.
        tensors: type and shape of every tensor.
    """
    held: Counter[str] = Counter()
    for name, shape in tensors:
        if len(shape) > 1:
            held[name] += prod(shape)
    if type(stated) is int and stated in _FILE_TYPES:
        name, any_of = _FILE_TYPES[stated]
        if any(kind in held for kind in any_of):
            return name
    return held.most_common(1)[0][0] if held else "F32"
