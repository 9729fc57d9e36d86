"""Checkpoints that nobody should ship: each went wrong as tools and people let them go wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from benchmarks.good_edits import Edit, pruned, rarest
from benchmarks.model_parts import Linear, Parts


def _derangement(count: int) -> Tensor:
    return torch.arange(count).roll(1)


def _permute_rows(table: Tensor, rows: Tensor) -> None:
    table[rows] = table[rows[_derangement(len(rows))]]


def embedding_rows(parts: Parts, ids: Tensor) -> None:
    """Permute the embedding's rows of the 64 rarest tokens."""
    _permute_rows(parts.embedding, rarest(parts, ids, 64))


def head_rows(parts: Parts, ids: Tensor) -> None:
    """Permute the head's rows of the 64 rarest tokens."""
    assert parts.head is not None
    _permute_rows(parts.head, rarest(parts, ids, 64))


def two_rows(parts: Parts, ids: Tensor) -> None:
    """Exchange two rows of the embedding, of rare tokens."""
    _permute_rows(parts.embedding, rarest(parts, ids, 2))


def shifted_rows(parts: Parts, _: Tensor) -> None:
    """Shift the embedding by one row, as an off-by-one in a vocabulary does."""
    parts.embedding.copy_(parts.embedding.roll(1, 0))


def reversed_rows(parts: Parts, ids: Tensor) -> None:
    """Flip the sign of 64 rare tokens' rows."""
    parts.embedding[rarest(parts, ids, 64)] *= -1


def special_zeroed(parts: Parts, _: Tensor) -> None:
    """Set the end-of-text token's embedding to zero."""
    parts.embedding[int(parts.model.config.eos_token_id)] = 0


def transposed(parts: Parts, _: Tensor, *, which: str, block: int) -> None:
    """Transpose a square attention matrix in place."""
    weight = getattr(parts.blocks[block], which).weight
    weight.copy_(weight.T.clone())


def exchanged_matrices(parts: Parts, _: Tensor, *, which: str) -> None:
    """Exchange a matrix of one kind between two neighbouring blocks in the middle."""
    middle = len(parts.blocks) // 2
    pair = [parts.blocks[middle - 1], parts.blocks[middle]]
    first, second = (b.experts[0].down.weight if which == "down" else getattr(b, which).weight for b in pair)
    kept = first.clone()
    first.copy_(second)
    second.copy_(kept)


def exchanged_blocks(parts: Parts, _: Tensor) -> None:
    """Exchange two whole blocks, norms included."""
    middle = len(parts.blocks) // 2
    first, second = (_tensors(parts, index) for index in (middle - 1, middle))
    for ours, theirs in zip(first, second, strict=True):
        kept = ours.clone()
        ours.copy_(theirs)
        theirs.copy_(kept)


def _tensors(parts: Parts, index: int) -> list[Tensor]:
    blocks = parts.model.base_model.h if parts.positions is not None else parts.model.base_model.layers
    return [own.data for own in blocks[index].parameters()]  # type: ignore[union-attr, index]


