"""Loading edited checkpoints beside their baseline: with room for both and without, with a tokenizer of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine import edited_checkpoint as subjects
from pytest_proofpack.engine.certify import certify, loaded_subject
from pytest_proofpack.engine.prepared import prepare_subject
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.run import Run
from tests.support.edited_checkpoints import Tensors, edited_copy, quantize
from tests.support.small_runs import on_few_windows
from tests.support.subject_runs import subject_run


def name_tokens(directory: Path, **special: str | int) -> Path:
    """Give a checkpoint a tokenizer with special tokens of its own: the name of a new one, or the id of an old one."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.add_special_tokens(
        {key: tokenizer.convert_ids_to_tokens(one) if isinstance(one, int) else one for key, one in special.items()}
    )
    tokenizer.save_pretrained(directory)
    return directory


def quantize_and_tune(tensors: Tensors) -> None:
    """Round, and train on: a little of everything that was rounded moves off its grid."""
    quantize(tensors)
    for name in [name for name in tensors if ".mlp." in name]:
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(tensors[name].shape, generator=generator)
        tensors[name] = tensors[name] + noise * tensors[name].std() * 0.01


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("subjects")
    edited_copy(folder / "edited" / "quant_rtn", quantize)
    name_tokens(edited_copy(folder / "edited" / "tokens"), eos_token=700)
    edited_copy(folder / "edited" / "tuned-quant_rtn", quantize_and_tune)
    edited_copy(folder / "edited" / "copy-pruned", dtype="float32")
    return subject_run(folder, "edited")


@pytest.fixture(scope="module")
def bench(run: Run) -> Workbench:
    return Workbench(run)


def request_for(run: Run, scenario: str) -> CertificateRequest:
    return next(request for request in run.requests if request.scenario.id == scenario)


def certificate_of(run: Run, bench: Workbench, scenario: str) -> JsonObject:
    request = request_for(run, scenario)
    baseline = bench.baseline(request)
    return certify(run, loaded_subject(run, baseline, request, bench.checkpoint(request, baseline)))


