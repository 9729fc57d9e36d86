"""Tiny models that have learned something of the artificial language in seconds: weights that mean something."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from pytest_proofpack.text.synthetic import generate
from tests.support.model_files import TOKENS, small_tokenizer
from tests.support.small_models import small_model

_WINDOW = 64
_BATCH = 16
_LEARNING_RATE = 3e-3


def build_trained_directory(path: Path, architecture: str, *, steps: int = 150, documents: int = 400) -> Path:
    """Save a model that was trained on so many documents of the language's training text; return ``path``."""
    tokenizer = small_tokenizer()
    text = tokenizer.eos_token.join(document.text for document in generate(0, documents, "training"))
    ids = tokenizer.backend_tokenizer.encode(text).ids
    stream = torch.from_numpy(np.asarray(ids, dtype=np.int64))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = small_model(architecture, vocab_size=TOKENS, **_size(architecture))
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.mul_(0.3)  # from weights that matter to weights that can learn
        model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.1)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, steps, pct_start=0.1)
        for _ in range(steps):
            starts = torch.randint(len(stream) - _WINDOW, (_BATCH, 1))
            windows = stream[starts + torch.arange(_WINDOW)]
            logits = model(windows, use_cache=False).logits[:, :-1]
            loss = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    model.train(False)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def _size(architecture: str) -> dict[str, Any]:
    if architecture == "gpt2":
        return {"n_embd": 64, "n_head": 4, "n_layer": 3}
    return {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3}
