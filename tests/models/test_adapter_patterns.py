"""Regular expressions of a stranger are matched in bounded time."""

from __future__ import annotations

import time

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models import adapter_patterns
from pytest_proofpack.models.adapter_patterns import matching_names

NAMES = ["model.layers.0.q_proj", "model.layers.1.q_proj", "model.layers.1.v_proj", "lm_head"]


def test_names_that_match_whole() -> None:
    found = matching_names({"target_modules": r".*\.1\.(q|v)_proj", "exclude_modules": "lm"}, NAMES, "file")
    assert found == {"target_modules": NAMES[1:3], "exclude_modules": []}
    assert matching_names({}, NAMES, "file") == {}


def test_one_that_backtracks_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_patterns, "PATIENCE", 0.3)
    begin = time.monotonic()
    with pytest.raises(ConfigurationError, match=r"file: target_modules \('\(a\|a\)\*b'\) takes more than"):
        matching_names({"target_modules": "(a|a)*b"}, ["a" * 60], "file")
    assert time.monotonic() - begin < 5


def test_one_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"target_modules .* is no regular expression"):
        matching_names({"target_modules": "("}, NAMES, "file")
