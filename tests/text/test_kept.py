"""Windows that another process has cut are taken over whole, if they are what would be cut here, and not otherwise."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from pytest_proofpack.plan.records import TextSpec, WindowPlan
from pytest_proofpack.text import kept
from pytest_proofpack.text.kept import keep_text, kept_text, text_key
from pytest_proofpack.text.windows import PreparedText, Tokens, text_facts

SPEC = TextSpec("local_text", path=Path("text.txt"), options={"words": ["owl", "moss"]})
PLAN = WindowPlan(seq_len=4, preview=2, final=3, seed=11)
STATES = {Path("text.txt"): (1, 2, 3, 4, 2**62)}
KEY = text_key(SPEC, "fingerprint", PLAN, STATES)
WINDOWS = np.arange(24, dtype=np.int64).reshape(6, 4)
COUNTED = {"documents": 3, "total_tokens": 26, "total_bytes": 80}
SHA256 = "ab" * 32
TEXT = PreparedText(text_facts(SPEC, WINDOWS, text_sha256=SHA256, **COUNTED), WINDOWS, PLAN)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "kept.safetensors"
    keep_text(path, KEY, TEXT)
    return path


def read(path: Path, key: str = KEY, plan: WindowPlan = PLAN) -> PreparedText | None:
    return kept_text(path, key, SPEC, plan)


def test_it_is_what_was_kept(path: Path) -> None:
    found = read(path)
    assert found is not None
    assert (found.facts, found.plan) == (TEXT.facts, PLAN)
    assert found.windows.dtype == np.int64
    assert np.array_equal(found.windows, WINDOWS)
    assert found.draw(1).final_ids == TEXT.draw(1).final_ids


@pytest.mark.parametrize(
    "other",
    [
        text_key(replace(SPEC, path=Path("other.txt")), "fingerprint", PLAN, STATES),
        text_key(replace(SPEC, options={"words": ["owl"]}), "fingerprint", PLAN, STATES),
        text_key(replace(SPEC, seed=1), "fingerprint", PLAN, STATES),
        text_key(SPEC, "another", PLAN, STATES),
        text_key(SPEC, "fingerprint", replace(PLAN, seq_len=8), STATES),
        text_key(SPEC, "fingerprint", replace(PLAN, seed=12), STATES),
        text_key(SPEC, "fingerprint", PLAN, {Path("text.txt"): (1, 2, 3, 4, 2**62 + 1)}),
        text_key(SPEC, "fingerprint", PLAN, {Path("text.txt"): ()}),
        text_key(SPEC, "fingerprint", PLAN, {}),
    ],
    ids=["file", "options", "seed", "tokenizer", "seq_len", "draw", "changed", "gone", "no file"],
)
def test_of_something_else_it_is_not_taken(path: Path, other: str) -> None:
    assert read(path, other) is None


def test_one_that_is_missing_or_no_file_counts_as_none(tmp_path: Path) -> None:
    assert read(tmp_path / "missing") is None
    assert read(tmp_path) is None


def test_a_changed_byte_anywhere_is_seen(path: Path) -> None:
    whole = path.read_bytes()
    taken = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        if read(path) is not None:
            taken.append(place)
    assert taken == []


@pytest.mark.parametrize("size", [0, 7, 100, -8, -1])
def test_a_part_is_not_taken(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])
    assert read(path) is None


def test_nothing_is_unpickled(path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
            return pytest.fail, ("it was unpickled",)

    path.write_bytes(pickle.dumps(Bomb()))
    assert read(path) is None
    with path.open("wb") as file:
        np.save(file, np.array([Bomb()]), allow_pickle=True)
    assert read(path) is None


@pytest.mark.parametrize(
    ("windows", "counts"),
    [
        (WINDOWS.astype(np.int32), [3, 26, 80]),
        (WINDOWS.astype(np.float64), [3, 26, 80]),
        (WINDOWS.reshape(8, 3), [3, 26, 80]),
        (WINDOWS.ravel(), [3, 26, 80]),
        (WINDOWS[:4], [3, 26, 80]),
        (WINDOWS, [3, 23, 80]),
        (WINDOWS, [0, 26, 80]),
        (WINDOWS, [3, 26]),
        (WINDOWS, [3.0, 26.0, 80.0]),
    ],
    ids=["int32", "float64", "seq_len", "flat", "few", "tokens", "documents", "short", "float counts"],
)
def test_of_another_form_it_is_not_taken_though_its_digest_is_right(
    path: Path, windows: Tokens, counts: list[float]
) -> None:
    store(path, windows, np.array(counts))
    assert read(path) is None


def test_what_lacks_a_part_is_not_taken(path: Path) -> None:
    store(path, WINDOWS, np.array([3, 26, 80]))
    assert read(path) is not None
    save_file({"windows": WINDOWS}, path, {"key": KEY})
    assert read(path) is None
    save_file({"windows": WINDOWS, "counts": np.array([3, 26, 80])}, path)
    assert read(path) is None


def store(path: Path, windows: Tokens, counts: Any) -> None:
    """Write what a file might hold, with the digest of just that."""
    told = {"key": KEY, "text_sha256": SHA256, "sha256": kept._digest(KEY, SHA256, counts, windows)}
    save_file({"windows": windows, "counts": counts}, path, told)
