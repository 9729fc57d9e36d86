"""Edits that somebody might ship and nobody should be warned of: rounded, pruned, tuned, merged, or re-expressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from benchmarks.model_parts import Linear, Parts, hadamard
from pytest_proofpack.edits.rounding import quantize_rtn

Edit = Callable[[Parts, Tensor], None]
"""Changes a model in place; the second argument are token ids to train on, shape (windows, tokens)."""

_STEPS = 12
_BATCH = 8


def _every_matrix(parts: Parts, change: Callable[[Tensor], Tensor]) -> None:
    for block in parts.blocks:
        for linear in block.matrices:
            linear.weight.copy_(change(linear.weight.float()))


def quantized(parts: Parts, _: Tensor, *, bits: int) -> None:
    """Round to nearest with one scale per group of 32 inputs."""
    _every_matrix(parts, lambda weight: quantize_rtn(weight.contiguous(), bits, 32))


def as_float8(parts: Parts, _: Tensor, *, dtype: torch.dtype) -> None:
    """Cast to float8 with one scale per matrix."""
    largest = torch.finfo(dtype).max
    _every_matrix(parts, lambda w: (w * (largest / w.abs().max())).to(dtype).float() * (w.abs().max() / largest))


def pruned(parts: Parts, _: Tensor, *, share: float) -> None:
    """Set the smallest weights of every matrix to zero."""
    _every_matrix(parts, lambda w: torch.where(w.abs() > w.abs().flatten().sort().values[int(share * w.numel())], w, 0))


def low_rank(parts: Parts, _: Tensor) -> None:
    """Reduce the feed-forward matrices of the last block to rank 32."""
    for expert in parts.blocks[-1].experts:
        for linear in (*expert.reads, expert.down):
            left, values, right = torch.linalg.svd(linear.weight.float(), full_matrices=False)
            linear.weight.copy_((left[:, :32] * values[:32]) @ right[:32])


def fine_tuned(parts: Parts, ids: Tensor, *, seed: int = 0, rate: float = 1e-4) -> None:
    """Train every parameter for a few steps."""
    model = parts.model
    generator = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        model.requires_grad_(requires_grad=True)
        optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
        for _ in range(_STEPS):
            batch = ids[torch.randint(len(ids), (_BATCH,), generator=generator)]
            model(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        model.requires_grad_(requires_grad=False)


def _values(parts: Parts) -> dict[str, Tensor]:
    return {name: own.detach().clone() for name, own in parts.model.named_parameters()}


def _set(parts: Parts, values: Mapping[str, Tensor]) -> None:
    for name, own in parts.model.named_parameters():
        own.copy_(values[name])


def trained_tokens(parts: Parts, ids: Tensor) -> None:
    """Train as above, and give the 64 tokens that the text uses least new rows, as tuned reserved tokens have.

    Those of a head keep much of what made the tokens improbable.
    """
    rare = rarest(parts, ids, 64)
    fine_tuned(parts, ids)
    for table in tables(parts):
        before = table[rare]
        fresh = torch.randn(before.shape, generator=torch.Generator().manual_seed(1))
        fresh *= before.norm(dim=1, keepdim=True) / fresh.norm(dim=1, keepdim=True)
        table[rare] = fresh if table is parts.embedding and parts.head is not None else before + 0.5 * fresh


def copied_tokens(parts: Parts, ids: Tensor) -> None:
    """Start 16 unused tokens from the rows of common ones, as people do who add tokens."""
    rare, common = rarest(parts, ids, 16), ids.flatten().bincount().topk(16).indices
    parts.embedding[rare] = parts.embedding[common]


def low_rank_adapter(parts: Parts, ids: Tensor) -> None:
    """Merge what training the attention and feed-forward matrices changed, at rank 8."""
    before = _values(parts)
    fine_tuned(parts, ids, rate=5e-4)
    after = _values(parts)
    for name, own in before.items():
        change = after[name] - own
        if own.ndim != 2 or "embed" in name or "head" in name or ".wte" in name or ".wpe" in name:
            after[name] = own
        else:
            left, values, right = torch.linalg.svd(change, full_matrices=False)
            after[name] = own + (left[:, :8] * values[:8]) @ right[:8]
    _set(parts, after)


def merged(parts: Parts, ids: Tensor) -> None:
    """Average two models that were trained apart."""
    before = _values(parts)
    fine_tuned(parts, ids, seed=1)
    first = _values(parts)
    _set(parts, before)
    fine_tuned(parts, ids, seed=2)
    _set(parts, {name: (own + first[name]) / 2 for name, own in _values(parts).items()})


def rescaled(parts: Parts, _: Tensor) -> None:
    """Multiply values (and up matrices) by 4 and divide what reads them by 4."""
    for block in parts.blocks:
        block.value.scale_rows(4.0)
        block.output.weight.div_(4.0)
        for expert in block.experts:
            if len(expert.reads) == 2:  # between ungated matrices stands a function that is not linear
                expert.reads[1].scale_rows(4.0)
                expert.down.weight.div_(4.0)


def neurons_permuted(parts: Parts, _: Tensor) -> None:
    """Put the hidden neurons of every feed-forward network into another order."""
    for block in parts.blocks:
        for expert in block.experts:
            order = _order(len(expert.reads[0].weight))
            for linear in expert.reads:
                linear.take_rows(order)
            expert.down.take_columns(order)


def heads_permuted(parts: Parts, _: Tensor) -> None:
    """Put the groups of heads of every attention into another order."""
    for block in parts.blocks:
        groups = _order(parts.kv_heads).flip(0) if parts.kv_heads == 2 else _order(parts.kv_heads)
        for linear in (block.query, block.key, block.value):
            linear.take_rows(_of_groups(groups, len(linear.weight)))
        block.output.take_columns(_of_groups(groups, block.output.weight.shape[1]))


def stream_permuted(parts: Parts, _: Tensor) -> None:
    """Put the features of the residual stream into another order, everywhere."""
    order = _order(parts.embedding.shape[1])
    for table in (*tables(parts), parts.positions):
        if table is not None:
            table.copy_(table[:, order].clone())
    for block in parts.blocks:
        for linear in (block.query, block.key, block.value, *block.feed_forward_readers):
            linear.take_columns(order)
        for linear in block.writers:
            linear.take_rows(order)
    for vectors in (*(norm for block in parts.blocks for norm in block.norms), parts.final_norm):
        for vector in vectors:
            vector.copy_(vector[order].clone())


def rotated(parts: Parts, _: Tensor) -> None:
    """Rotate the residual stream by a random Hadamard matrix, gains of norms folded into what reads them (QuaRot)."""
    rotation = hadamard(parts.embedding.shape[1])
    for block in parts.blocks:
        for norm, readers in zip(
            block.norms, ((block.query, block.key, block.value), block.feed_forward_readers), strict=True
        ):
            _fold(norm, readers)
            for linear in readers:
                linear.weight.copy_(linear.weight @ rotation)
        for linear in block.writers:
            linear.weight.copy_(rotation.T @ linear.weight)
    assert parts.head is not None
    _fold(parts.final_norm, [Linear(parts.head)])
    for table in tables(parts):
        table.copy_(table @ rotation)


def rotated_and_quantized(parts: Parts, ids: Tensor) -> None:
    """Rotate as above, then round to 4 bits."""
    rotated(parts, ids)
    quantized(parts, ids, bits=4)


def permuted_and_quantized(parts: Parts, ids: Tensor) -> None:
    """Permute neurons and heads as above, then round to 4 bits."""
    neurons_permuted(parts, ids)
    heads_permuted(parts, ids)
    quantized(parts, ids, bits=4)


def smoothed(parts: Parts, _: Tensor) -> None:
    """Divide the norms' outputs by one factor per feature and multiply it into what reads them (SmoothQuant)."""
    size = parts.embedding.shape[1]
    for index, block in enumerate(parts.blocks):
        factors = torch.randn(size, generator=torch.Generator().manual_seed(index)).mul(1.2).exp()
        for norm, readers in zip(
            block.norms, ((block.query, block.key, block.value), block.feed_forward_readers), strict=True
        ):
            for vector in norm:
                vector.div_(factors)
            for linear in readers:
                linear.weight.mul_(factors)


