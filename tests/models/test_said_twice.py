"""How a subject's configuration is compared: what its file says besides counts, what says nothing does not."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.models.said_twice import compared_config

BASE = {"model_type": "llama", "hidden_size": 4, "attention_bias": False, "sliding_window": None}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (BASE, BASE | {"use_sliding_window": False}),  # the class knows no such key
        (BASE | {"use_sliding_window": False}, BASE),
    ],
)
def test_a_key_that_nobody_reads_and_that_is_false_is_no_difference(
    ours: dict[str, Any], theirs: dict[str, Any]
) -> None:
    assert compared_config(ours, theirs, {}, {}) == ours


@pytest.mark.parametrize(
    "theirs",
    [
        BASE | {"use_sliding_window": True},
        BASE | {"sliding_window": False},
        BASE | {"model_type": "mistral", "use_sliding_window": False},
        {key: value for key, value in BASE.items() if key != "hidden_size"},
    ],
)
def test_others_are_left_as_they_are(theirs: dict[str, Any]) -> None:
    assert compared_config(BASE, theirs, {}, {}) == theirs


def test_what_a_file_says_besides_is_a_difference_unless_the_baselines_says_it_too() -> None:
    said = {"rope_theta": 5e5}
    assert compared_config(BASE, BASE, said, {}) == BASE | said
    assert compared_config(BASE, BASE, said, said) == BASE
    assert compared_config(BASE, BASE, {"hidden_size": 8}, {}) == BASE | {"hidden_size, said twice": 8}
