"""Files that are odd, but no mistake: they are certified, and what is odd about them is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pytest_proofpack.certificate.check import check_certificate
from tests.plugin.conftest import SmallSuite, certificates
from tests.support.model_files import TOKENS, build_model_directory

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_sessions")]  # sessions that certify a model


def change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_odd_files_and_no_more_preview_windows_than_are_watched(pytester: pytest.Pytester, small: SmallSuite) -> None:
    """A class that is not the file's, a token beyond the embedding, a context by another name, few windows."""
    small.model.unlink()
    build_model_directory(small.model, "mpt", max_seq_len=64)
    change(small.model / "tokenizer_config.json", tokenizer_class="Qwen2Tokenizer", pad_token="[PAD]")  # noqa: S106 - no password
    small.write(("quant_4bit_clean",), extra="[limits]\nprimary_metric.min_tokens = 1000")
    small.suite.write_text(small.suite.read_text().replace("seq_len = 32", "preview = 8"))
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-runs=calibration:0,clean:1"
    )

    (certificate,) = certificates(pytester.path / "run").values()
    assert check_certificate(certificate) == []
    assert certificate["dataset"]["seq_len"] == 64
    assert len(certificate["evaluation_windows"]["preview"]["window_ids"]) == 8
    assert certificate["meta"]["inputs"]["attention"] == {"baseline": "eager", "subject": "eager"}
    assert certificate["meta"]["inputs"]["tokenizer"] == "tokenizer.json"
    assert "inputs" in certificate["outcome"]["warnings"]
    ignored, beyond = certificate["meta"]["inputs"]["warnings"]
    assert "Qwen2Tokenizer" in ignored
    assert f"no embedding for: '[PAD]' ({TOKENS});" in beyond
    result.stdout.fnmatch_lines(
        ["proofpack: warning: acme/small: *Qwen2Tokenizer*", "proofpack: warning: acme/small: *'[[]PAD]'*"]
    )
    page = next((pytester.path / "run").rglob("evaluation.html")).read_text()
    assert "tokens that the model has no embedding for" in page


def test_attention_that_config_json_asks_for_changes_no_number(
    pytester: pytest.Pytester, saved_model: Path, sample_text: Path
) -> None:
    """Equal weights differ in nothing, though transformers would compute them in two ways."""
    subject = shutil.copytree(saved_model, pytester.path / "eager")
    change(subject / "config.json", attn_implementation="eager", output_hidden_states=True)
    pytester.runpytest_subprocess(
        f"--proofpack-baseline={saved_model}",
        f"--proofpack-subject={subject}",
        f"--proofpack-text={sample_text}",
        "--proofpack-out=run",
    ).assert_outcomes(passed=3)

    (certificate,) = (one for folder, one in certificates(pytester.path / "run").items() if "eager" in folder)
    assert certificate["meta"]["inputs"]["attention"] == {"baseline": "sdpa", "subject": "sdpa"}
    assert certificate["primary_metric"]["ratio_vs_baseline"] == 1.0
    for side in certificate["evaluation_windows"].values():
        assert side["logloss"] == side["baseline_logloss"]
    assert certificate["invariants"]["violations"] == []
