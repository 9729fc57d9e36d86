"""The parts of a Llama, Qwen2, Mixtral or GPT-2 that edits of ours are written against: views, rows = outputs.

Benchmarks know names, which the package does not look at, so that they check it by other means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass(frozen=True)
class Linear:
    """A linear map: a view on its weight, shape (outputs, inputs), and on its bias, shape (outputs,), if it has one."""

    weight: Tensor
    bias: Tensor | None = None

    def take_rows(self, order: Tensor) -> None:
        """Put the outputs into another order."""
        for own in (self.weight, self.bias):
            if own is not None:
                own.copy_(own[order].clone())

    def take_columns(self, order: Tensor) -> None:
        """Put the inputs into another order."""
        self.weight.copy_(self.weight[:, order].clone())

    def scale_rows(self, factor: Tensor | float) -> None:
        """Multiply the outputs."""
        self.weight.mul_(factor if isinstance(factor, float) else factor[:, None])
        if self.bias is not None:
            self.bias.mul_(factor)


@dataclass(frozen=True)
class FeedForward:
    """One feed-forward network, or one expert: what reads the stream (gate before up), and what writes it."""

    reads: tuple[Linear, ...]
    down: Linear


@dataclass(frozen=True)
class Block:
    """One block. ``norms`` are the gains, and biases if any, before attention and before feed-forward."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear
    experts: tuple[FeedForward, ...]
    router: Linear | None
    norms: tuple[tuple[Tensor, ...], tuple[Tensor, ...]]

    @property
    def feed_forward_readers(self) -> list[Linear]:
        """What reads the stream behind the second norm."""
        readers = [linear for expert in self.experts for linear in expert.reads]
        return readers + ([] if self.router is None else [self.router])

    @property
    def writers(self) -> list[Linear]:
        """What writes the stream."""
        return [self.output, *(expert.down for expert in self.experts)]

    @property
    def matrices(self) -> list[Linear]:
        """Every matrix of attention and feed-forward, the router left out."""
        own = [linear for expert in self.experts for linear in (*expert.reads, expert.down)]
        return [self.query, self.key, self.value, self.output, *own]


@dataclass(frozen=True)
class Parts:
    """A whole model. ``head`` is None where it is the embedding; ``positions`` are learned ones."""

    model: PreTrainedModel
    blocks: tuple[Block, ...]
    embedding: Tensor
    head: Tensor | None
    positions: Tensor | None
    final_norm: tuple[Tensor, ...]
    heads: int
    kv_heads: int

    @property
    def middle(self) -> Block:
        """The block in the middle, where damage hides best."""
        return self.blocks[len(self.blocks) // 2]


def parts_of(model: PreTrainedModel) -> Parts:
    """Return a model's parts, as views on its parameters."""
    config: Any = model.config
    head = None if config.tie_word_embeddings else model.get_output_embeddings().weight.data  # type: ignore[no-untyped-call]
    embedding = model.get_input_embeddings().weight.data
    assert isinstance(embedding, Tensor)
    base: Any = model.base_model
    kv_heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    heads = config.num_attention_heads
    if config.model_type == "gpt2":
        blocks = tuple(_gpt2_block(block) for block in base.h)
        return Parts(model, blocks, embedding, head, base.wpe.weight.data, _vectors(base.ln_f), heads, kv_heads)
    blocks = tuple(_llama_block(block) for block in base.layers)
    return Parts(model, blocks, embedding, head, None, _vectors(base.norm), heads, kv_heads)


def _vectors(norm: Any) -> tuple[Tensor, ...]:
    return tuple(parameter.data for parameter in norm.parameters())


def _linear(module: Any) -> Linear:
    return Linear(module.weight.data, None if module.bias is None else module.bias.data)


def _llama_block(block: Any) -> Block:
    attention, feed_forward = block.self_attn, block.mlp
    router = None
    if hasattr(feed_forward, "experts"):
        router = Linear(feed_forward.gate.weight.data)
        pairs = zip(feed_forward.experts.gate_up_proj.data, feed_forward.experts.down_proj.data, strict=True)
        experts = tuple(
            FeedForward((Linear(both.chunk(2)[0]), Linear(both.chunk(2)[1])), Linear(down)) for both, down in pairs
        )
    else:
        reads = (_linear(feed_forward.gate_proj), _linear(feed_forward.up_proj))
        experts = (FeedForward(reads, _linear(feed_forward.down_proj)),)
    query, key, value, output = map(_linear, (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj))
    norms = (_vectors(block.input_layernorm), _vectors(block.post_attention_layernorm))
    return Block(query, key, value, output, experts, router, norms)


def _gpt2_block(block: Any) -> Block:
    fused = zip(block.attn.c_attn.weight.data.t().chunk(3), block.attn.c_attn.bias.data.chunk(3), strict=True)
    query, key, value = (Linear(weight, bias) for weight, bias in fused)
    output, up, down = (
        Linear(own.weight.data.t(), own.bias.data) for own in (block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
    )
    norms = (_vectors(block.ln_1), _vectors(block.ln_2))
    return Block(query, key, value, output, (FeedForward((up,), down),), None, norms)


def hadamard(size: int) -> Tensor:
    """Return a random Hadamard matrix, orthogonal, for a power of two; any random orthogonal one for other sizes."""
    generator = torch.Generator().manual_seed(size)
    if size & (size - 1):
        orthogonal: Tensor = torch.linalg.qr(torch.randn(size, size, generator=generator)).Q
        return orthogonal
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat((torch.cat((matrix, matrix), 1), torch.cat((matrix, -matrix), 1)))
    signs = torch.randint(0, 2, (size,), generator=generator).mul(2).sub(1).float()
    rotation: Tensor = matrix * signs / size**0.5
    return rotation
