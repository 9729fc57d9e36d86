"""How a checkpoint is quantized, in words: whatever its configuration holds, they stay short and of one kind."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.errors import FormatError
from pytest_proofpack.plan.quantization import (
    NAMES_SHOWN,
    Quantization,
    contradicts_form,
    quantization_words,
    recorded_label,
)

NAMES = [f"model.layers.{number}.mlp" for number in range(20)]
FULL = quantization_words(
    "compressed-tensors", "W4A16", bits=4, group=128, symmetric=True, activations="int8", ignored=NAMES
)


def test_all_of_it() -> None:
    assert FULL.label == "compressed-tensors:W4A16"
    assert FULL.words == (
        "compressed-tensors W4A16; 4 bits; groups of 128; symmetric; activations int8; without "
        + ", ".join(NAMES[:NAMES_SHOWN])
        + " and 12 more"
    )
    assert (len(FULL.ignored), FULL.ignored_count) == (8, 20)
    assert Quantization.from_json(FULL.to_json()) == FULL


def test_what_it_does_not_say_is_not_said() -> None:
    words = quantization_words("gptq")
    assert (words.label, words.words) == ("gptq", "gptq")
    assert Quantization.from_json(words.to_json()) == words


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"method": {"a": 1}}, {"method": "unknown"}),
        ({"method": "x" * 1000}, {"method": "unknown"}),
        ({"method": "a b"}, {"method": "unknown"}),
        ({"scheme": "\x1b[31m"}, {"scheme": None}),
        ({"label": "a:b:c d"}, {"label": "m"}),
        ({"label": "gguf:Q4_K_M"}, {"label": "gguf:Q4_K_M"}),
        ({"bits": True}, {"bits": None}),
        ({"bits": 10**12}, {"bits": None}),
        ({"bits": -4}, {"bits": None}),
        ({"group": -1}, {"group": None}),
        ({"symmetric": "yes"}, {"symmetric": None}),
        ({"activations": "y" * 1000}, {"activations": "y" * 120}),
        ({"ignored": {"a": 1}}, {"ignored": (), "ignored_count": 0}),
        ({"ignored": ["z" * 5000, 3, None]}, {"ignored": ("z" * 120,), "ignored_count": 1}),
    ],
)
def test_a_hostile_configuration(values: dict[str, Any], expected: dict[str, Any]) -> None:
    words = quantization_words(**{"method": "m", **values})
    assert {key: getattr(words, key) for key in expected} == expected
    assert Quantization.from_json(words.to_json()) == words


@pytest.mark.parametrize(
    "change",
    [{"bits": 0}, {"label": ""}, {"method": "a b"}, {"ignored_count": 3}, {"ignored_count": True}, {"extra": 1}],
)
def test_a_record_that_no_configuration_gives(change: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"readings\.quantization"):
        recorded_label({**FULL.to_json(), **change})


@pytest.mark.parametrize(
    ("given", "told", "contradicts"),
    [
        ("quant_rtn", "compressed-tensors:W4A16", False),
        ("my-own", "bnb-nf4", False),
        ("compressed-tensors", "compressed-tensors:W4A16", False),
        ("compressed-tensors:W4A16", "compressed-tensors:W4A16", False),
        ("compressed-tensors:W8A8", "compressed-tensors:W4A16", True),
        ("gptq", "compressed-tensors:W4A16", True),
        ("bnb-int8", "bnb-nf4", True),
    ],
)
def test_a_given_label_beside_what_the_files_say(given: str, told: str, contradicts: bool) -> None:
    assert contradicts_form(given, told) is contradicts
