"""Train a small model of one architecture on a text of yours, for trying the suites on real text.

    python training/train_small.py --architecture mixtral --text train.txt --held-out test.txt --output small_mixtral

The models have about 3 to 6 million parameters. On one GPU a training takes about a minute; on a CPU it works too
(``--device cpu``), but takes hours at the default size; with ``--width 64 --vocabulary 1024`` minutes.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

END = "<|endoftext|>"
WINDOW = 128
ARCHITECTURES = ("llama", "gpt2", "qwen2", "mixtral")


def build_model(architecture: str, vocabulary: int, hidden: int = 256) -> PreTrainedModel:
    """Return a fresh model of about 3 to 6 million parameters, of fewer if its hidden states are narrower."""
    shared: dict[str, Any] = {"vocab_size": vocabulary, "bos_token_id": 0, "eos_token_id": 0}
    width: dict[str, Any] = {
        "hidden_size": hidden,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
    }
    size: dict[str, Any]
    if architecture == "gpt2":
        size = {"n_embd": hidden, "n_head": 4, "n_layer": 5, "n_positions": 512}
        return GPT2LMHeadModel(GPT2Config(**shared, **size))
    if architecture == "mixtral":
        size = {"intermediate_size": hidden, "num_hidden_layers": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
        return MixtralForCausalLM(MixtralConfig(**shared, **width, **size, tie_word_embeddings=False))
    size = {"intermediate_size": hidden * 11 // 4, "num_hidden_layers": 6}
    if architecture == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**shared, **width, **size, tie_word_embeddings=True))
    return LlamaForCausalLM(LlamaConfig(**shared, **width, **size, tie_word_embeddings=False))


def train_tokenizer(text: Path, vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    backend.train([str(text)], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END)  # type: ignore[no-untyped-call]


def encode(tokenizer: PreTrainedTokenizerFast, path: Path) -> torch.Tensor:
    """Return the text as one stream of token ids."""
    ids = tokenizer.backend_tokenizer.encode(path.read_text(encoding="utf-8")).ids
    return torch.from_numpy(np.asarray(ids, dtype=np.int64))


@torch.no_grad()
def held_out_loss(model: PreTrainedModel, stream: torch.Tensor, device: str) -> float:
    """Return the mean loss over the windows of a stream, in nats per token."""
    model.eval()  # type: ignore[no-untyped-call]
    windows = stream[: len(stream) // WINDOW * WINDOW].view(-1, WINDOW)
    losses = [loss_of(model, batch.to(device)).item() * len(batch) for batch in torch.split(windows, 64)]
    model.train()
    return sum(losses) / len(windows)


def loss_of(model: PreTrainedModel, windows: torch.Tensor) -> torch.Tensor:
    """Return the mean loss of next-token prediction."""
    logits = model(windows, use_cache=False).logits[:, :-1].float()
    return cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(model: PreTrainedModel, stream: torch.Tensor, held_out: torch.Tensor, options: argparse.Namespace) -> float:
    """Train, keep the weights with the best held-out loss, and return that loss."""
    device = options.device
    model.to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.3, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, options.steps, pct_start=0.1)
    generator = torch.Generator().manual_seed(options.seed)
    best, state = math.inf, model.state_dict()
    offsets = torch.arange(WINDOW)
    for step in range(1, options.steps + 1):
        starts = torch.randint(len(stream) - WINDOW, (options.batch_size, 1), generator=generator)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = loss_of(model, stream[starts + offsets].to(device))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == options.steps:
            now = held_out_loss(model, held_out, device)
            print(f"step {step}: training {loss.item():.3f}, held out {now:.3f}", flush=True)
            if now < best:
                best, state = now, {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
    model.load_state_dict(state)
    return best


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", choices=ARCHITECTURES, required=True)
    parser.add_argument("--text", type=Path, required=True, help="UTF-8 text to train on")
    parser.add_argument("--held-out", type=Path, required=True, help="UTF-8 text to stop on")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=2048)
    parser.add_argument("--width", type=int, default=256, help="of the hidden states, a multiple of 8")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the saved weights")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    tokenizer = train_tokenizer(options.text, options.vocabulary)
    model = build_model(options.architecture, options.vocabulary, options.width)
    print(f"{options.architecture}: {sum(p.numel() for p in model.parameters()):,} parameters")
    best = train(model, encode(tokenizer, options.text), encode(tokenizer, options.held_out), options)
    model.to(getattr(torch, options.dtype)).save_pretrained(options.output)
    tokenizer.save_pretrained(options.output)
    print(f"held-out loss {best:.4f} nats per token, perplexity {math.exp(best):.2f}")


if __name__ == "__main__":
    main()
