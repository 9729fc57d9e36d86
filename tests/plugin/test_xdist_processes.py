"""How the controller finds out what ended a worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_proofpack.plugin.xdist_processes import OomKills, signal_name


@pytest.mark.parametrize(
    ("group", "counter"),
    [
        ("0::/jobs/7\n", "sys/fs/cgroup/jobs/7/memory.events"),
        ("0::/\n", "sys/fs/cgroup/memory.events"),
        ("0::/not/shown/here\n", "sys/fs/cgroup/memory.events"),
        ("9:name=systemd:/\n4:cpu,memory:/jobs/7\n", "sys/fs/cgroup/memory/jobs/7/memory.oom_control"),
        ("4:memory:/not/shown/here\n0::/\n", "sys/fs/cgroup/memory/memory.oom_control"),
        ("0::/\n", "proc/vmstat"),
        (None, "proc/vmstat"),
    ],
)
def test_what_the_kernel_ended_for_want_of_memory_is_counted(tmp_path: Path, group: str | None, counter: str) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    if group is not None:
        (tmp_path / "proc/self/cgroup").write_text(group)
    (tmp_path / counter).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / counter).write_text("oom 7\noom_kill 2\noom_kill_disable 0\n")
    kills = OomKills(tmp_path)

    assert not kills.more()
    (tmp_path / counter).write_text("oom 8\noom_kill 3\noom_kill_disable 0\n")
    assert kills.more()
    assert not kills.more()


def test_where_nothing_is_counted_nothing_is_claimed(tmp_path: Path) -> None:
    assert not OomKills(tmp_path).more()


def test_signals_have_names() -> None:
    assert [signal_name(number) for number in (9, 11, 99)] == [
        "signal 9 (SIGKILL)",
        "signal 11 (SIGSEGV)",
        "signal 99",
    ]
