"""A file that changes under a run: no certificate of it, and the next item is of what is there then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits import target
from pytest_proofpack.engine import baseline as baseline_module
from pytest_proofpack.engine.certify import certify, edited_subject
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.models.files import CheckpointFiles, changed_error
from pytest_proofpack.models.load import load_model
from pytest_proofpack.models.reading import CheckpointReading
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.run import Run
from pytest_proofpack.text.synthetic import generate
from tests.support.file_changes import CHANGES, append, overwrite
from tests.support.file_changes import replace as replace_file
from tests.support.small_runs import small_run

WEIGHTS = "model.safetensors"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = small_run("llama", tmp_path)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(document.text for document in generate(3, 40)))
    windows = replace(run.suite.windows, seq_len=32)
    spec = replace(run.suite.text, provider="local_text", path=text, documents=0, options={})
    return replace(run, suite=replace(run.suite, text=spec, windows=windows))


@pytest.fixture
def bench(run: Run) -> Workbench:
    return Workbench(run)


@pytest.fixture
def requests(run: Run) -> Iterator[CertificateRequest]:
    return iter([request for request in run.requests if request.edit_name in ("quant_rtn", "fp8_quant")])


def make(bench: Workbench, request: CertificateRequest, meanwhile: object = None) -> JsonObject:
    """Make a certificate as an item does."""
    baseline = bench.baseline(request)
    with edited_subject(bench.run, baseline, request) as subject:
        if callable(meanwhile):
            meanwhile()
        certificate = certify(bench.run, subject)
        bench.require_unchanged(request)
    return certificate


def model_of(bench: Workbench) -> Path:
    (model,) = bench.run.suite.models
    assert model.path is not None
    return model.path


def digest(certificate: JsonObject) -> object:
    return certificate["provenance"]["model_digest"]["baseline"]


@pytest.mark.parametrize(
    ("name", "change"),
    [(WEIGHTS, overwrite), (WEIGHTS, replace_file), ("config.json", partial(append, more=b"\n")), ("text.txt", append)],
    ids=["weights overwritten", "weights replaced", "config", "text"],
)
def test_between_items(
    bench: Workbench, requests: Iterator[CertificateRequest], name: str, change: Callable[[Path], None]
) -> None:
    first = make(bench, next(requests))
    path = model_of(bench)
    assert digest(first) == CheckpointFiles.at(path).digest
    change(path.parent / name if name == "text.txt" else path / name)
    with pytest.raises(EvaluationError, match=rf"{name}: changed on disk while it was in use"):
        make(bench, next(requests))
    anew = make(bench, next(requests))
    assert digest(anew) == CheckpointFiles.at(path).digest
    assert (digest(anew) != digest(first)) == (name != "text.txt")


@pytest.mark.parametrize("change", list(CHANGES))
def test_during_an_item(bench: Workbench, requests: Iterator[CertificateRequest], change: str) -> None:
    file = model_of(bench) / WEIGHTS
    with pytest.raises(EvaluationError, match=r"model\.safetensors: changed on disk while it was in use"):
        make(bench, next(requests), lambda: CHANGES[change](file))
    if change in ("overwritten", "replaced"):
        assert digest(make(bench, next(requests))) == CheckpointFiles.at(file.parent).digest


@pytest.mark.parametrize("change", list(CHANGES))
def test_before_load(bench: Workbench, requests: Iterator[CertificateRequest], change: str) -> None:
    request = next(requests)
    bench.inputs.prepare(request.model)
    CHANGES[change](model_of(bench) / WEIGHTS)
    with pytest.raises(EvaluationError, match=r"model\.safetensors: changed on disk"):
        make(bench, request)


def test_a_file_that_was_read_twice_and_differed_is_loaded_anew(
    bench: Workbench, requests: Iterator[CertificateRequest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its times may tell nothing of that, so that nobody else drops what was loaded."""
    request, hashed = next(requests), CheckpointReading.digest

    def differed(reading: CheckpointReading) -> str:
        monkeypatch.setattr(CheckpointReading, "digest", hashed)
        raise changed_error((reading.files.path / WEIGHTS,))

    monkeypatch.setattr(CheckpointReading, "digest", differed)
    with pytest.raises(EvaluationError, match=r"model\.safetensors: changed on disk"):
        make(bench, request)
    assert digest(make(bench, request)) == CheckpointFiles.at(model_of(bench)).digest
    assert bench.baseline(request).reading.digest() == CheckpointFiles.at(model_of(bench)).digest


@pytest.mark.parametrize("change", list(CHANGES))
def test_during_load_only_that_item_fails(
    bench: Workbench, requests: Iterator[CertificateRequest], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = model_of(bench) / WEIGHTS

    def disturbed(*given: object, **options: object) -> object:
        CHANGES[change](file)
        monkeypatch.setattr(baseline_module, "load_model", load_model)
        return load_model(*given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(baseline_module, "load_model", disturbed)
    with pytest.raises((EvaluationError, ConfigurationError), match=r"model\.safetensors"):
        make(bench, next(requests))
    if change in ("overwritten", "replaced"):
        assert digest(make(bench, next(requests))) == CheckpointFiles.at(file.parent).digest


@pytest.mark.parametrize("change", list(CHANGES))
def test_where_originals_are_read_from_files(
    bench: Workbench, requests: Iterator[CertificateRequest], change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "room_for_copies", lambda _device, _left_free: 0.0)
    file = model_of(bench) / WEIGHTS
    before = make(bench, next(requests))
    with pytest.raises(EvaluationError, match="changed on disk"):
        make(bench, next(requests), lambda: CHANGES[change](file))
    if change in ("overwritten", "replaced"):
        assert digest(make(bench, next(requests))) == CheckpointFiles.at(file.parent).digest != digest(before)
