"""What a process keeps loaded, and what it does not try again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.engine import baseline
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.run import resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import edited_copy


def test_a_baseline_that_lost_a_norm_is_refused_and_not_loaded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "model.layers.1.input_layernorm.weight"
    model = edited_copy(tmp_path / "model", lambda tensors: tensors.pop(name))
    settings = replace(DEFAULTS, suite="tiny", model=(str(model),), no_pack=True, sign="off", out=str(tmp_path / "run"))
    run = resolve_run(settings)
    bench = Workbench(run)
    with pytest.raises(ConfigurationError, match=name):
        bench.baseline(run.requests[0])

    monkeypatch.setattr(baseline, "load_model", lambda *_args, **_kwargs: pytest.fail("loaded again"))
    with pytest.raises(ConfigurationError, match=name):
        bench.baseline(run.requests[1])
