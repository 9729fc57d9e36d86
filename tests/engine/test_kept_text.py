"""What ``--proofpack-keep-text`` makes a certificate hold: text of the windows that lost most, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.engine.baseline import load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from tests.support.small_runs import small_run


def test_text_is_kept_only_where_it_is_asked_for(tmp_path: Path) -> None:
    run = small_run("llama", tmp_path)
    keeping = replace(run, settings=replace(run.settings, keep_text=True))
    baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
    request = next(request for request in run.requests if request.scenario.id == "extreme_quant")
    with edited_subject(run, baseline, request) as subject:
        plain, kept = certify(run, subject), certify(keeping, subject)
        windows, tokenizer = subject.draw.windows, subject.baseline.prepared.tokenizer
    assert "kept_text" not in plain["dataset"]
    entries = kept["dataset"].pop("kept_text")
    assert kept["dataset"] == plain["dataset"]
    assert len(entries) == 5
    for entry in entries:
        tokens = windows.final[windows.final_ids.index(entry["window_id"])]
        text = tokenizer.decode(tokens.tolist())
        assert entry["text"] in (text, text[:1999] + "…")
    kept["dataset"]["kept_text"] = entries
    assert check_certificate(kept) == []
    files = list((tmp_path / "llama").glob("*.safetensors"))
    assert plain["meta"]["inputs"]["weight_bytes"] == {"baseline": sum(file.stat().st_size for file in files)}
