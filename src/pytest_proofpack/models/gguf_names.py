"""What a GGUF file calls a module of a model, by the table that comes with the package ``gguf``."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pytest_proofpack.models.gguf_header import GgufHeader

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_BLOCK = re.compile(r"(.*?\bblk\.)0(\..*)")
_HEAD, _EMBEDDING = "output", "token_embd"


def tensor_stems(header: GgufHeader, modules: Iterable[str]) -> dict[str, str | None]:
    """Return by module how the names of its tensors begin, ``blk.3.attn_q`` for ``model.layers.3.self_attn.q_proj``.

    None if the file has nothing of its layer. A module that the table does not know is left out. Of a head that is tied
    to the embedding it is the embedding's.
    """
    import gguf

    kind = next((kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == header.architecture), None)
    if kind is None:
        return {}
    table = gguf.get_tensor_name_map(kind, 1)
    found: dict[str, str | None] = {}
    for module in modules:
        number = _NUMBER.search(module)
        stem = table.get_name(_NUMBER.sub("0", module, count=1))
        if stem is None:
            continue
        if number is not None and (block := _BLOCK.fullmatch(stem)):
            layer = f"{block[1]}{number[0]}."
            held = any(name.startswith(layer) for name in header.tensors)
            found[module] = f"{block[1]}{number[0]}{block[2]}" if held else None
        else:
            tied = stem == _HEAD and f"{_HEAD}.weight" not in header.tensors
            found[module] = _EMBEDDING if tied else stem
    return found
