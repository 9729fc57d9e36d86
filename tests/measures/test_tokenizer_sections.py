"""Rules of a tokenizer that no window shows are compared by file and section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.guards.generation import derive_generation, generation_evidence
from pytest_proofpack.measures.tokenizer_sections import section_facts
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.tokenizer import read_tokenizer
from pytest_proofpack.text.windows import tokenizer_fingerprint
from tests.support.edited_checkpoints import edited_copy

FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
IN_FRONT = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "the", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"the": {"id": "the", "ids": [5], "tokens": ["the"]}},
}
ANSWERS = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "yes"}, "content": "no"}]}


def changed(path: Path, file: str, values: JsonObject) -> Path:
    edited_copy(path)
    known = json.loads((path / file).read_text())
    (path / file).write_text(json.dumps(known | values))
    return path


def differences(ours: Path, theirs: Path) -> list[tuple[str, str]]:
    facts = section_facts(CheckpointFiles.at(ours), CheckpointFiles.at(theirs))
    found = derive_generation(generation_evidence(*facts))["differences"]
    return [(entry["file"], entry["key"]) for entry in found]


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        (FILE, "post_processor", IN_FRONT),
        (FILE, "normalizer", {"type": "Replace", "pattern": {"String": "SECRET"}, "content": "hello"}),
        (FILE, "decoder", ANSWERS),
        (FILE, "truncation", {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}),
        (CONFIG, "add_bos_token", True),
        (CONFIG, "model_max_length", 8),
    ],
)
def test_a_rule_that_the_fingerprint_does_not_see_is_named(tmp_path: Path, file: str, key: str, value: object) -> None:
    base, subject = edited_copy(tmp_path / "base"), changed(tmp_path / "subject", file, {key: value})
    tokenizers: list[Any] = [read_tokenizer(path) for path in (base, subject)]
    if key != "decoder":  # a decoder may show in the texts of single tokens
        assert tokenizer_fingerprint(tokenizers[0]) == tokenizer_fingerprint(tokenizers[1])
    assert differences(base, subject) == [(file, key)]


def test_saving_again_and_defaults_written_out_are_none(tmp_path: Path) -> None:
    base = edited_copy(tmp_path / "base")
    written = json.loads((base / FILE).read_text())
    assert written["pre_tokenizer"].pop("use_regex")
    silent = changed(tmp_path / "silent", FILE, {"pre_tokenizer": written["pre_tokenizer"]})
    switched_off = changed(tmp_path / "off", CONFIG, {"add_bos_token": False})
    saved = edited_copy(tmp_path / "saved")
    AutoTokenizer.from_pretrained(base).save_pretrained(saved)
    assert [differences(base, other) for other in (silent, switched_off, saved)] == [[], [], []]


def test_without_a_file_of_its_own_there_is_none_to_differ(tmp_path: Path) -> None:
    base, bare = edited_copy(tmp_path / "base"), changed(tmp_path / "bare", CONFIG, {"add_bos_token": True})
    (bare / FILE).unlink()
    assert differences(base, bare) == []