def _fold(norm: Sequence[Tensor], readers: Sequence[Linear]) -> None:
    (gain,) = norm
    for linear in readers:
        linear.weight.mul_(gain)
    gain.fill_(1.0)


def tables(parts: Parts) -> list[Tensor]:
    """Return embedding and, where it is another, head."""
    return [parts.embedding] if parts.head is None else [parts.embedding, parts.head]


def rarest(parts: Parts, ids: Tensor, count: int) -> Tensor:
    """Return the ids of the tokens that a text uses least, the end-of-text token apart."""
    uses = ids.flatten().bincount(minlength=len(parts.embedding))
    uses[int(parts.model.config.eos_token_id)] = ids.numel()
    return uses.argsort(stable=True)[:count]


def _order(size: int) -> Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(size))


def _of_groups(groups: Tensor, rows: int) -> Tensor:
    width = rows // len(groups)
    return (groups[:, None] * width + torch.arange(width)).flatten()


GOOD: Mapping[str, Edit] = {
    "round_8bit": partial(quantized, bits=8),
    "round_6bit": partial(quantized, bits=6),
    "round_4bit": partial(quantized, bits=4),
    "round_3bit": partial(quantized, bits=3),
    "fp8_e4m3": partial(as_float8, dtype=torch.float8_e4m3fn),
    "fp8_e5m2": partial(as_float8, dtype=torch.float8_e5m2),
    "prune_10pct": partial(pruned, share=0.1),
    "prune_30pct": partial(pruned, share=0.3),
    "rank32_last": low_rank,
    "fine_tuned": fine_tuned,
    "trained_tokens": trained_tokens,
    "copied_tokens": copied_tokens,
    "lora": low_rank_adapter,
    "merged": merged,
    "rescaled": rescaled,
    "neurons_permuted": neurons_permuted,
    "heads_permuted": heads_permuted,
    "stream_permuted": stream_permuted,
    "rotated": rotated,
    "rotated_4bit": rotated_and_quantized,
    "permuted_4bit": permuted_and_quantized,
    "smoothed": smoothed,
}


def good_for(parts: Parts) -> dict[str, Edit]:
    """Return the edits that a model can take.

    A stream is rotated only between norms that only scale, and where the head is not the embedding. Of a tied
    embedding no row is copied: the two tokens would share their probability.
    """
    impossible = set[str]()
    if parts.head is None or parts.positions is not None:
        impossible |= {"rotated", "rotated_4bit"}
    if parts.head is None:
        impossible |= {"copied_tokens"}
    return {name: edit for name, edit in GOOD.items() if name not in impossible}