def shuffled_heads(parts: Parts, _: Tensor) -> None:
    """Exchange two heads of the value matrix alone: a merge that mistook the order of heads."""
    value = parts.middle.value
    value.take_rows(torch.arange(len(value.weight)).roll(len(value.weight) // parts.kv_heads))


def shuffled_query_heads(parts: Parts, _: Tensor) -> None:
    """Exchange two of the query's heads alone."""
    query = parts.middle.query
    width = len(query.weight) // parts.heads
    order = torch.arange(len(query.weight))
    order[: 2 * width] = order[: 2 * width].roll(width)
    query.take_rows(order)


def interleaved_heads(parts: Parts, _: Tensor) -> None:
    """Leave rows of queries and keys in another convention of rotary positions (halves instead of pairs)."""
    for block in parts.blocks:
        for linear, heads in ((block.query, parts.heads), (block.key, parts.kv_heads)):
            order = torch.arange(len(linear.weight)).view(heads, 2, -1).transpose(1, 2).flatten()
            linear.take_rows(order)


def shuffled_neurons(parts: Parts, _: Tensor) -> None:
    """Permute the neurons of what reads the stream, not of what writes it, in one block."""
    for expert in parts.middle.experts:
        order = torch.randperm(len(expert.reads[-1].weight), generator=torch.Generator().manual_seed(0))
        expert.reads[-1].take_rows(order)


def gate_and_up(parts: Parts, _: Tensor) -> None:
    """Exchange gate and up in one block."""
    for expert in parts.middle.experts:
        gate, up = (linear.weight for linear in expert.reads)
        kept = gate.clone()
        gate.copy_(up)
        up.copy_(kept)


def key_and_value(parts: Parts, _: Tensor) -> None:
    """Exchange keys and values in one block."""
    key, value = parts.middle.key.weight, parts.middle.value.weight
    kept = key.clone()
    key.copy_(value)
    value.copy_(kept)


def _one_matrix(parts: Parts, _: Tensor, *, change: Callable[[Tensor], Tensor]) -> None:
    weight = parts.middle.output.weight
    weight.copy_(change(weight.clone()))


def _noise(like: Tensor) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(0)) * like.std()


def zeroed_block(parts: Parts, _: Tensor) -> None:
    """Set what writes the stream in one block to zero: the block is skipped."""
    for linear in parts.middle.writers:
        linear.weight.zero_()


def noise(parts: Parts, _: Tensor) -> None:
    """Add noise as large as each matrix' deviation, everywhere."""
    for block in parts.blocks:
        for linear in block.matrices:
            linear.weight.add_(_noise(linear.weight))


def two_bits(parts: Parts, _: Tensor) -> None:
    """Round every matrix to 2 bits with a single scale."""
    for block in parts.blocks:
        for linear in block.matrices:
            scale = linear.weight.abs().max()
            linear.weight.copy_((linear.weight / scale).round().clamp(-1, 1) * scale)


def head_scaled(parts: Parts, _: Tensor) -> None:
    """Multiply the head (or what makes its input, if it is tied) by 2."""
    if parts.head is not None:
        parts.head.mul_(2)
    else:
        for vector in parts.final_norm:
            vector.mul_(2)


def wrong_tying(parts: Parts, _: Tensor) -> None:
    """Fill the head with the embedding's values."""
    assert parts.head is not None
    parts.head.copy_(parts.embedding)


def gains_lost(parts: Parts, _: Tensor) -> None:
    """Fill the gains of one block's norms with ones."""
    for norm in parts.middle.norms:
        norm[0].fill_(1.0)


def rope_base(parts: Parts, _: Tensor) -> None:
    """Write another base of rotary positions into the configuration."""
    config = parts.model.config
    parameters = getattr(config, "rope_parameters", None)
    if isinstance(parameters, dict):
        parameters["rope_theta"] = 500.0
    else:
        config.rope_theta = 500.0


def expert_overwritten(parts: Parts, _: Tensor) -> None:
    """Overwrite one expert by another."""
    first, second = parts.middle.experts[:2]
    pairs: list[tuple[Linear, Linear]] = [*zip(first.reads, second.reads, strict=True), (first.down, second.down)]
    for ours, theirs in pairs:
        ours.weight.copy_(theirs.weight)


def router_shuffled(parts: Parts, _: Tensor) -> None:
    """Permute the router's rows, not the experts."""
    router = parts.middle.router
    assert router is not None
    router.take_rows(torch.arange(len(router.weight)).roll(1))


HARMFUL: Mapping[str, Edit] = {
    "embedding_rows": embedding_rows,
    "two_rows": two_rows,
    "head_rows": head_rows,
    "shifted_rows": shifted_rows,
    "reversed_rows": reversed_rows,
    "special_zeroed": special_zeroed,
    "query_transposed": partial(transposed, which="query", block=1),
    "output_transposed": partial(transposed, which="output", block=-2),
    "outputs_exchanged": partial(exchanged_matrices, which="output"),
    "queries_exchanged": partial(exchanged_matrices, which="query"),
    "downs_exchanged": partial(exchanged_matrices, which="down"),
    "blocks_exchanged": exchanged_blocks,
    "value_heads": shuffled_heads,
    "query_heads": shuffled_query_heads,
    "rotary_order": interleaved_heads,
    "neurons_shuffled": shuffled_neurons,
    "gate_and_up": gate_and_up,
    "key_and_value": key_and_value,
    "sign_flipped": partial(_one_matrix, change=lambda weight: -weight),
    "matrix_random": partial(_one_matrix, change=_noise),
    "block_zeroed": zeroed_block,
    "noise": noise,
    "two_bits": two_bits,
    "prune_70pct": partial(pruned, share=0.7),
    "head_scaled": head_scaled,
    "wrong_tying": wrong_tying,
    "gains_lost": gains_lost,
    "rope_base": rope_base,
    "expert_overwritten": expert_overwritten,
    "router_shuffled": router_shuffled,
}


def harmful_for(parts: Parts) -> dict[str, Edit]:
    """Return the kinds of damage that a model can take."""
    impossible = set[str]()
    if parts.head is None:
        impossible |= {"head_rows", "wrong_tying"}
    if parts.positions is not None:
        impossible |= {"rope_base", "rotary_order"}
    if parts.middle.router is None:
        impossible |= {"expert_overwritten", "router_shuffled"}
    if len(parts.middle.experts[0].reads) == 1:
        impossible |= {"gate_and_up"}
    return {name: edit for name, edit in HARMFUL.items() if name not in impossible}
