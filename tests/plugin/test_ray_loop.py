"""Who makes what in a cluster, and what becomes of an item whose process dies: with a cluster that is made up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plugin.making import REQUEST
from pytest_proofpack.plugin.ray_actor import Answer
from pytest_proofpack.plugin.ray_cluster import Event, RayCluster
from pytest_proofpack.plugin.ray_loop import RayLoop, carry_out
from pytest_proofpack.scheduling.assignment import Assignment
from pytest_proofpack.scheduling.costs import Costs, Job, Load


class MadeUpCluster:
    """Answers at once; ``fate`` says what becomes of an item in a slot: ``made``, or ``gone``."""

    def __init__(self, slots: int, fate: Callable[[str, int], str], start: str = "ready") -> None:
        self.slots = slots
        self.home = "node of ray0"
        self.made: list[tuple[str, int, tuple[str, ...]]] = []
        self.started: Counter[str] = Counter()
        self._fate = fate
        self._start = start
        self._events: list[Event] = []

    def start(self, slot: str) -> None:
        self.started[slot] += 1
        kind = cast("Any", self._start)
        self._events.append(Event(kind, slot, node=f"node of {slot}", why="there is no model here"))

    def make(self, slot: str, index: int, lenders: tuple[str, ...] = ()) -> None:
        self.made.append((slot, index, lenders))
        if self._fate(slot, index) == "made":
            self._events.append(Event("made", slot, number=index, answer=Answer(f"certificate {index}")))
        else:
            self._events.append(Event("gone", slot, number=index, why="its node died"))

    def release(self, slot: str) -> None:
        self._events.append(Event("released", slot))

    def events(self, _seconds: float) -> Iterator[Event]:
        events, self._events = self._events, []
        yield from events


class MadeUpLoop:
    """Keeps what is delivered and said."""

    def __init__(self, jobs: list[Job], loads: list[Load]) -> None:
        self._jobs = jobs
        self._loads = loads
        self.answers: dict[str, Answer] = {}
        self.said: list[str] = []

    def deliver(self, _session: object, item: Any, answer: Answer) -> None:
        self.answers[item.callspec.params[REQUEST].id] = answer

    def new_assignment(self, _indices: set[int], home: str) -> Assignment:
        return Assignment(self._jobs, Costs(self._loads), home)

    def say(self, line: str) -> None:
        self.said.append(line)


def run(cluster: MadeUpCluster, models: dict[str, int]) -> MadeUpLoop:
    """Have a cluster make so many items of every model."""
    names = [f"{model}-{number}" for model, count in models.items() for number in range(count)]
    jobs = [Job(index, name.partition("-")[0], "any", 1.0) for index, name in enumerate(names)]
    loop = MadeUpLoop(jobs, [Load(model, 10.0) for model in models])
    items = {
        index: SimpleNamespace(callspec=SimpleNamespace(params={REQUEST: SimpleNamespace(id=name)}))
        for index, name in enumerate(names)
    }
    carry_out(cast("RayLoop", loop), cast("pytest.Session", None), cast("RayCluster", cluster), cast("Any", items))
    assert loop.answers.keys() == set(names)
    return loop


def test_every_item_comes_once_and_a_process_keeps_its_model() -> None:
    cluster = MadeUpCluster(2, lambda _slot, _index: "made")
    loop = run(cluster, {"a": 4, "b": 4})

    assert sorted(index for _, index, _ in cluster.made) == list(range(8))
    assert {answer.text for answer in loop.answers.values()} == {f"certificate {index}" for index in range(8)}
    assert len({(slot, index // 4) for slot, index, _ in cluster.made}) == 2


@pytest.mark.parametrize(("patience", "before"), [(30.0, 0), (0.0, 1)])
def test_the_processes_of_the_beginning_are_waited_for_a_while(
    patience: float, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Late(MadeUpCluster):
        looks = 0
        made_alone = 0

        def events(self, seconds: float) -> Iterator[Event]:
            self.looks += 1
            late = [event for event in self._events if event.slot == "ray1"] if self.looks == 1 else []
            if self.looks == 2:
                self.made_alone = len(self.made)
            self._events = [event for event in self._events if event not in late]
            yield from super().events(seconds)
            self._events += late

    monkeypatch.setattr("pytest_proofpack.plugin.ray_loop._TOGETHER_SECONDS", patience)
    cluster = Late(2, lambda _slot, _index: "made")
    run(cluster, {"a": 3})
    assert cluster.made_alone == before


def test_no_more_processes_are_asked_for_than_there_are_items() -> None:
    cluster = MadeUpCluster(64, lambda _slot, _index: "made")
    run(cluster, {"a": 3})
    assert len(cluster.started) == 3


def test_a_process_that_dies_costs_its_item_only_and_is_replaced() -> None:
    deaths = iter(["gone"])
    cluster = MadeUpCluster(1, lambda _slot, index: next(deaths, "made") if index == 1 else "made")
    loop = run(cluster, {"a": 4})

    assert Counter(index for _, index, _ in cluster.made) == {0: 1, 1: 2, 2: 1, 3: 1}
    assert all(answer.failure is None for answer in loop.answers.values())
    assert cluster.started == {"ray0": 2}
    assert [line for line in loop.said if "a-1" in line] == [
        "Ray: the process of a-1 is gone (its node died); it is made again"
    ]


def test_an_item_that_ends_three_processes_fails_and_the_others_do_not() -> None:
    cluster = MadeUpCluster(2, lambda _slot, index: "gone" if index == 2 else "made")
    loop = run(cluster, {"a": 4})

    assert sum(index == 2 for _, index, _ in cluster.made) == 3
    failed = {name: answer.failure for name, answer in loop.answers.items() if answer.failure is not None}
    assert failed == {"a-2": "a-2: the processes that made it died 3 times, the last one: its node died"}


def test_where_no_process_can_make_anything_the_session_ends() -> None:
    cluster = MadeUpCluster(2, lambda _slot, _index: "made", start="unfit")
    with pytest.raises(ConfigurationError, match="no process of the cluster can make certificates"):
        run(cluster, {"a": 4})
    assert cluster.made == []


def test_what_a_cluster_does_not_do_is_refused(pytester: pytest.Pytester) -> None:
    options = ("--proofpack-suite=tiny", "--proofpack-ray=auto")
    for more, said in (
        (("-n2",), "*--proofpack-ray takes the place of workers: leave -n and --tx out."),
        (("--proofpack-mode=tune",), "*--proofpack-ray makes certificates: tune in a session without it*"),
    ):
        result = pytester.runpytest_inprocess(*options, *more)
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([said])
