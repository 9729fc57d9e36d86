"""Train the embedded model of suite ``tiny``: a byte-level BPE tokenizer and a small Llama-architecture model.

    python training/train_tiny.py --output suites/tiny_model

trains on documents of :mod:`pytest_proofpack.text.synthetic`, joined by the end-of-text token, in windows of 128 tokens
that start anywhere, as the evaluation does. With a CUDA device the default settings take some minutes; without one
(``--device cpu``) the same command works and takes hours (``--steps`` shortens it). Weights are float32. A CUDA run
uses bfloat16 for the matrix products of the training steps, and is repeatable on one kind of device and library
version only: what identifies the shipped model are the digests of its files, not this recipe.

Needs torch, transformers and tokenizers.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pytest_proofpack.common.files import sha256_file
from pytest_proofpack.text import synthetic

END_OF_TEXT = "<|endoftext|>"
WINDOW = 128
"""Tokens of a training and of an evaluation window."""
CHUNK = 5000
"""Documents that share one generator seed; fixed, so that the text doesn't depend on the number of processes."""
TOKENIZER_DOCUMENTS = 20_000
HELD_OUT_DOCUMENTS = 2000
IGNORED = -100
"""Fills rows of unequal length; such entries are not scored."""


@dataclass(frozen=True)
class Settings:
    """The command line; every field is an option of the same name."""

    output: Path = Path("suites/tiny_model")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    processes: int = os.cpu_count() or 1
    documents: int = 600_000
    steps: int = 7000
    batch_size: int = 256
    learning_rate: float = 4e-3
    weight_decay: float = 0.1
    seed: int = 1
    vocabulary: int = 1024
    hidden: int = 128
    intermediate: int = 288
    layers: int = 5
    heads: int = 4
    key_value_heads: int = 4


def main() -> None:
    """Train, measure and save."""
    settings = parse_arguments()
    started = time.perf_counter()
    torch.manual_seed(settings.seed)
    texts = training_texts(settings)
    tokenizer = train_tokenizer(texts[:TOKENIZER_DOCUMENTS], settings.vocabulary)
    stream = token_stream(tokenizer, texts)
    print(f"{len(texts)} documents, {len(stream)} tokens, {time.perf_counter() - started:.0f} s")
    model = build_model(settings, tokenizer)
    train_loss = train(model, stream, settings)
    record = settings_record(settings) | {
        "training_tokens": len(stream),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "final_train_loss": train_loss,
        **held_out(model, tokenizer, settings.device),
        "versions": {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)},
    }
    print(json.dumps(record, indent=2), f"\n{time.perf_counter() - started:.0f} s")
    save(model, tokenizer, record, settings.output)


def parse_arguments() -> Settings:
    """Read the command line; every option has a default."""
    parser = argparse.ArgumentParser(description="Train the embedded model of suite `tiny`.")
    for name, default in vars(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return Settings(**vars(parser.parse_args()))


def settings_record(settings: Settings) -> dict[str, object]:
    """What training.json says about the command: every option that can change the result, and no local path."""
    options = {name: value for name, value in vars(settings).items() if name not in {"output", "device", "processes"}}
    command = " ".join(["python training/train_tiny.py", *(f"--{k.replace('_', '-')} {v}" for k, v in options.items())])
    return {
        "command": command,
        "device_kind": torch.device(settings.device).type,
        "language_seed": synthetic.LANGUAGE_SEED,
        "seed": settings.seed,
        "steps": settings.steps,
        "window_tokens": WINDOW,
    }


def training_texts(settings: Settings) -> list[str]:
    """Generate the training split, in several processes."""
    chunks = range(math.ceil(settings.documents / CHUNK))
    with multiprocessing.get_context("spawn").Pool(settings.processes) as pool:
        texts = [text for chunk in pool.imap(chunk_texts, chunks) for text in chunk]
    return texts[: settings.documents]


def chunk_texts(seed: int) -> list[str]:
    """The texts of one chunk of the training split."""
    return [document.text for document in synthetic.generate(seed, CHUNK, "training")]


def train_tokenizer(texts: list[str], vocabulary: int) -> Tokenizer:
    """Train a byte-level BPE tokenizer of ``vocabulary`` entries; the end-of-text token is entry 0."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def token_stream(tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Encode documents and join them, each followed by end-of-text, into one 1-D int32 tensor."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    parts = []
    for first in range(0, len(texts), CHUNK):
        encoded = tokenizer.encode_batch_fast(texts[first : first + CHUNK])
        parts.append(torch.tensor([token for text in encoded for token in (*text.ids, end)], dtype=torch.int32))
    return torch.cat(parts)


def build_model(settings: Settings, tokenizer: Tokenizer) -> LlamaForCausalLM:
    """Make the untrained model, its vocabulary that of the tokenizer."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.key_value_heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
    )
    return LlamaForCausalLM(config)


