"""The baseline: a model loaded once per worker, and everything that is measured on it while it is unedited.

Its losses are kept in the run directory, one file per draw of windows, so that the workers of one machine compute them
once between them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from transformers import PreTrainedModel

from pytest_proofpack.devices import choose_device, configure_determinism
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.families import ModelLayout, analyze_layout
from pytest_proofpack.files import atomic_write, folder_names
from pytest_proofpack.guards.invariants import StructureMeasure
from pytest_proofpack.losses import default_batch_size, record_losses
from pytest_proofpack.measures.structure import measure_structure
from pytest_proofpack.model_directory import check_model_directory, model_digest, model_path, parameter_count
from pytest_proofpack.models import check_context, check_vocabulary, load_config, load_model, load_tokenizer
from pytest_proofpack.paired import is_finite
from pytest_proofpack.records import Draw, ModelSpec, WindowLosses, WindowPlan
from pytest_proofpack.run import Run
from pytest_proofpack.text import DrawnWindows, PreparedText, Tokens, prepare_text, tokenizer_fingerprint

MARKER = Path("state") / "run.json"
"""A worker shares the run directory if it sees this file there; on another host it does not, and keeps to itself."""


@dataclass(frozen=True)
class Prepared:
    """A model's inputs, checked, before any weight is loaded.

    Attributes:
        spec: the model.
        tokenizer: its tokenizer.
        tokenizer_size: number of token ids that it can produce.
        tokenizer_hash: fingerprint of how it splits text.
        plan: how text is cut for this model.
        text: the tokenized evaluation text.
    """

    spec: ModelSpec
    tokenizer: Any
    tokenizer_size: int
    tokenizer_hash: str
    plan: WindowPlan
    text: PreparedText


@dataclass(frozen=True)
class Baseline:
    """A loaded, unedited model and what was measured on it.

    ``model`` is edited in place while a certificate is made and is as before afterwards.
    """

    prepared: Prepared
    model: PreTrainedModel
    device: torch.device
    determinism: str
    layout: ModelLayout
    structure: StructureMeasure
    digest: str

    @property
    def spec(self) -> ModelSpec:
        """The model's spec."""
        return self.prepared.spec


def prepare_model(run: Run, spec: ModelSpec) -> Prepared:
    """Check a model's directory, tokenizer and text, before any weight is loaded.

    Raises:
        ConfigurationError: something about them cannot be used; the message says what to do.
    """
    check_model_directory(spec)
    config = load_config(spec)
    tokenizer = load_tokenizer(spec)
    check_vocabulary(tokenizer, config)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    plan = run.window_plan(parameter_count(model_path(spec)), positions)
    check_context(config, plan.seq_len)
    text = prepare_text(run.suite.text, tokenizer, plan)
    return Prepared(spec, tokenizer, len(tokenizer), tokenizer_fingerprint(tokenizer), plan, text)


def load_baseline(run: Run, prepared: Prepared) -> Baseline:
    """Load a model and measure it.

    Raises:
        EvaluationError: it cannot be loaded.
        ConfigurationError: the requested device is not there.
    """
    spec = prepared.spec
    device = choose_device(run.settings.device)
    reached = configure_determinism(run.settings.determinism, device)
    loaded = load_model(spec, str(device))
    layout = analyze_layout(loaded.model)
    structure = measure_structure(loaded.model, layout, prepared.tokenizer_size)
    return Baseline(prepared, loaded.model, device, reached, layout, structure, model_digest(model_path(spec)))


def measure_draw(model: PreTrainedModel, windows: DrawnWindows) -> Draw:
    """Return the losses of ``model`` on the preview and the final windows of a draw."""
    return Draw(
        _losses(model, windows.preview, windows.preview_ids),
        _losses(model, windows.final, windows.final_ids),
    )


def baseline_draw(run: Run, baseline: Baseline, number: int) -> tuple[DrawnWindows, Draw]:
    """Return the windows of run ``number`` and the baseline's losses on them, computed once per run directory.

    Raises:
        EvaluationError: the baseline's loss is not finite.
    """
    windows = baseline.prepared.text.draw(number)
    folder = run.out / folder_names(model.id for model in run.suite.models)[baseline.spec.id] / "baseline"
    if (run.out / MARKER).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"windows_{windows.seed}.safetensors"
        with FileLock(path.with_suffix(".lock")):
            draw = _read_draw(path, windows, baseline.digest) or measure_draw(baseline.model, windows)
            if not path.is_file():
                atomic_write(path, _serialize(draw, baseline.digest))
    else:
        draw = measure_draw(baseline.model, windows)
    if not (is_finite(draw.preview.losses) and is_finite(draw.final.losses)):
        raise EvaluationError(
            f"{baseline.spec.id}: the loss of the unedited baseline is not finite, so nothing can be compared with it. "
            "Check the checkpoint for NaN or infinite weights, or whether its dtype overflows."
        )
    return windows, draw


def _losses(model: PreTrainedModel, windows: Tokens, ids: tuple[str, ...]) -> WindowLosses:
    return record_losses(model, windows, ids, batch_size=default_batch_size(windows.shape[1], model.device))


def _serialize(draw: Draw, digest: str) -> bytes:
    return save_tensors(
        {name: np.asarray(getattr(draw, name).losses, dtype=np.float64) for name in ("preview", "final")},
        metadata={"model_digest": digest, "ids": ",".join([*draw.preview.ids, *draw.final.ids])},
    )


def _read_draw(path: Path, windows: DrawnWindows, digest: str) -> Draw | None:
    """Return the stored losses if they are those of this model on these windows."""
    if not path.is_file():
        return None
    raw = path.read_bytes()
    header = raw[8 : 8 + int.from_bytes(raw[:8], "little")]
    wanted = ",".join([*windows.preview_ids, *windows.final_ids])
    if digest.encode() not in header or wanted.encode() not in header:
        raise EvaluationError(f"{path.name}: holds the losses of another model or other windows. Use a new directory.")
    tensors = load_tensors(raw)
    counts = windows.preview.shape[1] - 1
    return Draw(
        *(
            WindowLosses(ids, tuple(tensors[name].tolist()), (counts,) * len(ids))
            for name, ids in (("preview", windows.preview_ids), ("final", windows.final_ids))
        )
    )
