"""A model's inputs, read and checked before any weight is loaded: its directory, its tokenizer, the windows of text.

torch takes seconds to import, and the controller computes nothing: where configuration and tokenizer can be read from
their files alone, neither torch nor transformers is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_proofpack.common.files import FileState, file_state
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint, check_model_directory
from pytest_proofpack.models.limits import read_limits
from pytest_proofpack.models.tokenizer import read_tokenizer
from pytest_proofpack.plan.records import ModelSpec, TextSpec, WindowPlan
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.local_files import text_files
from pytest_proofpack.text.windows import PreparedText, prepare_text, tokenizer_fingerprint


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
        states: of every file that was read for this, or will be, when reading began.
    """

    spec: ModelSpec
    tokenizer: Any
    tokenizer_size: int
    tokenizer_hash: str
    plan: WindowPlan
    text: PreparedText
    states: Mapping[Path, FileState]


@dataclass(frozen=True)
class PreparedSubject:
    """An edited model's inputs, checked, before any weight is loaded.

    Attributes:
        spec: the model.
        digest: the OpenSSF root of its directory.
        tokenizer_hash: fingerprint of its own tokenizer; None if it has none.
        quantized_by: the method by which its files are quantized, for example ``fp8``; None if they are dense.
        states: of its files, when reading began.
    """

    spec: ModelSpec
    digest: str
    tokenizer_hash: str | None
    quantized_by: str | None
    states: Mapping[Path, FileState]


def prepare_model(run: Run, spec: ModelSpec, text: TextSpec | None = None) -> Prepared:
    """Check a model's directory, tokenizer and text, before any weight is loaded.

    Args:
        run: the run.
        spec: the model, with its directory on this machine.
        text: the run's text, with its directory on this machine; the run's own as it is unless told.

    Raises:
        ConfigurationError: something about them cannot be used; the message says what to do.
    """
    files = CheckpointFiles.of(spec)
    check_model_directory(spec)
    limits, tokenizer = read_limits(spec, files), _tokenizer(spec, files)
    limits.check_vocabulary(tokenizer)
    plan = run.window_plan(files.parameters, limits.positions)
    limits.check_context(plan.seq_len)
    text = text or run.suite.text
    states = _states(files) | {file: file_state(file) for file in text_files(text)}
    prepared_text = prepare_text(text, tokenizer, plan)
    return Prepared(spec, tokenizer, len(tokenizer), tokenizer_fingerprint(tokenizer), plan, prepared_text, states)


def prepare_subject(spec: ModelSpec, baseline: Prepared) -> PreparedSubject:
    """Check an edited model's directory before any weight is loaded. It may come without a tokenizer.

    Raises:
        ConfigurationError: something about it cannot be used: the directory, or a vocabulary or context that is too
            small for the windows, which the baseline's tokenizer makes.
    """
    files = CheckpointFiles.of(spec)
    check_checkpoint(spec)
    limits = read_limits(spec, files)
    limits.check_vocabulary(baseline.tokenizer)
    limits.check_context(baseline.plan.seq_len)
    own = tokenizer_fingerprint(_tokenizer(spec, files)) if files.tokenizer_files else None
    return PreparedSubject(spec, files.digest, own, files.quantization_method, _states(files))


def _states(files: CheckpointFiles) -> dict[Path, FileState]:
    return {files.path / name: state for name, state in files.states.items()}


def _tokenizer(spec: ModelSpec, files: CheckpointFiles) -> Any:
    """Return a directory's tokenizer: from its file if that says all, else as transformers makes it."""
    plain = None if spec.trust_remote_code else read_tokenizer(files.path)
    if plain is not None:
        return plain
    from pytest_proofpack.models.load import load_tokenizer

    return load_tokenizer(spec)
