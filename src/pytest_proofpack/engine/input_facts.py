"""What a certificate records of the files that a model was made of: how they were read, and what was odd about them."""

from __future__ import annotations

from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.prepared import Prepared, PreparedSubject
from pytest_proofpack.models.code_paths import attention_of


def input_facts(
    prepared: Prepared, baseline: PreTrainedModel, subject: PreTrainedModel, loaded: PreparedSubject | None
) -> JsonObject:
    """Return ``meta.inputs`` of a certificate.

    Args:
        prepared: the baseline's checked inputs.
        baseline: the baseline; its weights may have been given up.
        subject: the edited model, which may be the same object.
        loaded: the subject's checked inputs, if it was loaded from a directory of its own.
    """
    own = () if loaded is None else loaded.warnings
    return {
        "attention": {"baseline": attention_of(baseline), "subject": attention_of(subject)},
        "tokenizer": prepared.tokenizer_source,
        "weight_bytes": {
            "baseline": prepared.weight_bytes,
            **({} if loaded is None else {"subject": loaded.weight_bytes}),
        },
        "warnings": [*prepared.warnings, *(f"subject: {text}" for text in own if text not in prepared.warnings)],
    }
