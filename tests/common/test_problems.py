"""Several problems are told at once."""

from __future__ import annotations

import pytest

from pytest_proofpack.common.problems import refuse
from pytest_proofpack.errors import ConfigurationError


def test_problems_are_one_error() -> None:
    refuse([], "Nothing happens.")
    with pytest.raises(ConfigurationError, match=r"^one\. Do this\.$"):
        refuse(["one"], "Do this.")
    with pytest.raises(ConfigurationError, match=r"^2 things are in the way:\n  one\n  two\nDo this\.$"):
        refuse(["one", "two"], "Do this.")
