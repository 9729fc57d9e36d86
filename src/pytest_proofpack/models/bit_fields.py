"""Integers of a few bits in words of 32, as GPTQ and AWQ pack them: three layouts, read along the first dimension.

The layouts are those of GPTQModel (``gptqmodel/nn_modules/qlinear/__init__.py``, ``gptqmodel/utils/planar_packing.py``,
``docs/gptq_planar.md``) and of AutoAWQ (``awq/modules/linear/gemm.py``).
"""

from __future__ import annotations

import torch
from torch import Tensor

_WORD = 32
_PLANES = {2: (2,), 3: (2, 1), 4: (4,), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1), 8: (8,)}
"""By bits of a code, the widths of the planes that it is split into, the lowest bits first."""
_AWQ_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which four bits of its word hold each of eight columns: the inverse of AutoAWQ's order 0, 2, 4, 6, 1, 3, 5, 7."""


def streamed(words: Tensor, bits: int, first: int, last: int) -> Tensor:
    """Return codes that follow each other without gaps, the lowest bits first, some of them over two words.

    Args:
        words: int32, shape (words, columns).
        bits: of a code, up to 8.
        first: code of every column to begin with.
        last: the one after the last.

    Returns:
        int32, shape (last - first, columns).
    """
    place = torch.arange(first, last) * bits
    word, shift = place // _WORD, (place % _WORD).to(torch.int32)
    room = _WORD - shift
    found = (words.index_select(0, word) >> shift[:, None]) & _mask(torch.clamp(room, max=bits))[:, None]
    over = torch.nonzero(room < bits).flatten()
    rest = words.index_select(0, word[over] + 1) << room[over][:, None]
    found[over] |= rest & ((1 << bits) - 1)
    return found


def planar(words: Tensor, bits: int, first: int, last: int) -> Tensor:
    """Return codes that are split into planes of 4, 2 and 1 bits: 32 codes stand in as many words as they have bits.

    See :func:`streamed` for arguments and result.
    """
    number = torch.arange(first, last)
    block, inside = number // _WORD * bits, number % _WORD
    found = words.new_zeros((last - first, words.shape[1]))
    begin = 0
    for width in _PLANES[bits]:
        place = inside * width
        shift = (place % _WORD).to(torch.int32)
        own = words.index_select(0, block + begin + place // _WORD) >> shift[:, None]
        found |= (own & ((1 << width) - 1)) << begin
        begin += width
    return found


def interleaved(words: Tensor) -> Tensor:
    """Return AWQ's codes of 4 bits, of which eight columns stand in a word.

    Args:
        words: int32, shape (rows, columns / 8).

    Returns:
        int32, shape (rows, columns).
    """
    shifts = 4 * torch.tensor(_AWQ_PLACES, dtype=torch.int32)
    return ((words[:, :, None] >> shifts) & 15).flatten(1)


def _mask(bits: Tensor) -> Tensor:
    return (torch.ones_like(bits) << bits) - 1
