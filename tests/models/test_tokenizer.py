"""Tokenizers from their files alone: the same fingerprints and tokens as transformers', or none at all."""

# ruff: noqa: S106 - tokens of tokenizers, not passwords

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.tokenizer import MODEL_TYPES, read_tokenizer
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text.synthetic import generate
from pytest_proofpack.text.windows import tokenize, tokenizer_fingerprint
from tests.support.model_files import small_tokenizer

EMBEDDED = suites_directory() / "tiny_model"
TEXTS = [document.text for document in generate(0, 20, "training")] + ["It's 1234 ünïcödé  \n\n text <|end|> 你好 ", ""]


def byte_level() -> PreTrainedTokenizerFast:
    return small_tokenizer()


def with_a_beginning_and_an_end() -> PreTrainedTokenizerFast:
    """Word pieces of a lower-casing tokenizer that puts tokens around every text, pads and truncates."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=["[UNK]", "[CLS]", "[SEP]"])
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_truncation(16)
    tokenizer.enable_padding(length=16)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", bos_token="[CLS]", unk_token="[UNK]")  # type: ignore[no-untyped-call]


def metaspace() -> PreTrainedTokenizerFast:
    """As sentencepiece does it: blanks are letters, with a normalizer, and tokens of one's own."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=["<unk>", "</s>"], unk_token="<unk>")
    tokenizer.train_from_iterator(TEXTS, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")  # type: ignore[no-untyped-call]
    made.add_tokens(["<|end|>"])
    return made


def saved(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


@pytest.fixture(params=[None, byte_level, with_a_beginning_and_an_end, metaspace])
def directory(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make: Callable[[], PreTrainedTokenizerFast] | None = request.param
    return EMBEDDED if make is None else saved(tmp_path, make())


def test_fingerprint_and_tokens_are_those_of_transformers(directory: Path) -> None:
    ours, theirs = read_tokenizer(directory), AutoTokenizer.from_pretrained(directory)
    assert ours is not None
    assert tokenizer_fingerprint(ours) == tokenizer_fingerprint(theirs)  # type: ignore[arg-type]
    assert (len(ours), ours.eos_token_id, ours.get_vocab()) == (len(theirs), theirs.eos_token_id, theirs.get_vocab())
    assert (tokenize(TEXTS, ours) == tokenize(TEXTS, theirs)).all()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"tokenizer_class": "LlamaTokenizer"},
        {"tokenizer_class": None},
        {"auto_map": {"AutoTokenizer": ["own.Own", None]}},
        {"eos_token": None},
        {"eos_token": "<new>"},
        {"pad_token": "<pad>"},
        {"extra_special_tokens": ["<new>"]},
        {"split_special_tokens": True},
        {"added_tokens_decoder": {"0": {"content": "<|endoftext|>", "lstrip": True, "special": True}}},
    ],
    ids=str,
)
def test_what_says_otherwise_is_left_to_transformers(tmp_path: Path, change: dict[str, object]) -> None:
    path = saved(tmp_path, byte_level()) / "tokenizer_config.json"
    assert read_tokenizer(tmp_path) is not None
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", '{"model_type": "qwen2"}'),
        ("config.json", "{"),
        ("tekken.json", "{}"),
        ("merges.txt", ""),
        ("special_tokens_map.json", '{"eos_token": "a"}'),
    ],
)
def test_files_that_say_otherwise(tmp_path: Path, name: str, content: str) -> None:
    (saved(tmp_path, byte_level()) / name).write_text(content)
    assert read_tokenizer(tmp_path) is None


@pytest.mark.parametrize("model_type", sorted(MODEL_TYPES))
def test_transformers_takes_the_file_as_it_is_for_these_models(tmp_path: Path, model_type: str) -> None:
    (saved(tmp_path, byte_level()) / "config.json").write_text(json.dumps({"model_type": model_type}))
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert type(theirs) is PreTrainedTokenizerFast
    assert tokenizer_fingerprint(theirs) == tokenizer_fingerprint(byte_level())


def test_neither_torch_nor_transformers_is_loaded() -> None:
    code = (
        "import sys; from pathlib import Path; from pytest_proofpack.models.tokenizer import read_tokenizer; "
        f"assert read_tokenizer(Path({str(EMBEDDED)!r})); print({{'torch', 'transformers'}} & sys.modules.keys())"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("content", ["", "{", "{}", '{"model": {"type": "Odd"}}'])
def test_a_malformed_file_is_named(tmp_path: Path, content: str) -> None:
    (saved(tmp_path, byte_level()) / "tokenizer.json").write_text(content)
    with pytest.raises(ConfigurationError, match=r"tokenizer\.json: no tokenizer can be made of it .*Save it again"):
        read_tokenizer(tmp_path)
