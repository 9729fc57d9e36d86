"""Our scheduler and worker loop in real pytest-xdist sessions."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import xdist.remote

from pytest_proofpack.plugin.xdist_worker import fits

Pytester = pytest.Pytester
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def light(pytester: Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytester:
    """Return a directory with a test file whose items load nothing; see ``light_suite``."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.setenv("PACK_NO_FORK", "1")  # no item here needs what a forked worker has loaded
    pytester.makepyfile(
        test_items="""
        from tests.support.light_suite import perform

        def test_item(light_item, act):
            perform(act)
        """
    )
    return pytester


def items(**counts: int) -> list[str]:
    return [f"{load}-{number}" for load, count in counts.items() for number in range(count)]


def run(light: Pytester, *options: str, **document: Any) -> pytest.RunResult:
    (light.path / "light.json").write_text(json.dumps(document))
    (light.path / "events.txt").write_text("")
    return light.runpytest_subprocess("-p", "tests.support.light_suite", "-p", "no:randomly", *options)


def events(light: Pytester) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in (light.path / "events.txt").read_text().splitlines()]


def workers_of(light: Pytester, load: str) -> set[str]:
    return {worker for worker, event, *rest in events(light) if event == "begin" and rest[0].startswith(f"{load}-")}


def finished(light: Pytester) -> Counter[str]:
    return Counter(rest[0] for _, event, *rest in events(light) if event == "end")


def test_the_installed_xdist_is_built_as_we_know_it() -> None:
    class Changed(xdist.remote.WorkerInteractor):
        def run_one_test(self, item: int) -> None: ...  # type: ignore[override]

    assert fits()
    assert not fits(Changed)
    assert not fits(object)


def test_no_item_waits_behind_a_running_one(light: Pytester) -> None:
    result = run(light, "-n2", items=items(a=6), loads={"a": [0.0, 1]}, acts={"a-0": "wait:a-5"})

    result.assert_outcomes(passed=6)
    assert finished(light) == Counter(items(a=6))
    for worker in ("gw0", "gw1"):  # session fixtures live from a worker's first item to its last
        mine = [event for name, event, *_ in events(light) if name == worker]
        assert mine.count("setup") == mine.count("teardown") == 1
        assert mine[-1] == "teardown"


def test_what_is_loaded_stays_with_its_worker(light: Pytester) -> None:
    result = run(light, "-n3", items=items(a=5, b=5), loads={"a": [3.0, 1], "b": [3.0, 1]})

    result.assert_outcomes(passed=10)
    assert len(workers_of(light, "a")) == len(workers_of(light, "b")) == 1
    assert workers_of(light, "a") != workers_of(light, "b")
    result.stdout.fnmatch_lines(["proofpack: 1 of 3 workers got no items: loading a model once more would not have*"])


def test_of_workers_without_a_certificate_to_make_nothing_is_said(light: Pytester) -> None:
    light.makepyfile(test_own="def test_own(): pass")
    result = run(light, "test_own.py", "-n2", "-k", "own", items=items(a=4), loads={"a": [3.0, 1]})

    result.assert_outcomes(passed=1)
    result.stdout.no_fnmatch_line("*got no items*")


def test_workers_beyond_the_device_slots_get_nothing(light: Pytester) -> None:
    result = run(light, "-n2", items=items(a=4), loads={"a": [0.0, 1]}, slots=1)

    result.assert_outcomes(passed=4)
    assert len(workers_of(light, "a")) == 1
    result.stdout.fnmatch_lines(["proofpack: 1 of 2 workers got no items: device slots are 1"])


def test_a_large_model_comes_first_and_borrows_devices_of_idle_workers(light: Pytester) -> None:
    result = run(
        light, "-n2", items=items(small=4, large=2), loads={"small": [0.0, 1], "large": [0.0, 2]}, acts={}
    )  # fmt: skip

    result.assert_outcomes(passed=6)
    told = [entry for entry in events(light) if entry[1] in {"borrow", "release", "begin"}]
    (leader,) = workers_of(light, "large")
    (other,) = {"gw0", "gw1"} - {leader}
    assert [entry for entry in told[:5] if entry[1] != "begin"] == [(leader, "borrow", other)] * 2 + [
        (leader, "release")
    ]
    assert {entry[2] for entry in told[:5] if entry[1] == "begin"} == {"large-0", "large-1"}
    assert workers_of(light, "small") == {leader, other}


