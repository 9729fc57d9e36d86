"""What config.json alone tells of whether a model is a decoder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.suited import require_suited
from tests.support.small_runs import small_run


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "llama"},
        {"model_type": "a type of tomorrow", "is_encoder_decoder": False},
        {"model_type": "bart", "is_encoder_decoder": True, "architectures": ["BartForCausalLM"]},
        {},
    ],
)
def test_decoders_and_what_nobody_knows_are_let_in(config: dict[str, Any]) -> None:
    require_suited("model", config)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"model_type": "xlnet"}, "sees later tokens"),
        ({"model_type": "hrm_text"}, "two stacks of blocks"),
        ({"model_type": "t5", "is_encoder_decoder": True}, "encoder-decoder"),
        ({"is_encoder_decoder": True, "architectures": ["BartForConditionalGeneration"]}, "encoder-decoder"),
    ],
)
def test_others_are_refused_in_one_sentence(config: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^org/model cannot be certified: [^.]*{why}[^.]*\.$"):
        require_suited("org/model", config)


def test_a_session_with_one_does_not_begin(tmp_path: Path) -> None:
    run = small_run("llama", tmp_path)
    file = tmp_path / "llama" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "prophetnet"}))
    with pytest.raises(ConfigurationError, match="predicts several tokens at a time"):
        prepare_model(run, run.suite.models[0])
