"""What sublayers answer to the same tokens, as seen from the embeddings of some tokens: a sketch that two models share.

Of every sublayer's output on some of the calibration tokens, the cosines with the embeddings of seeded anchor tokens
are kept, both centred: Y E^T. Whatever leaves a model's function alone leaves these cosines alone: permuted neurons and
heads and undone scales do not reach the output, and a rotation Q of the residual stream cancels, (YQ)(EQ)^T = Y E^T.
A matrix that computes something else moves them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pytest_proofpack.guards.direction import measurement_contract
from pytest_proofpack.measures.hooks import Hook, Windows
from pytest_proofpack.models.layout import ModelLayout, input_embedding
from pytest_proofpack.models.probing import first_tensor

_CONTRACT = measurement_contract({})
_TINY = 1e-30
_SIGNIFICANT_DIGITS = 6


class ResponseWatch:
    """Hooks that sketch the outputs of all sublayers while a forward pass runs over the calibration windows.

    Attributes:
        sketches: by sublayer, shape (tokens, anchors), float32 on its device; those that were called with fewer tokens
            than there should be are not there.
    """

    def __init__(
        self, model: PreTrainedModel, layout: ModelLayout, windows: Windows, embedding: Tensor | None = None
    ) -> None:
        """Prepare the hooks.

        Args:
            model: the model that will run; its embeddings are read now.
            layout: the baseline's.
            windows: the calibration windows, which are the first of a batch.
            embedding: dense values of the model's embeddings, where its own are packed.
        """
        self.sketches: dict[str, Tensor] = {}
        self._tokens = windows.size
        self._step = max(1, windows.size // _CONTRACT["tokens"])
        anchors = _anchors(input_embedding(model).weight if embedding is None else embedding, windows)
        modules = dict(model.named_modules())
        # Made where they are needed before any batch runs: those of a divided model run on streams of their own.
        placed: dict[torch.device, Tensor] = {}
        self.hooks: dict[str, Hook] = {}
        for sublayer in layout.sublayers:
            parameter = next(modules[sublayer.name].parameters(), None) if sublayer.name in modules else None
            if parameter is not None:
                device = parameter.device
                placed[device] = placed[device] if device in placed else anchors.to(device)
                self.hooks[sublayer.name] = self._hook(sublayer.name, placed[device])

    def _hook(self, name: str, anchors: Tensor) -> Hook:
        def sketch(_module: nn.Module, _args: Any, output: Any) -> None:
            if (states := first_tensor(output)) is None:
                return
            rows = states.detach().reshape(-1, states.shape[-1])
            if len(rows) < self._tokens:
                return  # a trial of a few tokens, or a batch too small for all windows
            self.sketches[name] = _sketch(rows[: self._tokens : self._step].float(), anchors)

        return sketch


def compared_responses(
    baseline: Mapping[str, Tensor], subject: Mapping[str, Tensor], layout: ModelLayout
) -> dict[str, float | None]:
    """Return, for every sublayer, the cosine of the two models' sketches; None where one is missing or not finite."""
    names = [name.name for name in layout.sublayers if name.name in baseline and name.name in subject]
    values = {name: _cosine(baseline[name], subject[name]) for name in names}
    device = next(iter(values.values())).device if values else torch.device("cpu")
    fetched = torch.stack([value.to(device) for value in values.values()]).tolist() if values else []
    found = {name: value for name, value in zip(values, fetched, strict=True) if value == value}  # noqa: PLR0124 - NaN
    return {sublayer.name: _rounded(found.get(sublayer.name)) for sublayer in layout.sublayers}


def _anchors(embedding: Tensor, windows: Windows) -> Tensor:
    """Return embeddings, centred and of length one, float32, shape (anchors, features).

    Of tokens that the windows hold, because rows that no text uses may have been trained or exchanged.
    """
    there = np.unique(windows[windows < len(embedding)])
    chosen = np.sort(np.random.default_rng(_CONTRACT["seed"]).permutation(there)[: _CONTRACT["anchors"]])
    ids = torch.from_numpy(chosen.astype(np.int64))
    return _unit(embedding.detach()[ids.to(embedding.device)].float())


def _sketch(states: Tensor, anchors: Tensor) -> Tensor:
    """Return cosines of outputs and anchors; where their widths differ, of outputs and unit vectors."""
    states = _unit(states)
    return states @ anchors.mT if anchors.shape[1] == states.shape[1] else states[:, : len(anchors)]


def _unit(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(dim=0)
    unit: Tensor = centred / centred.norm(dim=1, keepdim=True).clamp(min=_TINY)
    return unit


def _cosine(ours: Tensor, theirs: Tensor) -> Tensor:
    theirs = theirs.to(ours.device)
    if ours.shape != theirs.shape:
        return ours.new_full((), torch.nan)
    norms = torch.stack((ours.norm(), theirs.norm()))
    cosine = (ours * theirs).sum() / norms.prod().clamp(min=_TINY)
    return torch.where((norms == 0).all(), 1.0, cosine)  # one that says nothing, as before


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{min(1.0, max(-1.0, value)):.{_SIGNIFICANT_DIGITS}g}")