def test_what_is_too_large_for_the_workers_is_left_out_and_named(light: Pytester) -> None:
    result = run(light, "-n2", items=items(a=3, huge=2), loads={"a": [0.0, 1], "huge": [0.0, 3]})

    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(
        ["proofpack: 2 items could run nowhere: there are too few workers for huge (3 devices)"]
    )


@pytest.mark.parametrize("misfit", [False, True])
def test_an_item_that_ends_two_workers_has_failed_and_no_other(light: Pytester, misfit: bool) -> None:
    result = run(
        light,
        "-n2",
        items=items(a=5, b=5),
        loads={"a": [0.5, 1], "b": [0.5, 1]},
        acts={"a-1": "kill"},
        misfit=misfit,
    )

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=9, failed=1)
    assert finished(light) == Counter(set(items(a=5, b=5)) - {"a-1"})
    tries = [worker for worker, event, *rest in events(light) if (event, *rest) == ("begin", "a-1")]
    result.stdout.fnmatch_lines(
        ["*_ test_item[[]a-1[]] _*"]
        + [f"Worker {worker} ended by signal 9 (SIGKILL) while it made a-1." for worker in tries]
    )
    assert len(set(tries)) == 2
    warning = "proofpack: WARNING: workers of pytest-xdist * cannot be made to take one item at a time*"
    (result.stdout.fnmatch_lines if misfit else result.stdout.no_fnmatch_line)([warning] if misfit else warning)  # type: ignore[arg-type]


def test_another_plugin_may_have_an_item_run_again_after_a_crash(light: Pytester) -> None:
    """As pytest-rerunfailures does, which looks for the session's config at the scheduler."""
    rerun = """
        import pytest

        @pytest.hookimpl(optionalhook=True)
        def pytest_handlecrashitem(crashitem, report, sched):
            assert sched.config.option.numprocesses == 2
            sched.mark_test_pending(crashitem)
        """
    light.syspathinsert(light.makepyfile(rerun=rerun).parent)
    facts: dict[str, Any] = {"items": items(a=4), "loads": {"a": [0.0, 1]}, "acts": {"a-1": "once:a-1"}}
    result = run(light, "-n2", "-p", "rerun", **facts, tries_again=False)
    result.assert_outcomes(passed=4, failed=1)
    assert finished(light) == Counter(items(a=4))

    run(light, "-n2", "-p", "rerun", **facts).assert_outcomes(passed=4)  # we ask for it as well
    assert finished(light) == Counter(items(a=4))


@pytest.mark.parametrize("misfit", [False, True])
def test_an_item_whose_worker_dies_is_tried_again_on_a_fresh_one(light: Pytester, misfit: bool) -> None:
    facts: dict[str, Any] = {"items": items(a=6), "loads": {"a": [0.0, 1]}, "misfit": misfit}
    result = run(light, "-n2", "-v", **facts, acts={"a-5": "once:a-5"})

    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=6)
    assert finished(light) == Counter(items(a=6))
    first, second = [worker for worker, event, *rest in events(light) if (event, *rest) == ("begin", "a-5")]
    assert [entry[1] for entry in events(light) if entry[0] == second][:3] == ["start", "setup", "begin"]
    result.stdout.fnmatch_lines(
        [
            f"proofpack: Worker {first} ended by signal 9 (SIGKILL) while it made a-5. It is tried once more.",
            f"[[]{first}[]]*RETRIED test_items.py*",
            "*6 passed, 1 retried*",
        ]
    )


def test_a_model_over_two_devices_is_tried_again_once_both_are_there(light: Pytester) -> None:
    result = run(light, "-n2", items=items(large=3), loads={"large": [0.0, 2]}, acts={"large-1": "once:large-1"})

    assert result.ret == pytest.ExitCode.OK
    assert finished(light) == Counter(items(large=3))


def test_an_item_that_cannot_be_tried_again_has_failed(light: Pytester) -> None:
    facts: dict[str, Any] = {"items": items(a=4), "loads": {"a": [0.0, 1]}, "acts": {"a-1": "once:a-1"}}
    result = run(light, "-n2", "--max-worker-restart=0", **facts)

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Worker * ended by *SIGKILL* while it made a-1.", "There was no worker left to try *"])


