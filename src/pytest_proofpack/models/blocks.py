"""The blocks of a decoder, and the children of a block that are sublayers: attention, feed-forward, or both in turn."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from pytest_proofpack.models.mixing import Mixing
from pytest_proofpack.models.probing import Recording, Unanswerable
from pytest_proofpack.models.suited import stated

_DEPTHS = ("num_hidden_layers", "decoder_layers", "num_layers", "n_layers")
"""What configurations call the number of blocks; where the first counts something else (an encoder, halves of blocks),
another one counts them."""
_MATRICES_OF_A_SUBLAYER = 2
_MOST_NESTED = 4


@dataclass(frozen=True)
class Child:
    """A child of a block that has parameters; ``module`` stands at path ``name`` in block number ``block``."""

    name: str
    block: int
    module: nn.Module


def find_blocks(model: PreTrainedModel, recording: Recording, warnings: list[str]) -> tuple[str, nn.ModuleList]:
    """Return path and list of the blocks: of those that a pass over text calls, the one with the most parameters.

    Lists whose length is the configuration's number of layers come first.
    """
    lists = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        warnings.append("The model holds no ModuleList, so no blocks were found.")
        return "", nn.ModuleList()
    config = model.config.get_text_config()
    depths = [depth for key in _DEPTHS if isinstance(depth := stated(config, key), int)]
    at_work = [(name, module) for name, module in lists if _is_called(name, module, recording)] or lists
    for depth in depths:
        if candidates := [(name, module) for name, module in at_work if len(module) == depth]:
            return max(candidates, key=_parameter_count)
    name, module = max(at_work, key=_parameter_count if recording.called else lambda item: len(item[1]))
    expected = depths[0] if depths else None
    warnings.append(f"No ModuleList has num_hidden_layers = {expected} entries; {name} ({len(module)}) is taken.")
    return name, module


def _is_called(name: str, blocks: nn.ModuleList, recording: Recording) -> bool:
    """Tell whether some entry of a list was called. Not every one has to be: those of another modality stand aside."""
    return any(f"{name}.{index}" in recording.called for index in range(len(blocks)))


def _parameter_count(item: tuple[str, nn.Module]) -> int:
    return sum(parameter.numel() for parameter in item[1].parameters())


def block_children(
    blocks: nn.ModuleList, blocks_name: str, norms: Collection[str], mixing_of: Callable[[list[Child]], Mixing]
) -> tuple[list[Child], Mixing]:
    """Return the children of every block that have parameters beside norms, and what tells of them whether they mix.

    Containers, which are never called, are opened, and so are blocks in blocks: a child that holds attention and a
    feed-forward layer, or norms around one of them. A module that several blocks share belongs to the first.

    Args:
        blocks: the blocks.
        blocks_name: their path.
        norms: paths of the modules that are norms.
        mixing_of: makes the answers for some children.
    """
    children = list(_children(blocks, blocks_name))
    for _ in range(_MOST_NESTED):
        mixing = mixing_of([*children, *(part for child in children for part in _parts(child, norms))])
        opened = [part for child in children for part in _opened(child, norms, mixing)]
        if opened == children:
            break
        children = opened
    return [child for child in children if has_parameters_beside(child, norms)], mixing


def _children(blocks: nn.ModuleList, blocks_name: str) -> Iterator[Child]:
    seen: set[nn.Module] = set()
    for index, block in enumerate(blocks):
        for child in _direct(block, f"{blocks_name}.{index}", index):
            if child.module not in seen:
                seen.add(child.module)
                yield child


def _direct(module: nn.Module, name: str, block: int) -> Iterator[Child]:
    """Yield the direct children that have parameters, those of containers in their place."""
    pending = [(f"{name}.{key}", inner) for key, inner in module.named_children()]
    while pending:
        path, inner = pending.pop(0)
        if isinstance(inner, (nn.ModuleList, nn.ModuleDict)):
            pending = [(f"{path}.{key}", deeper) for key, deeper in inner.named_children()] + pending
        elif any(True for _ in inner.parameters()):
            yield Child(path, block, inner)


def has_parameters_beside(child: Child, norms: Collection[str]) -> bool:
    """Tell whether a child has parameters outside of norms."""
    names = (name for name, _ in child.module.named_parameters(prefix=child.name))
    return any(name.rpartition(".")[0] not in norms for name in names)


def _parts(child: Child, norms: Collection[str]) -> list[Child]:
    """Return what a child could be opened into: its own children beside norms, if it owns no parameters itself."""
    if any(True for _ in child.module.parameters(recurse=False)):
        return []
    parts = list(_direct(child.module, child.name, child.block))
    inner = [part for part in parts if has_parameters_beside(part, norms)]
    layers = [part for part in inner if _matrix_count(part, norms) >= _MATRICES_OF_A_SUBLAYER]
    wraps_one = len(inner) == 1 and len(layers) == 1 and len(parts) > 1
    return parts if len(layers) > 1 or wraps_one else []


def _opened(child: Child, norms: Collection[str], mixing: Mixing) -> list[Child]:
    parts = _parts(child, norms)
    if not parts or not _mixes(child, mixing):
        return [child]
    layers = [part for part in parts if _matrix_count(part, norms) >= _MATRICES_OF_A_SUBLAYER]
    kinds = {_mixes(part, mixing) for part in layers}
    return parts if kinds == {True, False} or (len(layers) == 1 and kinds == {True}) else [child]


def _mixes(child: Child, mixing: Mixing) -> bool | None:
    try:
        return mixing.of(child.name, child.module)
    except Unanswerable:
        return None


def _matrix_count(child: Child, norms: Collection[str]) -> int:
    return sum(
        parameter.ndim > 1 and name.rpartition(".")[0] not in norms
        for name, parameter in child.module.named_parameters(prefix=child.name)
    )
