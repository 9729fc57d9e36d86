"""What steers generation beside the weights: differences are named by file and key, re-saving is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.generation import derive_generation, generation_evidence
from pytest_proofpack.measures.generation import generation_facts
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.load import load_model
from pytest_proofpack.plan.records import ModelSpec
from tests.support.edited_checkpoints import edited_copy

Change = Callable[[Path], object]


def put(file: str, given: JsonObject | None = None, **values: object) -> Change:
    """Return what sets keys of a JSON file, made if missing; ... removes one."""
    values |= given or {}

    def change(path: Path) -> None:
        known: dict[str, Any] = json.loads((path / file).read_text()) if (path / file).exists() else {}
        kept = {key: value for key, value in (known | values).items() if value is not ...}
        (path / file).write_text(json.dumps(kept))

    return change


def template(text: str) -> Change:
    return lambda path: (path / "chat_template.jinja").write_text(text)


def named_template(name: str, text: str) -> Change:
    def change(path: Path) -> None:
        (path / "additional_chat_templates").mkdir()
        (path / "additional_chat_templates" / f"{name}.jinja").write_text(text)

    return change


def both_templates(path: Path) -> None:
    template("{{ messages }}")(path)
    named_template("rag", "{{ x }}")(path)


def facts(path: Path, *, with_tokenizer: bool = True) -> JsonObject:
    model = load_model(ModelSpec("org/model", path), "cpu").model
    return generation_facts(model, CheckpointFiles.at(path), with_tokenizer=with_tokenizer)


def differences(tmp_path: Path, ours: list[Change], theirs: list[Change]) -> list[tuple[str, str]]:
    """Return file and key of every difference between two copies of the embedded model."""
    found = []
    for name, changes in (("base", ours), ("subject", theirs)):
        path = edited_copy(tmp_path / name)
        for change in changes:
            change(path)
        found.append(facts(path))
    derived = derive_generation(generation_evidence(*found))
    assert derived["compared"]
    return [(entry["file"], entry["key"]) for entry in derived["differences"]]


TWO_TEMPLATES = [{"name": "default", "template": "{{ messages }}"}, {"name": "rag", "template": "{{ x }}"}]
GENERATION, TOKENIZER, MAP = "generation_config.json", "tokenizer_config.json", "special_tokens_map.json"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (put(GENERATION, bos_token_id=0, eos_token_id=[0, 5]), [(GENERATION, "eos_token_id")]),
        (put(GENERATION, bos_token_id=0, eos_token_id=0, suppress_tokens=[7]), [(GENERATION, "suppress_tokens")]),
        (put(GENERATION, bos_token_id=0, eos_token_id=0, temperature=0.6), [(GENERATION, "temperature")]),
        (put("config.json", eos_token_id=5), [("config.json", "eos_token_id")]),
        (put("config.json", pad_token_id=3), [("config.json", "pad_token_id")]),
        (put(TOKENIZER, {"eos_token": "the"}), [(TOKENIZER, "eos_token")]),
        (put(TOKENIZER, chat_template="{{ messages }}"), [(TOKENIZER, "chat_template")]),
        (template("{{ messages }}"), [("chat_template.jinja", "chat_template")]),
        (named_template("rag", "{{ x }}"), [("additional_chat_templates", "additional_chat_templates")]),
        (
            put(TOKENIZER, chat_template=TWO_TEMPLATES),
            [(TOKENIZER, "additional_chat_templates"), (TOKENIZER, "chat_template")],
        ),
        (put(MAP, {"pad_token": "<|endoftext|>"}), [(MAP, "pad_token")]),
        (put(MAP, additional_special_tokens=["the"]), [(MAP, "additional_special_tokens")]),
    ],
)
def test_a_difference_is_named_by_file_and_key(tmp_path: Path, change: Change, named: list[tuple[str, str]]) -> None:
    assert differences(tmp_path, [], [change]) == named


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (put(TOKENIZER, chat_template="{{ messages }}"), template("{{ messages }}")),
        (put(TOKENIZER, {"pad_token": "the"}), put(MAP, pad_token={"content": "the", "lstrip": False})),
        (
            put(TOKENIZER, additional_special_tokens=["the", "a"]),
            put(TOKENIZER, extra_special_tokens=["a", {"content": "the"}]),
        ),
        (put("config.json", pad_token_id=...), put("config.json", pad_token_id=None)),
        (put(GENERATION, bos_token_id=0, eos_token_id=[0], temperature=1, do_sample=False), put("config.json")),
        (put("config.json", eos_token_id=[0]), put("config.json", eos_token_id=0)),
        (put("config.json", use_cache=True), put("config.json", use_cache=False)),
        (put(TOKENIZER, chat_template=TWO_TEMPLATES), both_templates),
    ],
)
def test_the_same_in_another_place_or_form_is_none(tmp_path: Path, ours: Change, theirs: Change) -> None:
    assert differences(tmp_path, [ours], [theirs]) == []


def test_saving_again_is_none(tmp_path: Path) -> None:
    base = edited_copy(tmp_path / "base")
    template("{{ messages }}")(base)
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "saved")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "saved")
    evidence = generation_evidence(facts(base), facts(tmp_path / "saved"))
    assert derive_generation(evidence)["differences"] == []


def test_without_a_tokenizer_there_is_none_to_differ(tmp_path: Path) -> None:
    base = edited_copy(tmp_path / "base")
    bare = Path(shutil.copytree(base, tmp_path / "bare"))
    for name in ("tokenizer.json", TOKENIZER):
        (bare / name).unlink()
    evidence = generation_evidence(facts(base, with_tokenizer=False), facts(bare, with_tokenizer=False))
    assert derive_generation(evidence)["differences"] == []


def test_long_values_are_recorded_as_their_digest(tmp_path: Path) -> None:
    path = edited_copy(tmp_path / "base")
    template("{{ messages }}" * 1000)(path)
    fact = facts(path)["tokenizer.chat_template"]
    assert fact["file"] == "chat_template.jinja"
    assert set(fact["value"]) == {"sha256"}
