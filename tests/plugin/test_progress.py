"""What people see while a suite runs: in a log, on a terminal, with and without workers."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from tests.plugin.conftest import SmallSuite
from tests.support.model_files import build_model_directory
from tests.support.screen import frames, screen

Pytester = pytest.Pytester
ROOT = Path(__file__).resolve().parents[2]
FACTS: dict[str, Any] = {"items": ["a-0", "a-1", "b-0"], "loads": {"a": [0.01, 1], "b": [0.01, 1]}}


@pytest.fixture
def light(pytester: Pytester, monkeypatch: pytest.MonkeyPatch) -> Pytester:
    """Return a directory with a test file whose items load nothing; see ``light_suite``."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    pytester.makepyfile(test_items="def test_item(light_item, act): pass")
    return pytester


def write(light: Pytester, interval: float, **facts: Any) -> None:
    (light.path / "light.json").write_text(json.dumps({**FACTS, "interval": interval, **facts}))
    (light.path / "events.txt").write_text("")


def in_a_log(light: Pytester, *options: str, interval: float = 0.0, **facts: Any) -> list[str]:
    """Return the lines about progress that go into a log."""
    write(light, interval, **facts)
    result = light.runpytest_subprocess("-p", "tests.support.light_suite", *options)
    result.assert_outcomes(passed=3)
    return [line for line in result.outlines if line.startswith("proofpack: ")]


def on_a_terminal(light: Pytester, *options: str, **facts: Any) -> str:
    """Return all that a terminal of 80 columns gets."""
    write(light, 0.0, **facts)
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    command = [sys.executable, "-m", "pytest", "-p", "tests.support.light_suite", *options]
    with subprocess.Popen(command, cwd=light.path, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        received = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # the other side is closed
                break
            if not chunk:
                break
            received += chunk
    os.close(ours)
    assert process.returncode == pytest.ExitCode.OK
    return received.decode()


def test_a_log_gets_one_line_with_everything(light: Pytester) -> None:
    lines = in_a_log(light)

    assert lines[0] == "proofpack: 0 of 3 done; a-0"
    assert lines[1] == "proofpack: 1 of 3 done; cpu a-1 (12.3 windows/s)"  # how long an item takes alone, nobody knows
    assert re.fullmatch(r"proofpack: 2 of 3 done, (about [1-9] s|less than a second) left; cpu b-0", lines[2])
    assert len(lines) == 3


def test_a_log_gets_one_line_per_model_at_most_unless_a_minute_has_passed(light: Pytester) -> None:
    lines = in_a_log(light, interval=60.0)

    assert [line[:23] for line in lines] == ["proofpack: 0 of 3 done;", "proofpack: 2 of 3 done,"]


@pytest.mark.parametrize("options", [(), ("-n1",)])
def test_an_item_that_takes_long_is_not_passed_over_in_silence(light: Pytester, options: tuple[str, ...]) -> None:
    slow = {"a": [4.0, 1], "b": [0.0, 1]}
    lines = in_a_log(light, *options, interval=0.5, beat=0.2, loads=slow)

    assert lines[0] in {"proofpack: 0 of 3 done; a-0", "proofpack: 0 of 3 done; gw0 a-0"}
    assert re.fullmatch(r"proofpack: 0 of 3 done; (gw0 )?a-0 for [1-4] s", lines[2])


@pytest.mark.parametrize("options", [(), ("-n1",)])
def test_an_item_says_what_it_is_at(light: Pytester, options: tuple[str, ...]) -> None:
    slow = {"a": [1.5, 1], "b": [0.01, 1]}
    lines = in_a_log(light, *options, interval=0.5, beat=0.2, loads=slow, phase="null")

    assert re.search(
        r"^proofpack: 0 of 3 done; (gw0 )?a-0 calibrating 24 null draws( for 1 s)?$", "\n".join(lines), re.M
    )


def test_quiet_means_quiet(light: Pytester) -> None:
    assert in_a_log(light, "-q") == []


def test_workers_are_told_apart(light: Pytester) -> None:
    lines = in_a_log(light, "-n2")

    assert lines
    assert all(re.search(r"done.*; gw[01] (cpu )?[ab]-[01]", line) for line in lines)


@pytest.mark.parametrize("options", [[], ["-v"], ["-n2"]])
def test_a_terminal_gets_a_block_redrawn_in_place_and_keeps_pytests_own(light: Pytester, options: list[str]) -> None:
    written = on_a_terminal(light, *options, beat=0.1, loads={"a": [0.4, 1], "b": [0.0, 1]})

    drawn = frames(written)
    assert len(drawn) > 3  # whenever an item begins, and while it runs
    for head, *items in drawn:
        assert re.fullmatch(r"proofpack: [0-9] of 3 done(, (about [1-9] s|less than a second) left)?", head)
        for item in items:
            assert re.fullmatch(r"  (gw[01] )?(cpu )?[ab]-[01]( for [0-9.]+ s)?( \(12\.3 windows/s\))?", item)
    left = "\n".join(screen(written))
    assert " done" not in left
    assert re.search("=+ 3 passed in ", left)
    if "-v" in options:
        assert left.count("PASSED") == 3
    else:
        assert re.search(r"^(test_items\.py )?\.\.\. +\[100%\]$", left, flags=re.MULTILINE)


def test_no_line_of_the_block_is_wider_than_the_terminal(light: Pytester) -> None:
    long = "a-" + "0" * 90
    written = on_a_terminal(light, items=[long, "b-0", "b-1"])

    assert {len(line) for frame in frames(written) for line in frame if "a-00" in line} == {79}
    assert " done" not in "\n".join(screen(written))


@pytest.mark.parametrize("variable", ["CI=true", "TERM=dumb"])
def test_a_terminal_of_a_ci_is_a_log(light: Pytester, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(*variable.split("="))

    written = on_a_terminal(light)
    assert "proofpack: 0 of 3 done; a-0" in screen(written)
    assert frames(written) == []


@pytest.mark.usefixtures("warm_sessions")
def test_two_models_on_two_workers_are_loaded_once_each(
    pytester: Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_model_directory(small.folder / "second", seed=1, taught=True)
    second = '[[models]]\nid = "acme/second"\npath = "second"\n[text]'
    small.suite.write_text(small.suite.read_text().replace("[text]", second))
    result = pytester.runpytest_subprocess(
        f"--proofpack-suite={small.suite}", "--proofpack-out=run", "--proofpack-no-pack", "-n2", "-v"
    )

    assert result.ret == pytest.ExitCode.OK
    ran = re.findall(r"^\[(gw[01])\].*\[acme/(small|second)-", result.stdout.str(), flags=re.MULTILINE)
    assert len(ran) == 12
    assert {model for _, model in ran} == {"small", "second"}
    assert len(set(ran)) == len({worker for worker, _ in ran}) == 2
    result.stdout.re_match_lines([r"proofpack: 0 of 12 done; gw[01] .*acme/(small|second)-.*-run_1"])
