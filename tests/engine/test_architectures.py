"""Small models of many architectures, certified: groups as a person expects, edits that change them, a clean noop.

A dozen run with the tests; ``-m sweep`` goes through every causal language model of the installed transformers.
"""

from __future__ import annotations

import pytest
import torch
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.architectures.configs import HYBRIDS, POPULAR, VARIANTS
from benchmarks.architectures.sweep import CHIEF, examine

DOZEN = (
    "llama",
    "gpt2",
    "openai-gpt",  # lists instead of tuples
    "mixtral",
    "gpt_oss",
    "deepseek_v3",
    "lfm2",
    "mamba2",
    "jamba",
    "zamba2",  # blocks in blocks, shared by layers
    "qwen3_next",
    "gemma3n_text",
)
IN_PART = {
    "moshi": "the head has a row fewer than the embedding, so they cannot be tied",
    "reformer": "the head reads twice what the embedding writes, so they cannot be tied",
}
ONLY_IN_FLOAT32 = {"xlstm": "transformers' own kernel mixes types in windows longer than a chunk"}


@pytest.mark.parametrize("name", DOZEN)
def test_a_dozen_architectures_work_wholly(name: str) -> None:
    found = examine(name, certified=CHIEF)
    assert found.whole, found
    assert (len(found.edits), len(found.faults), found.certified) == (8, 9, len(CHIEF))


@pytest.mark.sweep
@pytest.mark.parametrize("name", dict.fromkeys([*POPULAR, *MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, *VARIANTS]))
def test_every_architecture_works_wholly_or_is_refused(name: str) -> None:
    found = examine(name)
    if found.not_built:
        pytest.skip(found.not_built)
    if name in IN_PART and not found.whole:
        pytest.xfail(IN_PART[name])
    assert found.whole or (found.refused and name not in POPULAR), found


@pytest.mark.sweep
@pytest.mark.parametrize("name", HYBRIDS)
def test_half_precision_hides_nothing(name: str) -> None:
    found = examine(name, dtype=torch.bfloat16, certified=CHIEF)
    if name in ONLY_IN_FLOAT32 and not found.whole:
        pytest.xfail(ONLY_IN_FLOAT32[name])
    assert found.whole, found
