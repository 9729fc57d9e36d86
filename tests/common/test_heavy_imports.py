"""Garbage is not looked for while something large is imported, and then again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from pytest_proofpack.common.heavy_imports import heavy_imports


@pytest.fixture
def collecting() -> Iterator[None]:
    before = gc.isenabled()
    yield
    (gc.enable if before else gc.disable)()


@pytest.mark.usefixtures("collecting")
@pytest.mark.parametrize("collects", [True, False])
def test_garbage_is_looked_for_again_if_it_was_before(collects: bool) -> None:
    (gc.enable if collects else gc.disable)()
    with pytest.raises(ModuleNotFoundError), heavy_imports():
        import_nothing(while_collecting=False)
    assert gc.isenabled() is collects


def import_nothing(*, while_collecting: bool) -> None:
    assert gc.isenabled() is while_collecting
    raise ModuleNotFoundError
