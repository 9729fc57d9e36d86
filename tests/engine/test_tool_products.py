"""What becomes of a tool that fails, of one that does something else, and of a disk that is too small."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import TorchAoConfig

from pytest_proofpack.common.files import Space
from pytest_proofpack.engine import tool_checks, tool_products
from pytest_proofpack.engine.tool_checks import needed_bytes, require_tools
from pytest_proofpack.engine.workbench import Workbench
from pytest_proofpack.errors import ConfigurationError, EvaluationError
from pytest_proofpack.plan.records import Category, Scenario, Strictness, ToolEdit
from pytest_proofpack.plan.tool_edits import TOOLS, Recipe, Tool, ToolJob
from pytest_proofpack.runs.run import Run
from tests.support.small_runs import small_run

EDIT = ToolEdit("acme", "eight", None, "torchao:int8wo")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of one certificate, by a tool that tests register."""
    planned = small_run("llama", tmp_path_factory.mktemp("run"))
    scenario = Scenario("eight", Category.CLEAN, Strictness.MUST_PASS, edit_spec="tool:acme:eight")
    request = replace(planned.plan.requests[0], id="eight", scenario=scenario, edit=EDIT)
    planned.out.joinpath("state").mkdir(parents=True)
    planned.out.joinpath("state/run.json").touch()
    return replace(planned, plan=replace(planned.plan, requests=(request,)))


@pytest.fixture(scope="module")
def bench(run: Run) -> Workbench:
    return Workbench(run)


@pytest.fixture
def acme() -> Iterator[Callable[[Callable[[ToolJob], None]], None]]:
    """Register a tool that does what it is given."""

    def register(make: Callable[[ToolJob], None]) -> None:
        TOOLS.register(Tool("acme", "torchao", (Recipe("eight", EDIT.label, "int8wo", "torchao"),), make))

    yield register
    TOOLS.unregister("acme")


def save(job: ToolJob, quantization: object | None = None) -> None:
    job.load(quantization).save_pretrained(job.target)


def fail(_job: ToolJob) -> None:
    raise ValueError("no idea what this is")


def spare_everything(job: ToolJob) -> None:
    from torchao.quantization import Int8WeightOnlyConfig

    names: Any = ["model", "lm_head"]
    save(job, TorchAoConfig(quant_type=Int8WeightOnlyConfig(), modules_to_not_convert=names))


@pytest.mark.parametrize(
    ("make", "mentions"),
    [
        (
            fail,
            r"^tool:acme:eight: acme can't quantize llama \(ValueError: no idea what this is\). Choose another recipe",
        ),
        (lambda _job: None, "config.json"),
        (save, "the installed torchao left a checkpoint that calls itself None in the form 'safetensors'"),
        (spare_everything, "acme changed no weight of llama"),
    ],
)
def test_a_tool_that_does_not_do_what_it_should(
    run: Run,
    bench: Workbench,
    acme: Callable[[Callable[[ToolJob], None]], None],
    *,
    make: Callable[[ToolJob], None],
    mentions: str,
) -> None:
    acme(make)
    (request,) = run.requests
    with pytest.raises((EvaluationError, ConfigurationError), match=mentions):
        bench.checkpoint(request, bench.baseline(request))
    assert [path for path in run.out.iterdir() if path.name != "state"] == []


def test_what_is_made_is_there_as_long_as_it_is_needed(
    run: Run, bench: Workbench, acme: Callable[[Callable[[ToolJob], None]], None]
) -> None:
    acme(lambda job: TOOLS["torchao"].make(replace(job, recipe=replace(job.recipe, name="int8wo"))))
    (request,) = run.requests
    made = bench.checkpoint(request, bench.baseline(request))
    assert made.made_seconds is not None
    (folder,) = run.out.glob(".tool.*.tmp")
    assert sorted(path.name for path in (folder / "quantized").iterdir())[0] == "config.json"
    assert str(folder) not in (folder / "quantized/config.json").read_text()
    assert bench.checkpoint(request, bench.baseline(request)) is made
    bench.close()
    assert not folder.exists()


def test_a_disk_that_is_too_small_is_told_with_numbers(
    run: Run,
    bench: Workbench,
    acme: Callable[[Callable[[ToolJob], None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    acme(save)
    (request,) = run.requests
    baseline, needed = bench.baseline(request), needed_bytes(request.model)
    for module in (tool_checks, tool_products):
        monkeypatch.setattr(module, "free_space", lambda _path: Space(needed - 1, 1000))
    with pytest.raises(EvaluationError, match=r"has .*B left, and what acme makes of llama may need .*B. Make room"):
        bench.checkpoint(request, baseline)
    with pytest.raises(ConfigurationError, match=r"--proofpack-out: .*B left, .*may need .*B \(1 at the same time\)"):
        require_tools(run, "cpu", processes=8)


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    for name in (".tool.abcdefgh.tmp", "reports"):
        (tmp_path / name / "quantized").mkdir(parents=True)
    tool_checks.remove_products(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]