def test_how_a_worker_exits_is_told(light: Pytester) -> None:
    result = run(light, "-n1", items=items(a=2), loads={"a": [0.0, 1]}, acts={"a-1": "exit"})

    result.stdout.fnmatch_lines(["Worker gw0 ended with exit status 77 while it made a-1."])


def test_what_another_worker_holds_back_while_it_hangs_is_taken_over(light: Pytester) -> None:
    """The load is so dear that nobody would load it twice, as long as the end of the first item seems near."""
    facts: dict[str, Any] = {"items": items(a=5), "loads": {"a": [4.0, 1]}, "acts": {"a-0": "wait:a-4"}}
    result = run(light, "-n2", "-v", **facts, overdue=1.0)

    result.assert_outcomes(passed=5)
    assert workers_of(light, "a") == {"gw0", "gw1"}
    line = "proofpack: overdue: gw0 has been at a-0 for *, and * were forecast; it is ended after 10 min"
    assert len([line for line in result.outlines if line.startswith("proofpack: overdue")]) == 1
    result.stdout.fnmatch_lines([line])


def test_a_worker_that_hangs_is_ended_and_its_item_tried_again(light: Pytester) -> None:
    facts: dict[str, Any] = {"items": items(a=5), "loads": {"a": [0.0, 1]}, "timeout": 2.0}
    result = run(light, "-n2", **facts, acts={"a-1": "hang"})

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4, failed=1)
    assert finished(light) == Counter(set(items(a=5)) - {"a-1"})
    why = "Worker * ended because its item took longer than 2 s (--proofpack-timeout) while it made a-1."
    result.stdout.fnmatch_lines(["*_ test_item[[]a-1[]] _*", why, why])


def test_an_older_loop_begins_its_last_item_while_others_are_busy(light: Pytester) -> None:
    loads = {"a": [2.0, 1], "b": [2.0, 1]}
    result = run(light, "-n2", items=items(a=4, b=1), loads=loads, acts={"a-0": "wait:b-0"}, misfit=True)

    result.assert_outcomes(passed=5)


def test_the_replacement_of_a_worker_inherits_its_device_slot(light: Pytester) -> None:
    result = run(light, "-n2", items=items(a=4), loads={"a": [0.0, 1]}, acts={"a-1": "kill"}, slots=1)

    result.assert_outcomes(passed=3, failed=1)
    assert "gw2" in workers_of(light, "a")


def test_a_worker_that_dies_at_the_start_is_replaced(light: Pytester) -> None:
    result = run(light, "-n2", items=items(a=4), loads={"a": [0.0, 1]}, dies=["gw0"])

    result.assert_outcomes(passed=4)
    assert finished(light) == Counter(items(a=4))


@pytest.mark.parametrize(
    "case",
    [
        {"acts": {"a-1": "kill"}, "options": ["--max-worker-restart=0"]},
        {"dies": ["all"], "options": ["--max-worker-restart=2"]},
        {"acts": dict.fromkeys(items(a=6), "kill"), "options": ["--max-worker-restart=3"]},
    ],
)
def test_it_ends_and_fails_when_workers_are_not_replaced(light: Pytester, case: dict[str, Any]) -> None:
    result = run(light, "-n2", *case.pop("options"), items=items(a=6), loads={"a": [0.0, 1]}, **case)

    assert result.ret != pytest.ExitCode.OK
    assert max(finished(light).values(), default=0) <= 1


@pytest.mark.parametrize("misfit", [False, True])
@pytest.mark.parametrize("option", ["-x", "--maxfail=2"])
def test_it_stops_at_failures(light: Pytester, option: str, misfit: bool) -> None:
    failing = dict.fromkeys(items(a=12), "fail")
    result = run(light, "-n2", option, items=items(a=12), loads={"a": [0.0, 1]}, acts=failing, misfit=misfit)

    assert result.ret == pytest.ExitCode.INTERRUPTED
    assert len(finished(light)) < 8


def test_last_failed_items_are_run_again(light: Pytester) -> None:
    facts: dict[str, Any] = {"items": items(a=4, b=3), "loads": {"a": [0.0, 1], "b": [0.0, 1]}}
    run(light, "-n2", **facts, acts={"a-2": "fail"}).assert_outcomes(passed=6, failed=1)

    run(light, "-n2", "--lf", **facts).assert_outcomes(passed=1)
    assert finished(light) == Counter(["a-2"])
