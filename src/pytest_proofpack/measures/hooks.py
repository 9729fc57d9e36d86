"""Hooks on the modules of a model, and a forward pass of its body for what they observe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.models.forward import why_it_failed
from pytest_proofpack.models.layout import input_embedding

Windows = NDArray[np.integer]
"""Token ids, shape (windows, seq_len) or (draws, windows, seq_len)."""
Hook = Callable[[nn.Module, Any, Any], Any]
"""A forward hook: called with a module, its arguments and its output; what it returns, if not None, replaces that."""


def run_body(model: PreTrainedModel, windows: Windows) -> None:
    """Run the model without its head on all windows at once.

    One batch, because sigma_max of all tokens is not to be had from parts of them.

    Raises:
        EvaluationError: the windows hold ids that the model lacks, or the forward pass fails.
    """
    embedding = input_embedding(model)
    if windows.min() < 0 or windows.max() >= embedding.num_embeddings:
        raise EvaluationError(f"{model_name(model)}: the windows hold token ids that it does not embed.")
    ids = torch.from_numpy(windows.astype(np.int64)).to(embedding.weight.device)
    try:
        with torch.inference_mode():
            model.base_model(input_ids=ids, use_cache=False)
    except (RuntimeError, ValueError, IndexError, MemoryError) as error:
        raise EvaluationError(
            f"{model_name(model)}: measuring activations on {len(windows)} windows of {windows.shape[1]} tokens failed"
            f"{why_it_failed(error)}"
        ) from error


@contextlib.contextmanager
def hooked(model: nn.Module, hooks: Mapping[str, Hook]) -> Iterator[None]:
    """Hook the modules at these paths while the body runs; paths that the model lacks are left out."""
    modules = dict(model.named_modules())
    with contextlib.ExitStack() as stack:
        for name in hooks.keys() & modules.keys():
            stack.callback(modules[name].register_forward_hook(hooks[name]).remove)
        yield


def model_name(model: PreTrainedModel) -> str:
    """Return how messages call a model."""
    return model.name_or_path or type(model).__name__
