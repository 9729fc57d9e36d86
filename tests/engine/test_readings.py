"""Two readings of quantized checkpoints, made by the real tools: losses as they run, weights as they are worth."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.certificate.explain import remarks
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.certify import certify, loaded_subject
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.models.quiet import quiet
from pytest_proofpack.runs.run import Run
from tests.support.packed_checkpoints import Packing, packed_copy
from tests.support.quantized_checkpoints import (
    bitsandbytes_copy,
    blockwise_base,
    compressed_tensors_copy,
    four_bits_with_activations,
    torchao_copy,
)
from tests.support.subject_runs import subject_run

pytestmark = pytest.mark.slow  # certifies five models

LABELS = {
    "int4": "torchao:int8dyn-int4w",
    "nf4": "bnb-nf4",
    "w8a8": "compressed-tensors:W8A8",
    "w4a16-asym": "compressed-tensors:W4A16_ASYM",
    "gptq": "gptq",
}
"""Name of each subject, and what its files say that its edit is called."""
WEIGHTS_ONLY = {"w4a16-asym": "compressed-tensors", "gptq": "pytest-proofpack"}
"""Those of which losses too are the dequantized weights', and what unpacks them."""
TWINS, WEIGHTS = "twins", "model.safetensors"
"""Where dense models lie whose weights are what packed ones are worth, of which plain transformers makes none."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("readings")
    base, subjects = blockwise_base(folder / "base"), folder / "subjects"
    torchao_copy(subjects / "int4", four_bits_with_activations(), base)
    bitsandbytes_copy(subjects / "nf4", base, load_in_4bit=True, bnb_4bit_quant_type="nf4")
    compressed_tensors_copy(subjects / "w8a8", "W8A8", base)
    compressed_tensors_copy(subjects / "w4a16-asym", "W4A16_ASYM", base, group_size=32)
    worth = packed_copy(subjects / "gptq", Packing(symmetric=False, shuffled=True), base, dtype=torch.bfloat16)
    twin = shutil.copytree(base, folder / TWINS / "gptq")
    save_file(load_file(base / WEIGHTS) | {name: own.bfloat16() for name, own in worth.items()}, twin / WEIGHTS)
    return subject_run(folder, "subjects", baseline=base)


@pytest.fixture(scope="module")
def bench(run: Run) -> Workbench:
    return Workbench(run)


@pytest.fixture(scope="module")
def certificates(run: Run, bench: Workbench) -> dict[str, JsonObject]:
    made = {}
    for request in run.requests:
        if request.subject is not None:
            baseline = bench.baseline(request)
            subject = loaded_subject(run, baseline, request, bench.checkpoint(request, baseline))
            made[request.scenario.id] = certify(run, subject)
    return made


def own_loss(directory: Path, windows: torch.Tensor) -> float:
    """Return the mean loss by plain transformers: the model as anybody loads it."""
    with quiet():
        model = AutoModelForCausalLM.from_pretrained(directory, dtype="auto", device_map="cpu")
    total = 0.0
    with torch.no_grad():
        for batch in torch.split(windows, 16):
            logits = model(input_ids=batch).logits[:, :-1].float()
            total += cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum").item()
    return total / (windows.shape[0] * (windows.shape[1] - 1))


@pytest.fixture(scope="module")
def own_ratio(run: Run, bench: Workbench) -> Callable[[str], float]:
    """Return the perplexity ratio of a subject, computed with plain transformers on the certificate's windows."""
    prepared = bench.inputs.prepare(run.requests[0].model)
    final = torch.from_numpy(prepared.text.draw(1).final.astype("int64"))
    directory = prepared.spec.path
    assert directory is not None
    base = own_loss(directory, final)
    of_twins = directory.parent / TWINS
    found = {
        name: (of_twins if (of_twins / name).is_dir() else directory.parent / "subjects") / name for name in LABELS
    }
    return lambda name: math.exp(own_loss(found[name], final) - base)


def test_each_is_labelled_by_its_files_and_verifies(certificates: dict[str, JsonObject]) -> None:
    assert {name: own["provenance"]["edit"]["type"] for name, own in certificates.items()} == LABELS
    assert {own["label"]["origin"] for own in certificates.values()} == {"files"}
    assert [finding for own in certificates.values() for finding in check_certificate(own)] == []


def test_good_products_of_the_tools_pass_every_gate(certificates: dict[str, JsonObject]) -> None:
    assert [name for name in LABELS if certificates[name]["outcome"]["failed_gates"]] == []
    found = {own["kind"] for name in LABELS for own in certificates[name]["invariants"]["violations"]}
    assert found <= {"layout"}  # which is of the baseline itself


def test_weights_are_compared_dense_by_the_baselines_names(certificates: dict[str, JsonObject]) -> None:
    for name in LABELS:
        summary = certificates[name]["structure"]["summary"]
        assert (summary["parameters"], summary["changed"], summary["not_compared"]) == (47, 35, 0), name
        assert summary["added"] == summary["removed"] == summary["reshaped"] == 0, name
        least, most = (0.004, 0.01) if name == "w8a8" else (0.05, 0.15)
        assert all(least < summary["families"][family]["relative_change"] < most for family in ("attn", "ffn")), name


def test_what_was_read_how_is_said(certificates: dict[str, JsonObject]) -> None:
    for name, own in certificates.items():
        readings = own["readings"]
        losses = "dequantized" if name in WEIGHTS_ONLY else "as_run"
        assert (readings["losses"], readings["weights"]) == (losses, "dequantized"), name
        assert ("weights_only" in own["outcome"]["warnings"]) is (name in WEIGHTS_ONLY)
    for name, package in WEIGHTS_ONLY.items():
        said = f"{name}: weights only: losses too are those of the dequantized weights, unpacked by {package}"
        assert remarks(certificates[name])[-1].startswith(said)
    assert not any("weights only" in remark for remark in remarks(certificates["w8a8"]))


@pytest.mark.parametrize("name", [name for name in LABELS if name != "w4a16-asym"])
def test_the_ratio_is_that_of_plain_transformers(
    certificates: dict[str, JsonObject], own_ratio: Callable[[str], float], name: str
) -> None:
    assert certificates[name]["primary_metric"]["ratio_vs_baseline"] == pytest.approx(own_ratio(name), abs=1e-4)


@pytest.mark.parametrize(
    "forge",
    [
        lambda own: own["readings"].update(losses="dequantized"),
        lambda own: own["readings"].update(form="fp8"),
        lambda own: own["readings"].update(weights="as_run"),
        lambda own: own["readings"].update(quantization=None, weights="as_run", form="safetensors"),
        lambda own: own["readings"]["quantization"].update(label="compressed-tensors:W8A16"),
        lambda own: own["readings"]["quantization"].update(bits=400),
        lambda own: own["label"].update(origin="default"),
    ],
)
def test_a_reading_that_was_changed_is_found(
    certificates: dict[str, JsonObject], forge: Callable[[JsonObject], object]
) -> None:
    forged = copy.deepcopy(certificates["w8a8"])
    forge(forged)
    assert check_certificate(finish_certificate(forged))
