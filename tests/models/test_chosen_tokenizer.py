"""The tokens are those of tokenizer.json, whatever class of transformers is named beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.chosen_tokenizer import ChosenTokenizer, choose_tokenizer
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.plan.records import ModelSpec
from pytest_proofpack.text.synthetic import generate
from pytest_proofpack.text.windows import tokenize, tokenizer_fingerprint
from tests.support.model_files import END, small_tokenizer

ODD = "It's 1234 ünïcödé  \n\n text <|end|> 你好 e\u0301"
TEXTS = [*(document.text for document in generate(0, 20, "training")), ODD]


def digit_by_digit() -> PreTrainedTokenizerFast:
    """Bytes of words and single digits: a pre-tokenizer that no class of transformers builds of itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "12 123 1234 12345 " * 50], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)  # type: ignore[no-untyped-call]


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast, model_type: str = "llama", **settings: object) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps({"model_type": model_type, "vocab_size": 1000, "eos_token_id": 0}))
    file = folder / "tokenizer_config.json"
    kept = {**json.loads(file.read_text()), **settings}
    file.write_text(json.dumps({key: value for key, value in kept.items() if value is not None}))
    return folder


def chosen(folder: Path) -> ChosenTokenizer:
    return choose_tokenizer(ModelSpec("org/model", folder), CheckpointFiles.at(folder))


def of_the_file(folder: Path, text: str) -> list[int]:
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize(
    ("name", "model_type"),
    [("Qwen2Tokenizer", "llama"), ("GPTNeoXTokenizer", "llama"), ("TokenizersBackend", "qwen2")],
)
@pytest.mark.parametrize("make", [small_tokenizer, digit_by_digit])
def test_a_class_that_ignores_the_file_is_ignored(
    tmp_path: Path, make: Callable[[], PreTrainedTokenizerFast], name: str, model_type: str
) -> None:
    """The fault: another pre-tokenizer or normalizer, and a token that stands in no file."""
    saved(tmp_path, make(), model_type, tokenizer_class=name)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    text = ODD
    assert theirs(text, add_special_tokens=False)["input_ids"] != of_the_file(tmp_path, text)

    found = chosen(tmp_path)
    assert found.tokenizer([text])["input_ids"] == [of_the_file(tmp_path, text)]
    assert (found.source, found.tokenizer.eos_token_id) == ("tokenizer.json", 0)
    (warning,) = found.warnings
    assert type(theirs).__name__ in warning
    assert "stand in no file ('<|endoftext|>'" in warning
    assert "the tokens are those of tokenizer.json" in warning


def test_a_class_that_only_splits_otherwise(tmp_path: Path) -> None:
    """Without a token of its own, only the probe shows it."""
    names = dict.fromkeys(("unk_token", "pad_token", "bos_token"), END)
    saved(tmp_path, digit_by_digit(), tokenizer_class="Qwen2Tokenizer", **names)
    found = chosen(tmp_path)
    (warning,) = found.warnings
    assert "Qwen2Tokenizer" in warning
    assert "otherwise" in warning
    assert found.tokenizer([ODD])["input_ids"] == [of_the_file(tmp_path, ODD)]


@pytest.mark.parametrize(
    "settings",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": None},
        {"pad_token": "[PAD]"},
        {"extra_special_tokens": ["<one>", "<two>"]},
        {"split_special_tokens": True},
        {"model_max_length": 12, "add_bos_token": True, "bos_token": END},
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [small_tokenizer, digit_by_digit])
def test_where_they_agree_transformers_is_taken(
    tmp_path: Path, make: Callable[[], PreTrainedTokenizerFast], settings: dict[str, Any]
) -> None:
    """No false alarm: nor where tokens are added that a file beside it names."""
    saved(tmp_path, make(), **settings)
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path)
    found = chosen(tmp_path)
    assert (found.source, found.warnings) == ("tokenizer.json", ())
    assert tokenizer_fingerprint(found.tokenizer) == tokenizer_fingerprint(theirs)
    assert (tokenize(TEXTS, found.tokenizer) == tokenize(TEXTS, theirs)).all()


def test_tokens_named_beside_the_file_are_kept_where_it_is_used(tmp_path: Path) -> None:
    saved(tmp_path, digit_by_digit(), tokenizer_class="Qwen2Tokenizer", pad_token="[PAD]")  # noqa: S106 - no password
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<tool>": 601}))
    found = chosen(tmp_path)
    assert found.warnings
    size = Tokenizer.from_file(str(tmp_path / "tokenizer.json")).get_vocab_size()
    assert {"[PAD]", "<tool>"} <= found.tokenizer.get_vocab().keys()
    (ids,) = found.tokenizer(["a<tool>b"])["input_ids"]
    assert ids[1] >= size
    assert len(ids) == 3


def test_end_of_text_of_the_config_where_the_files_name_none(tmp_path: Path) -> None:
    saved(tmp_path, small_tokenizer(), tokenizer_class="Qwen2Tokenizer", eos_token=None)
    (tmp_path / "special_tokens_map.json").unlink(missing_ok=True)
    found = chosen(tmp_path)
    assert found.warnings
    assert found.tokenizer.eos_token_id == 0


def test_without_the_file_the_class_is_named(tmp_path: Path) -> None:
    saved(tmp_path, small_tokenizer(), tokenizer_class="GPT2Tokenizer")
    document = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(document["model"]["vocab"]))
    merges = [" ".join(pair) for pair in document["model"]["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (tmp_path / "tokenizer.json").unlink()
    found = chosen(tmp_path)
    assert (found.source, found.warnings) == ("GPT2Tokenizer", ())


def test_a_malformed_file_is_named(tmp_path: Path) -> None:
    saved(tmp_path, small_tokenizer(), tokenizer_class="LlamaTokenizer")
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigurationError, match="no tokenizer can be made"):
        chosen(tmp_path)
