"""The direction gate on whole certificates: edited in memory and loaded, good and harmful, and verified again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.prepared import prepare_model
from pytest_proofpack.runs.run import Run, resolve_run
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import Tensors, edited_copy
from tests.support.small_runs import on_few_windows
from tests.support.subject_runs import certificate_of, subject_run

LAYER = "model.layers.{}."
OUTPUT = LAYER + "self_attn.o_proj.weight"
EMBEDDING = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("direction")
    edited_copy(folder / "custom")
    return subject_run(folder, "custom")


@pytest.fixture(scope="module")
def baseline(run: Run) -> Baseline:
    return load_baseline(run, prepare_model(run, run.suite.models[0]))


def exchange_rows(tensors: Tensors) -> None:
    tensors[EMBEDDING][[5, 700]] = tensors[EMBEDDING][[700, 5]]


def transpose(tensors: Tensors) -> None:
    tensors[OUTPUT.format(2)] = tensors[OUTPUT.format(2)].T.contiguous()


def permute_neurons(tensors: Tensors) -> None:
    for index in range(5):
        names = [LAYER.format(index) + f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
        order = torch.randperm(len(tensors[names[0]]), generator=torch.Generator().manual_seed(index))
        for name in names[:2]:
            tensors[name] = tensors[name][order]
        tensors[names[2]] = tensors[names[2]][:, order].contiguous()


def test_a_transposed_matrix_fails_a_gate_of_its_own(run: Run, baseline: Baseline, tmp_path: Path) -> None:
    certificate = certificate_of(run, baseline, edited_copy(tmp_path / "custom", transpose))
    assert "direction_kept" in certificate["outcome"]["failed_gates"]
    assert "direction" in certificate["outcome"]["signals"]
    assert certificate["direction"]["lost_names"] == [OUTPUT.format(2)]


def test_exchanged_rows_are_named_by_their_tokens(run: Run, baseline: Baseline, tmp_path: Path) -> None:
    certificate = certificate_of(run, baseline, edited_copy(tmp_path / "custom", exchange_rows))
    assert certificate["validation"]["direction_kept"] is False
    direction = certificate["direction"]
    texts = {identifier: text for text, identifier in baseline.prepared.tokenizer.get_vocab().items()}
    table = direction["tables"][EMBEDDING]
    assert (table["changed"], table["exchanged"], direction["mixed_up"]) == (2, 2, [EMBEDDING])
    assert [(row["row"], row["token"], row["like_token"]) for row in table["worst"]] == [
        (5, texts[5], texts[700]),
        (700, texts[700], texts[5]),
    ]


def test_permuted_neurons_turn_every_matrix_and_lose_none(run: Run, baseline: Baseline, tmp_path: Path) -> None:
    certificate = certificate_of(run, baseline, edited_copy(tmp_path / "custom", permute_neurons))
    assert certificate["outcome"] == {"passed": True, "failed_gates": [], "warnings": [], "signals": []}
    direction = certificate["direction"]
    assert (direction["turned"], direction["lost"]) == (15, 0)
    assert direction["response_min"] == pytest.approx(1.0, abs=1e-4)


def test_an_edit_in_memory_is_compared_with_what_it_replaced(tmp_path: Path) -> None:
    settings = replace(DEFAULTS, suite="tiny", no_pack=True, sign="off", out=str(tmp_path / "run"))
    run = on_few_windows(resolve_run(settings))
    baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
    found = {}
    for name in ("quant_4bit_clean", "shape_mismatch"):
        request = next(request for request in run.requests if request.scenario.id == name)
        with edited_subject(run, baseline, request) as subject:
            found[name] = certify(run, subject)
        assert check_certificate(found[name]) == []
        assert found[name]["validation"]["direction_kept"] is True
    certificate = found["quant_4bit_clean"]
    assert certificate["direction"]["compared"] == len(certificate["structure"]["parameters_changed"])
    assert 0.9 < certificate["direction"]["cosine_min"] < 1.0
