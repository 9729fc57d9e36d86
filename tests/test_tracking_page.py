"""The recipes of docs/tracking.md, run as they stand there, with stand-ins for the trackers that note what they get."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pytest_proofpack import load_pack
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.write import PackRequest, PackResult, write_pack
from pytest_proofpack.plugin import hookspecs
from tests.results.conftest import few_scenarios
from tests.support.certificates import make_run_directory

PAGE = Path(__file__).resolve().parents[1] / "docs/tracking.md"
FACTS = {"commit": "0123abc"}
NAMES = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What Weights & Biases asks of a metric's name, which the two others take too."""

LONGEST = 20
"""Lines that a recipe may have, blank ones not counted."""


class Received:
    """What a tracker was given in one run of its own."""

    def __init__(self) -> None:
        self.facts: dict[str, str] = {}
        self.numbers: dict[str, float] = {}
        self.artifacts: list[tuple[Path, str]] = []
        self.open = False
        self.runs = 0

    def __enter__(self) -> Received:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def begin(self, facts: Mapping[str, str]) -> Received:
        assert not self.open
        self.open, self.facts, self.runs = True, dict(facts), self.runs + 1
        return self

    def finish(self) -> None:
        assert self.open
        self.open = False

    def log(self, numbers: Mapping[str, float]) -> None:
        assert self.open
        for name, number in numbers.items():
            assert NAMES.fullmatch(name), name
            assert type(number) is float, name
            assert math.isfinite(number), name
        assert not self.numbers.keys() & numbers.keys(), "an earlier number is lost"
        self.numbers |= numbers

    def keep(self, directory: str | Path, name: str) -> None:
        assert self.open
        self.artifacts.append((Path(directory), name))


def stand_in(tracker: str, received: Received) -> ModuleType:
    """Return a module with the functions that a recipe calls, with their names and parameters."""

    @contextmanager
    def start_run(*, tags: dict[str, str]) -> Iterator[None]:
        received.begin(tags)
        yield
        received.finish()

    def init(*, project: str, config: dict[str, str]) -> Received:
        assert project == "proofpack"
        return received.begin(config)

    def log_artifact(artifact_or_path: str | Path, name: str, type: str) -> None:  # noqa: A002 - theirs
        assert type == "proof-pack"
        received.keep(artifact_or_path, name)

    functions: dict[str, dict[str, Any]] = {
        "mlflow": {"start_run": start_run, "log_metrics": received.log, "log_artifacts": received.keep},
        "trackio": {"init": init, "log": received.log, "log_artifact": log_artifact, "finish": received.finish},
        "wandb": {"init": init},  # what it returns has the others
    }
    module = ModuleType(tracker)
    vars(module).update(functions[tracker])
    setattr(received, "log_artifact", log_artifact)  # noqa: B010 - typed
    return module


def recipes() -> dict[str, str]:
    """Return the page's modules by the file that their first line names."""
    blocks = re.findall(r"^```python\n(# (log_to_\w+)\.py\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return {name: block for block, name in blocks}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> PackResult:
    """A pack as a session hands it to the hook; of one certificate no number is finite."""
    folder = tmp_path_factory.mktemp("tracked")
    shifts = {"nan_injection": math.nan}
    run = make_run_directory(folder / "run", scenarios=few_scenarios(), shifts=shifts).directory
    return write_pack(PackRequest(run, folder / "proof_pack", sign=SigningMode.OFF, html=False, meta=FACTS))


@pytest.fixture(params=("mlflow", "trackio", "wandb"))
def tracker(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def received(tracker: str, monkeypatch: pytest.MonkeyPatch) -> Received:
    received = Received()
    monkeypatch.setitem(sys.modules, tracker, stand_in(tracker, received))
    return received


@pytest.fixture
def session(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.PytestPluginManager:
    """A session's hooks with the recipe as a plugin, found and read as by ``-p``."""
    recipe = f"log_to_{tracker}"
    (tmp_path / f"{recipe}.py").write_text(recipes()[recipe])
    monkeypatch.syspath_prepend(tmp_path)
    manager = pytest.PytestPluginManager()
    manager.add_hookspecs(hookspecs)
    monkeypatch.setitem(sys.modules, recipe, ModuleType("of another test"))
    monkeypatch.delitem(sys.modules, recipe)
    manager.import_plugin(recipe)
    manager.check_pending()
    return manager


def test_the_page_has_a_short_recipe_for_each() -> None:
    assert list(recipes()) == ["log_to_mlflow", "log_to_trackio", "log_to_wandb"]
    for name, recipe in recipes().items():
        assert len([line for line in recipe.splitlines() if line.strip()]) <= LONGEST, name


def test_what_was_certified_reaches_the_tracker(
    session: pytest.PytestPluginManager, received: Received, written: PackResult
) -> None:
    session.hook.pytest_proofpack_verdict(verdict={}, pack=written)
    assert (received.runs, received.open) == (1, False)
    assert received.facts == {"verdict": written.verdict, **FACTS}
    assert received.artifacts == [(written.directory, "proof_pack")]

    pack = load_pack(written.directory)
    (mild,) = (one.document for one in pack.certificates if one.scenario == "quant_4bit_clean")
    low, high = mild["primary_metric"]["display_ci"]
    assert 1 < low < high
    assert _of(received, "quant_4bit_clean") == {
        "ratio": mild["primary_metric"]["ratio_vs_baseline"],
        "low": low,
        "high": high,
        "kl": mild["distribution"]["kl_mean"],
        "passed": 1.0,
    }
    assert _of(received, "prune_50pct_stress")["passed"] == 0.0
    assert sum(name.startswith("passed_") for name in received.numbers) == len(pack.certificates)


def test_what_is_not_finite_is_not_sent(
    session: pytest.PytestPluginManager, received: Received, written: PackResult
) -> None:
    session.hook.pytest_proofpack_verdict(verdict={}, pack=written)
    (broken,) = (one for one in load_pack(written.directory).certificates if one.scenario == "nan_injection")
    assert (broken.ratio, broken.interval) == (None, None)
    assert not {"ratio", "low", "high"} & _of(received, "nan_injection").keys()
    assert _of(received, "nan_injection")["passed"] == 0.0


def test_without_a_pack_no_run_is_begun(session: pytest.PytestPluginManager, received: Received) -> None:
    session.hook.pytest_proofpack_verdict(verdict={}, pack=None)
    assert received.runs == 0


def _of(received: Received, scenario: str) -> dict[str, float]:
    ending = f"_acme_Tiny_1M_{scenario}_1"
    return {name.removesuffix(ending): number for name, number in received.numbers.items() if name.endswith(ending)}
