"""Memory that runs out: the item says what it asked for and what there is, and the next one is as if nothing was."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.edits import apply
from pytest_proofpack.engine.certify import certify
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import EvaluationError
from pytest_proofpack.plan.edit_kinds import EDITS
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plugin.making import Making, shortage_told
from tests.support.small_runs import small_run

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB of which 1.20 GiB is free."
)


def make(bench: Workbench, request: CertificateRequest) -> JsonObject:
    making = Making(bench, request)
    with making.edited(making.baseline()) as subject:
        return certify(bench.run, subject)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError(CUDA),
            r"of the device ran out: 2\.5 GiB more were asked for, and 1\.20 GiB of 79\.10 GiB were free\. Use",
        ),
        (MemoryError(), r"of the host ran out: [0-9.]+ GiB of [0-9.]+ GiB are free now \("),
    ],
    ids=["device", "host"],
)
def test_in_the_middle_of_an_edit(error: Exception, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Workbench(small_run("llama", tmp_path))
    request = next(request for request in bench.run.requests if request.edit_name == "quant_rtn")
    usual = make(bench, request)
    kind = EDITS["quant_rtn"]

    def half(views: Any, parameters: Any, seed: int) -> Any:
        kind.apply(views[: len(views) // 2], parameters, seed)
        raise error

    monkeypatch.setattr(apply, "EDITS", {"quant_rtn": replace(kind, apply=half)})
    with pytest.raises(EvaluationError, match=told) as caught:
        make(bench, request)
    assert "window" not in str(caught.value)
    monkeypatch.undo()
    assert make(bench, request)["certificate_digest"] == usual["certificate_digest"]


LIMITED = """
import resource, torch
from pathlib import Path
from pytest_proofpack.common.shortage import what_ran_out
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    torch.empty(2**31, dtype=torch.uint8)
except RuntimeError as error:
    print(what_ran_out(error))
"""


def test_a_limit_on_the_address_space() -> None:
    result = subprocess.run([sys.executable, "-c", LIMITED], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("memory of the host ran out: 2.0 GiB more were asked for, and ")


class TestDroppedForWhatComesNext:
    """A step that ran out of memory leaves none of the model behind, whoever said that it did."""

    class Bench:
        released = False

        def release(self) -> None:
            self.released = True

    def fails_with(self, error: Exception, cause: Exception | None) -> tuple[bool, str]:
        bench, request = self.Bench(), SimpleNamespace(id="item")
        with (
            pytest.raises(EvaluationError) as caught,
            shortage_told(cast("Workbench", bench), cast("CertificateRequest", request)),
        ):
            raise error from cause
        return bench.released, str(caught.value)

    def test_the_device_ran_out(self) -> None:
        released, told = self.fails_with(torch.OutOfMemoryError(CUDA), None)
        assert released
        assert told.startswith("item: memory of the device ran out")

    def test_a_forward_pass_ran_out_and_has_said_so(self) -> None:
        said = EvaluationError("llama: the forward pass failed: memory of the device ran out")
        assert self.fails_with(said, torch.OutOfMemoryError(CUDA)) == (True, str(said))

    def test_nothing_ran_out(self) -> None:
        said = EvaluationError("llama: its losses are not finite")
        assert self.fails_with(said, None) == (False, str(said))
