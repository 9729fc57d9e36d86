"""Which tests run where: the one place that decides what a test marked ``gpu`` is skipped with."""

from __future__ import annotations

import pytest


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
