"""Demands that the files in one's hand are those that were certified.

They are compared by the root digest of OpenSSF Model Signing, which certificates record of every model directory, and
which a signature by ``model_signing`` has as its subject.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_proofpack.common.model_directory import directory_digest
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.pack.terms.term import Judgement, Term
from pytest_proofpack.plan.places import is_single_file

if TYPE_CHECKING:
    from pytest_proofpack.pack.verified import ModelIdentity, Verified


def _read(text: str) -> Path:
    if not (Path(text).is_dir() or is_single_file(Path(text))):
        raise ValueError("expected the directory of a model, or a GGUF file")
    return Path(text)


def _judge_subject(directory: Path, facts: Verified) -> Judgement:
    if not facts.subjects:
        return Judgement(False, "this pack certifies edits that were made in memory; no subject of it is a directory")
    return _judged(directory, facts.subjects, "subject")


def _judge_baseline(directory: Path, facts: Verified) -> Judgement:
    return _judged(directory, facts.models, "baseline")


def _judged(directory: Path, models: Sequence[ModelIdentity], what: str) -> Judgement:
    try:
        digest = directory_digest(directory)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or directory}: cannot be read ({error.strerror or error})"
        ) from error
    same = [model.told for model in models if model.digests == (digest,)]
    if same:
        return Judgement(True, f"its files are those of {'; '.join(same)}")
    told = "; ".join(model.told for model in models)
    return Judgement(False, f"its files have the digest {digest}, which no {what} of this pack has: {told}")


SUBJECT = Term(
    "subject",
    "demand that the files of this directory, or this GGUF file, are the edited model that was certified",
    "DIR",
    _read,
    _judge_subject,
)
BASELINE = Term(
    "baseline",
    "demand that the files of this directory, or this GGUF file, are the unedited model that was certified",
    "DIR",
    _read,
    _judge_baseline,
)