def test_without_room_for_both_the_baseline_makes_way(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run = on_few_windows(run)
    with_room = certificate_of(run, Workbench(run), "quant_rtn")
    assert with_room["structure"]["changes"]["source"] == "memory"

    monkeypatch.setattr(subjects, "_has_room", lambda _device, _spec: False)
    tight = Workbench(run)
    without = certificate_of(run, tight, "quant_rtn")
    request = request_for(run, "quant_rtn")
    assert tight.baseline(request).released
    assert without["structure"]["changes"].pop("source") == "files"
    assert check_certificate(with_room) == []
    for certificate in (with_room, without):
        certificate["structure"]["changes"].pop("source", None)
        for key in ("volatile", "certificate_digest"):
            certificate.pop(key)
    assert json.dumps(without, sort_keys=True) == json.dumps(with_room, sort_keys=True)

    again = tight.baseline(request_for(run, "calibration"))
    assert not again.released, "an item that edits the baseline in place needs its weights"


def test_a_subject_stays_loaded_for_its_next_draw(run: Run, bench: Workbench) -> None:
    request = request_for(run, "quant_rtn")
    baseline = bench.baseline(request)
    first = bench.checkpoint(request, baseline)
    assert bench.checkpoint(replace(request, run=2), baseline) is first
    assert bench.checkpoint(request_for(run, "tokens"), baseline) is not first


def test_a_tokenizer_of_its_own_is_a_warning(run: Run, bench: Workbench) -> None:
    certificate = certificate_of(run, bench, "tokens")
    (violation,) = certificate["invariants"]["violations"]
    assert (violation["kind"], violation["severity"]) == ("tokenizer", "warning")
    assert certificate["outcome"]["passed"] is True
    assert certificate["outcome"]["warnings"] == ["invariants", "generation"]
    (difference,) = certificate["generation"]["differences"]
    assert (difference["file"], difference["key"]) == ("tokenizer_config.json", "eos_token")
    assert (difference["baseline"], difference["subject"]) == ("<|endoftext|>", "Ġbum")
    assert certificate["invariants"]["baseline"]["tokenizer"] == certificate["meta"]["tokenizer_hash"]
    assert check_certificate(certificate) == []


@pytest.mark.slow
class TestLabel:
    def test_one_that_holds(self, run: Run, bench: Workbench) -> None:
        certificate = certificate_of(run, bench, "quant_rtn")
        label = certificate["label"]
        assert (label["evaluated"], label["holds"], label["binding"]) == (True, True, True)
        assert certificate["outcome"]["passed"]

    def test_one_that_does_not_is_no_edit_of_its_name(self, run: Run, bench: Workbench) -> None:
        certificate = certificate_of(run, bench, "tuned-quant_rtn")
        assert certificate["outcome"]["failed_gates"] == ["label_holds"]
        assert all("labelled quant_rtn, but " in finding for finding in certificate["label"]["findings"])
        assert check_certificate(certificate) == []
        certificate["label"]["tensors"]["stray"] = [0] * len(certificate["label"]["tensors"]["stray"])
        certificate["label"]["tensors"]["off_grid"] = [0] * len(certificate["label"]["tensors"]["stray"])
        assert "label.holds: recorded False, recomputed True" in check_certificate(certificate)

    def test_a_copy_that_a_word_of_its_name_calls_an_edit_warns(self, run: Run, bench: Workbench) -> None:
        certificate = certificate_of(run, bench, "copy-pruned")
        assert certificate["outcome"]["passed"]
        assert certificate["outcome"]["warnings"] == ["label"]
        (finding,) = certificate["label"]["findings"]
        assert finding == "labelled magnitude_prune, but no value differs from the baseline's"


class TestPrepare:
    def test_a_tokenizer_is_not_needed(self, run: Run, bench: Workbench, tmp_path: Path) -> None:
        directory = edited_copy(tmp_path / "bare")
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (directory / name).unlink()
        request = request_for(run, "quant_rtn")
        assert request.subject is not None
        spec = replace(request.subject, path=directory)
        assert prepare_subject(spec, bench.inputs.prepare(request.model)).tokenizer_hash is None

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"vocab_size": 1000}, "the text holds the token .* but the model's vocabulary has only 1000 entries"),
            ({"max_position_embeddings": 64}, "windows of 128 tokens do not fit its context of 64"),
        ],
    )
    def test_windows_have_to_fit(
        self, run: Run, bench: Workbench, tmp_path: Path, config: dict[str, int], message: str
    ) -> None:
        request = request_for(run, "quant_rtn")
        assert request.subject is not None
        spec = replace(request.subject, path=edited_copy(tmp_path / "small", lambda _: None, **config))
        with pytest.raises(ConfigurationError, match=message):
            prepare_subject(spec, bench.inputs.prepare(request.model))

    @pytest.mark.parametrize(
        ("special", "message"),
        [({"pad_token": "[PAD]"}, None), ({"eos_token": "[END]"}, "end-of-text token has the id 1024")],
    )
    def test_tokens_of_its_own_without_an_embedding(
        self, run: Run, bench: Workbench, tmp_path: Path, special: dict[str, str], message: str | None
    ) -> None:
        """They are named, and refused only where every document would end with one."""
        request = request_for(run, "quant_rtn")
        assert request.subject is not None
        spec = replace(request.subject, path=name_tokens(edited_copy(tmp_path / "more"), **special))
        baseline = bench.inputs.prepare(request.model)
        if message is None:
            (warning,) = prepare_subject(spec, baseline).warnings
            assert "no embedding for: '[PAD]' (1024)" in warning
        else:
            with pytest.raises(ConfigurationError, match=message):
                prepare_subject(spec, baseline)
