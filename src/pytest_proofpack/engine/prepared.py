"""A model's inputs, read and checked before any weight is loaded: its directory, its tokenizer, the windows of text.

torch takes seconds to import, and the controller computes nothing: where configuration and tokenizer can be read from
their files alone, neither torch nor transformers is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pytest_proofpack.common.files import FileState, file_state
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.shared_text import shared_text
from pytest_proofpack.engine.tokenizer_trial import require_tame_tokenizer
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.activations import calibration_windows
from pytest_proofpack.models.checkpoint_formats import Addition
from pytest_proofpack.models.chosen_tokenizer import choose_tokenizer
from pytest_proofpack.models.file_warnings import class_warnings, file_warnings
from pytest_proofpack.models.files import CheckpointFiles, check_checkpoint, check_model_directory
from pytest_proofpack.models.limits import read_limits
from pytest_proofpack.models.missing_groups import require_all_groups
from pytest_proofpack.models.suited import require_suited
from pytest_proofpack.models.tokenizer import TOKENIZER_JSON, tokenizer_as_written
from pytest_proofpack.plan.records import ModelSpec, TextSpec, WindowPlan
from pytest_proofpack.plan.tuning import judged_runs
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.apart import text_apart
from pytest_proofpack.text.kept import text_key
from pytest_proofpack.text.local_files import text_files, text_name
from pytest_proofpack.text.windows import PreparedText, prepare_text, tokenizer_fingerprint


@dataclass(frozen=True)
class Prepared:
    """A model's inputs, checked, before any weight is loaded.

    Attributes:
        spec: the model.
        tokenizer: its tokenizer.
        tokenizer_size: number of token ids that it can produce.
        tokenizer_hash: fingerprint of how it splits text.
        tokenizer_source: the file that says so, or the class that does it; see :class:`ChosenTokenizer`.
        plan: how text is cut for this model.
        text: the tokenized evaluation text.
        states: of every file that was read for this, or will be, when reading began.
        warnings: what a user should know about its files.
        weight_bytes: size of the files that the weights are read from.
        text_key: of what the windows were cut from, see :func:`pytest_proofpack.text.kept.text_key`.
    """

    spec: ModelSpec
    tokenizer: Any
    tokenizer_size: int
    tokenizer_hash: str
    tokenizer_source: str
    plan: WindowPlan
    text: PreparedText
    states: Mapping[Path, FileState]
    warnings: tuple[str, ...] = ()
    weight_bytes: int = 0
    text_key: str = ""


@dataclass(frozen=True)
class PreparedSubject:
    """An edited model's inputs, checked, before any weight is loaded.

    Attributes:
        spec: the model.
        digest: the OpenSSF root of its directory.
        tokenizer_hash: fingerprint of its own tokenizer; None if it has none.
        label: what its files say that its edit is called; None if they do not say.
        states: of its files, when reading began.
        warnings: what a user should know about its files.
        weight_bytes: size of the files that the weights are read from.
        addition: facts of what is added to the baseline, an adapter; None of a model by itself.
    """

    spec: ModelSpec
    digest: str
    tokenizer_hash: str | None
    label: str | None
    states: Mapping[Path, FileState]
    warnings: tuple[str, ...] = ()
    weight_bytes: int = 0
    addition: JsonObject | None = None


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
    require_suited(spec.id, files.config)
    require_tame_tokenizer(files)
    limits, chosen = read_limits(spec, files), choose_tokenizer(spec, files)
    tokenizer = chosen.tokenizer
    warnings = (*file_warnings(spec, files), *chosen.warnings, *limits.check_vocabulary(tokenizer))
    plan = run.window_plan(files.parameters, limits.positions)
    limits.check_context(plan.seq_len)
    _require_watched_windows(plan, run.activation_contract)
    source = text or run.suite.text
    text_states = {file: file_state(file) for file in text_files(source)}
    fingerprint = tokenizer_fingerprint(tokenizer)
    key = text_key(source, fingerprint, plan, text_states)
    prepared_text = shared_text(run, spec, key, source, plan) or prepare_text(source, tokenizer, plan)
    if run.tunes:
        watched = calibration_windows(run.activation_contract, plan.seq_len)
        prepared_text = text_apart(prepared_text, judged_runs(run.suite), watched, run.suite.runs, text_name(source))
    limits.check_windows(prepared_text.windows, tokenizer)
    return Prepared(
        spec=spec,
        tokenizer=tokenizer,
        tokenizer_size=len(tokenizer),
        tokenizer_hash=fingerprint,
        tokenizer_source=chosen.source,
        plan=prepared_text.plan,
        text=prepared_text,
        states=_states(files) | text_states,
        warnings=warnings,
        weight_bytes=files.size,
        text_key=key,
    )


def prepare_subject(spec: ModelSpec, baseline: Prepared) -> PreparedSubject:
    """Check an edited model's directory before any weight is loaded. It may come without a tokenizer.

    Raises:
        ConfigurationError: something about it cannot be used: the directory, its own end-of-text token, or a
            vocabulary or context that is too small for the windows, which the baseline's tokenizer makes.
    """
    files = CheckpointFiles.of(spec)
    check_checkpoint(spec)
    if files.format.addition is not None:
        return _prepare_addition(spec, files, files.format.addition, baseline)
    base = CheckpointFiles.of(baseline.spec)
    require_all_groups(files, base)
    limits = read_limits(spec, files)
    limits.check_context(baseline.plan.seq_len)
    limits.check_windows(baseline.text.windows, baseline.tokenizer, edited=True)
    known = PreparedSubject(
        *(spec, files.digest, None, files.format.edit_label(files), _states(files)),
        warnings=(*file_warnings(spec, files), *class_warnings(files, base)),
        weight_bytes=files.size,
    )
    own_file = files.format.single_file
    if not files.tokenizer_files and (own_file is None or own_file.has_tokens(files, baseline.tokenizer.get_vocab())):
        return known
    require_tame_tokenizer(files)
    own = choose_tokenizer(spec, files)
    warnings = (*known.warnings, *own.warnings, *limits.check_vocabulary(own.tokenizer))
    return replace(known, tokenizer_hash=tokenizer_fingerprint(own.tokenizer), warnings=warnings)


def _prepare_addition(
    spec: ModelSpec, files: CheckpointFiles, addition: Addition, baseline: Prepared
) -> PreparedSubject:
    """Check what is to be added to the baseline. A tokenizer beside it is that of a model which isn't there.

    Raises:
        ConfigurationError: it does not fit the baseline, or something about it cannot be used.
    """
    base = CheckpointFiles.of(baseline.spec)
    addition.require_fit(files, base)
    return PreparedSubject(
        spec=spec,
        digest=files.digest,
        tokenizer_hash=_hash_beside(files, baseline),
        label=files.format.edit_label(files),
        states=_states(files),
        warnings=addition.warnings(files, baseline.spec, base),
        weight_bytes=files.size,
        addition=addition.facts(files),
    )


def _hash_beside(files: CheckpointFiles, baseline: Prepared) -> str | None:
    """Return the fingerprint of a tokenizer beside an adapter, read as the baseline's was; None if there is none."""
    if TOKENIZER_JSON not in files.tokenizer_files:
        return None
    theirs, base = files.path / TOKENIZER_JSON, CheckpointFiles.of(baseline.spec)
    if TOKENIZER_JSON in base.tokenizer_files and theirs.read_bytes() == (base.path / TOKENIZER_JSON).read_bytes():
        return baseline.tokenizer_hash
    require_tame_tokenizer(files)
    written: Any = tokenizer_as_written(files.path)
    if written.eos_token_id is None:
        written.eos_token_id = baseline.tokenizer.eos_token_id
    return tokenizer_fingerprint(written)


def _states(files: CheckpointFiles) -> dict[Path, FileState]:
    return {files.path / name: state for name, state in files.states.items()}


def _require_watched_windows(plan: WindowPlan, contract: JsonObject) -> None:
    """Make sure that there are as many preview windows as activations are measured on.

    Raises:
        ConfigurationError: the plan has fewer.
    """
    watched = calibration_windows(contract, plan.seq_len)
    if plan.preview < watched:
        raise ConfigurationError(
            f"{plan.preview} preview windows of {plan.seq_len} tokens are too few: activations are compared on the "
            f"first {watched} of them. Set preview to at least {watched} under [windows]."
        )
