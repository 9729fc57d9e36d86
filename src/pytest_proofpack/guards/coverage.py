"""What of a model a guard has judged, held against the structure's own list: a gate vouches for nothing it left out.

Certificates of format 1 have no such list; nothing is demanded of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import NAMES_SHOWN
from pytest_proofpack.guards.inventory import Inventory, ListedTensor
from pytest_proofpack.guards.spectral_evidence import SAME


def covered(derived: JsonObject, flag: str, coverage: JsonObject | None) -> JsonObject:
    """Return what a guard derived with its coverage, and its verdict ``flag`` only where that is complete."""
    if coverage is None:
        return derived
    return {**derived, "coverage": coverage, flag: bool(derived[flag] and coverage["complete"])}


def spectral_coverage(
    block: Mapping[str, Any], inventory: Inventory | None, changed: Collection[str] = ()
) -> JsonObject | None:
    """Return which parameters the tables of the spectral guard hold; None without a list to hold them against.

    Complete means: every matrix and vector of every parameter, and at least one matrix at all.

    Args:
        block: the guard's block, whose tables have been read.
        inventory: what there is.
        changed: the parameters that the edit changed, each of which has to have been measured.

    Raises:
        FormatError: the tables hold what the structure has not got, or call equal what the edit changed.
    """
    if inventory is None:
        return None
    listed = {tensor.name: tensor for tensor in inventory.tensors}
    matrices, vectors = (_parameters(block[table]) for table in ("matrices", "vectors"))
    for table in (block["matrices"], block["vectors"]):
        _check_against(listed, table, changed)
    left_out = [
        name
        for name, tensor in listed.items()
        if (matrices[name], vectors[name]) != ((tensor.matrices, 0) if tensor.matrices else (0, 1))
    ]
    return _coverage(len(listed), left_out, seen=bool(matrices))


def activation_coverage(block: Mapping[str, Any], inventory: Inventory | None) -> JsonObject | None:
    """Return which sublayers a guard on activations judged; None without a list to hold them against.

    Complete means: every sublayer that the layout knows, and for every matrix in a block one of its kind, attention or
    feed-forward, in that block.

    Raises:
        FormatError: a sublayer that the structure has not got, or in another place.
    """
    if inventory is None:
        return None
    known = {own.name: (own.group, own.block) for own in inventory.sublayers}
    judged = {name: (row["family"], row["block"]) for name, row in block["branches"].items()}
    if strange := sorted(name for name, place in judged.items() if known.get(name) != place):
        raise FormatError(f"branches: {strange[0]!r:.80} is not among invariants.sublayers, or in another place there")
    unwatched = [tensor.name for tensor in inventory.tensors if not _is_watched(tensor, judged.values())]
    left_out = [*(name for name in known if name not in judged), *unwatched]
    return _coverage(len(known) + len(unwatched), left_out, seen=bool(judged))


def router_coverage(block: Mapping[str, Any], inventory: Inventory | None) -> JsonObject | None:
    """Return which routers were seen at work; None without a list to hold them against."""
    if inventory is None:
        return None
    listed = [own.name.rpartition(".")[0] for own in inventory.tensors if own.group == "router" and own.matrices]
    known = list(dict.fromkeys(listed))
    return _coverage(len(known), [name for name in known if name not in block["routers"]], seen=True)


def _coverage(count: int, left_out: Sequence[str], *, seen: bool) -> JsonObject:
    return {
        "listed": count,
        "judged": count - len(left_out),
        "left_out": list(left_out[:NAMES_SHOWN]),
        "complete": seen and not left_out,
    }


def _is_watched(tensor: ListedTensor, places: Collection[tuple[str, int]]) -> bool:
    """Tell whether a matrix in a block acts on an output that was judged; what is in no block, or no matrix, does."""
    if tensor.block is None or not tensor.matrices:
        return True
    wanted = {"attn": ("attn",), "ffn": ("ffn",), "router": ("ffn",)}.get(str(tensor.group), ("attn", "ffn"))
    return any((group, tensor.block) in places for group in wanted)


def _parameters(table: Mapping[str, Any]) -> Counter[str]:
    return Counter(str(label).partition("[")[0] for label in table["name"])


def _check_against(listed: Mapping[str, ListedTensor], table: Mapping[str, Any], changed: Collection[str]) -> None:
    for label, group, state in zip(table["name"], table["family"], table["state"], strict=True):
        name = str(label).partition("[")[0]
        if name not in listed or listed[name].group != group:
            raise FormatError(f"spectral: {label!r:.80} is not among invariants.tensors, or of another family there")
        if state == SAME and name in changed:
            raise FormatError(f"spectral: {label!r:.80} is called the same, but the edit changed it")


def coverage_words(block: Mapping[str, Any]) -> str:
    """Return what was left out, to follow what a gate measured; nothing where all was judged."""
    coverage = block.get("coverage")
    if coverage is None or coverage["complete"]:
        return ""
    names = f" ({', '.join(coverage['left_out'])})" if coverage["left_out"] else ""
    return f"; judged {coverage['judged']} of {coverage['listed']}{names}"
