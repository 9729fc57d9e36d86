"""Which tests run, and when: what those marked ``gpu`` are skipped with; those marked ``sweep`` have to be asked for,
those marked ``first`` begin first."""

from __future__ import annotations

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked ``sweep`` unless ``-m`` asks for them by name; put those first that others wait for."""
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
    if "sweep" in config.getoption("markexpr"):
        return
    left_out = [item for item in items if item.get_closest_marker("sweep") is not None]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.get_closest_marker("sweep") is None]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let torch compute with one thread, as the package does on a CPU: those of several test processes wait for each
    other on few cores, ten times as long as the work takes.
    """
    import torch

    torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked ``gpu``, or ``gpu(2)``, before its fixtures are made, where there are fewer NVIDIA GPUs."""
    marker = item.get_closest_marker("gpu")
    if marker is None:
        return
    import torch

    needed = int(marker.args[0]) if marker.args else 1
    found = torch.cuda.device_count()
    if found < needed:
        pytest.skip(
            f"needs {needed} NVIDIA GPU{'s' if needed > 1 else ''}; there are {found}. The CPU's own tests run."
        )