def train(model: torch.nn.Module, stream: torch.Tensor, settings: Settings) -> float:
    """Train in place: AdamW, linear warm-up, cosine decay to zero. Return the mean loss of the last 200 steps."""
    device = torch.device(settings.device)
    model.to(device).train()
    stream = stream.to(device)
    decayed = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    others = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(0.9, 0.98),
        fused=device.type == "cuda",
    )
    warmup = max(1, settings.steps // 50)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, (1 + math.cos(math.pi * step / settings.steps)) / 2),
    )
    losses = []
    for step, batch in enumerate(batches(stream, settings)):
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = model(input_ids=batch).logits
        loss = next_token_loss(logits, batch)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if step % 500 == 0:
            print(f"step {step}: loss {loss.item():.4f}", flush=True)
    model.eval()
    return torch.stack(losses[-200:]).mean().item()


def batches(stream: torch.Tensor, settings: Settings) -> Iterator[torch.Tensor]:
    """Yield ``steps`` batches of windows, [batch_size, WINDOW], that start anywhere in the stream."""
    generator = torch.Generator().manual_seed(settings.seed)
    offsets = torch.arange(WINDOW, device=stream.device)
    for _ in range(settings.steps):
        starts = torch.randint(len(stream) - WINDOW + 1, (settings.batch_size, 1), generator=generator)
        yield stream[starts.to(stream.device) + offsets].long()


def next_token_loss(logits: torch.Tensor, tokens: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Negative log-likelihood (nats) of every token of the windows but the first."""
    targets = tokens[:, 1:].flatten()
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), targets, ignore_index=IGNORED, reduction=reduction
    )


@torch.no_grad()
def held_out(model: torch.nn.Module, tokenizer: Tokenizer, device: str) -> dict[str, float | int]:
    """Measure the model on unseen documents, beside the generator's own code length of the same text.

    Windows cut from the stream lack what came before them, so no model can reach the ideal there. Documents that fit
    into one window are therefore also scored whole, each after an end-of-text token: there the ideal can be reached.
    """
    documents = synthetic.generate(0, HELD_OUT_DOCUMENTS, "validation")
    stream = token_stream(tokenizer, [document.text for document in documents]).long()
    windows = stream[: len(stream) // WINDOW * WINDOW].view(-1, WINDOW)
    end = tokenizer.token_to_id(END_OF_TEXT)
    fitting = []
    ideal = 0.0
    for document in documents:
        ids = [end, *tokenizer.encode(document.text).ids, end]
        if len(ids) <= WINDOW:
            fitting.append(ids + [IGNORED] * (WINDOW - len(ids)))
            ideal += document.nats
    whole = torch.tensor(fitting)
    whole_tokens = int((whole[:, 1:] != IGNORED).sum())
    return {
        "held_out_documents": len(documents),
        "held_out_tokens": len(stream),
        "held_out_windows_loss": total_loss(model, windows, device) / windows[:, 1:].numel(),
        "held_out_ideal": math.fsum(document.nats for document in documents) / len(stream),
        "held_out_whole_documents_tokens": whole_tokens,
        "held_out_whole_documents_loss": total_loss(model, whole, device) / whole_tokens,
        "held_out_whole_documents_ideal": ideal / whole_tokens,
        "entropy_nats_per_document": synthetic.entropy(),
    }


def total_loss(model: torch.nn.Module, windows: torch.Tensor, device: str) -> float:
    """Sum of the nats of all tokens of ``windows`` but the first ones; entries IGNORED at a row's end don't count."""
    total = 0.0
    for part in torch.split(windows.to(device), 128):
        logits = model(input_ids=part.clamp_min(0)).logits
        total += next_token_loss(logits, part, "sum").item()
    return total


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, record: dict[str, object], output: Path) -> None:
    """Write model, tokenizer and record, and print each file's SHA-256."""
    output.mkdir(parents=True, exist_ok=True)
    model.cpu().save_pretrained(output)
    PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, clean_up_tokenization_spaces=False
    ).save_pretrained(output)
    (output / "training.json").write_text(json.dumps(record, indent=2, sort_keys=True) + "\n")
    (output / "generation_config.json").unlink(missing_ok=True)  # only repeats config.json
    for path in sorted(output.iterdir()):
        path.chmod(0o644)
        print(sha256_file(path), path.name)


if __name__ == "__main__":
    main()
