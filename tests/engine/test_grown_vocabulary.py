"""A checkpoint whose vocabulary grew: its common rows are compared by every guard, and nobody can lie about it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.workbench import Workbench
from tests.support.edited_checkpoints import Tensors, edited_copy
from tests.support.subject_runs import certificate_of, subject_run

pytestmark = pytest.mark.slow

EMBED = "model.embed_tokens.weight"


def grow(tensors: Tensors) -> None:
    """Add rows as resize_token_embeddings does, near the mean, and train the others a little."""
    rows = tensors[EMBED]
    added = rows.mean(dim=0) + 0.01 * torch.randn(64, rows.shape[1], generator=torch.Generator().manual_seed(0))
    tensors[EMBED] = torch.cat((rows * 1.001, added)).contiguous()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> JsonObject:
    folder = tmp_path_factory.mktemp("grown")
    subject = edited_copy(folder / "subject", grow, vocab_size=1088)
    run = subject_run(folder, "subject")
    run = replace(run, suite=replace(run.suite, runs={**run.suite.runs, "calibration": 0}))  # nothing asks for it here
    return certificate_of(run, Workbench(run).baseline(run.requests[-1]), subject)


def test_it_warns_once_and_its_rows_are_compared(certificate: JsonObject) -> None:
    assert certificate["outcome"] == {"passed": True, "failed_gates": [], "warnings": ["invariants"], "signals": []}
    (violation,) = certificate["invariants"]["violations"]
    assert (violation["kind"], violation["severity"], violation["names"]) == ("vocabulary_grown", "warning", [EMBED])
    changes = certificate["structure"]["changes"]
    state = dict(zip(changes["tensors"]["name"], changes["tensors"]["state"], strict=True))
    assert (state[EMBED], changes["reshaped"]) == ("changed", [EMBED])
    assert certificate["structure"]["summary"]["families"]["embed"]["relative_change"] == pytest.approx(0.001, rel=1e-3)
    matrices = certificate["spectral"]["matrices"]
    row = matrices["name"].index(EMBED)
    assert matrices["sigma"][row] == pytest.approx(1.001 * matrices["sigma_base"][row], rel=1e-4)
    tables = certificate["direction"]["tables"]
    assert (tables[EMBED]["rows"], certificate["direction"]["not_compared"]) == (1024, [])


def hide(certificate: Any) -> None:
    certificate["structure"]["changes"]["reshaped"] = []


def no_longer_in_spectra(certificate: Any) -> None:
    certificate["spectral"]["reshaped"] = []


def another_tensor(certificate: Any) -> None:
    certificate["structure"]["changes"]["reshaped"] = ["model.layers.0.mlp.up_proj.weight"]


def another_kind(certificate: Any) -> None:
    certificate["invariants"]["violations"][0].update(kind="shape", severity="fatal")


@pytest.mark.parametrize(
    ("lie", "finding"),
    [
        (hide, "structure.changes.reshaped: is not the tables of a vocabulary that grew"),
        (no_longer_in_spectra, "spectral.reshaped: names nothing"),
        (another_tensor, "was compared, though its shapes differ"),
        (another_kind, "the list of violations contradicts the vocabulary sizes"),
    ],
)
def test_a_lie_is_found(certificate: JsonObject, lie: Callable[[Any], None], finding: str) -> None:
    forged = copy.deepcopy(certificate)
    lie(forged)
    findings = check_certificate(finish_certificate(forged))
    assert any(finding in own for own in findings), findings
