"""Windows are disjoint, seeded and identified by content; tokenizers are told apart by what they do."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.tokenizer import read_tokenizer
from pytest_proofpack.plan.records import TextSpec, WindowPlan
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text import windows as text
from pytest_proofpack.text.documents import load_documents, text_sha256
from pytest_proofpack.text.windows import (
    SampledWindows,
    cut_windows,
    draw_windows,
    prepare_text,
    tokenize,
    tokenizer_fingerprint,
    window_id,
)
from tests.support.model_files import END, TOKENS, build_model_directory, small_tokenizer

SYNTHETIC = TextSpec("synthetic", seed=3, documents=60)
PLAN = WindowPlan(seq_len=16, preview=5, final=7, seed=11)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return small_tokenizer()


class TestTokens:
    def test_every_document_ends_with_end_of_text(self, tokenizer: PreTrainedTokenizerFast) -> None:
        documents = ["a b", "c"]
        stream = tokenize(documents, tokenizer)
        assert tokenizer.decode(stream) == f"a b{END}c{END}"

    def test_no_other_special_token_is_added(self) -> None:
        tokenizer = small_tokenizer()
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="Ā $A", special_tokens=[("Ā", 1)])
        assert tokenizer.encode("a")[0] == 1
        assert tokenizer.decode(tokenize(["a"], tokenizer)) == f"a{END}"

    @pytest.mark.parametrize("from_file", [True, False])
    def test_a_special_token_in_a_document_is_text(self, tmp_path: Path, *, from_file: bool) -> None:
        tokenizer: Any = small_tokenizer()
        if from_file:
            tokenizer = read_tokenizer(build_model_directory(tmp_path / "model"))
        before = tokenizer_fingerprint(tokenizer)
        document = f"before {END} after"
        stream = tokenize([document], tokenizer).tolist()
        assert stream.count(tokenizer.eos_token_id) == 1
        assert tokenizer.decode(stream) == f"{document}{END}"
        assert tokenizer_fingerprint(tokenizer) == before

    def test_many_documents_are_as_one_by_one(
        self, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        documents = load_documents(SYNTHETIC)
        end = [tokenizer.eos_token_id]
        expected = [token for document in documents for token in tokenizer.encode(document) + end]
        monkeypatch.setattr(text, "_DOCUMENTS_PER_BATCH", 7)
        assert tokenize(documents, tokenizer).tolist() == expected

    def test_documents_longer_than_the_context_give_no_advice(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tokenizer = small_tokenizer()  # of its own, for transformers gives this advice once per tokenizer
        monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
        assert len(tokenize(["word " * 200], tokenizer)) > tokenizer.model_max_length
        assert not caplog.records

    def test_without_end_of_text_token(self) -> None:
        with pytest.raises(ConfigurationError, match="end-of-text"):
            tokenize(["a"], small_tokenizer(end=None))

    def test_fingerprint_is_about_behaviour(self, tokenizer: PreTrainedTokenizerFast) -> None:
        before = tokenizer_fingerprint(tokenizer)
        assert before == tokenizer_fingerprint(small_tokenizer())

        larger = small_tokenizer()
        larger.add_tokens(["unused-in-the-probe"])
        other_end = small_tokenizer(end="Ā")  # byte 0: in the vocabulary, not in the probe
        other_split = small_tokenizer()
        other_split.backend_tokenizer.pre_tokenizer.add_prefix_space = True
        assert len({before, *map(tokenizer_fingerprint, (larger, other_end, other_split))}) == 4

    @pytest.mark.parametrize("pair", [(300, 400), (130, 140)])  # two merged tokens, two bytes that are no text alone
    def test_fingerprint_sees_two_tokens_that_change_their_ids(self, tmp_path: Path, pair: tuple[int, int]) -> None:
        embedded = suites_directory() / "tiny_model"
        for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded / name, tmp_path)
        before = tokenizer_fingerprint(_read(tmp_path))
        definition = json.loads((tmp_path / "tokenizer.json").read_text())
        vocabulary = definition["model"]["vocab"]
        first, second = (next(token for token, own in vocabulary.items() if own == number) for number in pair)
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        assert tokenizer_fingerprint(_read(tmp_path)) != before

    def test_fingerprint_is_the_same_whoever_reads_the_files(self) -> None:
        embedded = suites_directory() / "tiny_model"
        by_transformers = AutoTokenizer.from_pretrained(embedded)
        assert tokenizer_fingerprint(_read(embedded)) == tokenizer_fingerprint(by_transformers)

    def test_fingerprint_sees_one_merge_that_is_gone(self, tmp_path: Path) -> None:
        embedded = suites_directory() / "tiny_model"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded / name, tmp_path)
        whole = tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path))
        definition = json.loads((tmp_path / "tokenizer.json").read_text())
        definition["model"]["merges"].pop()
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) != whole


def _read(path: Path) -> Any:
    return read_tokenizer(path)


def draw(stream: NDArray[np.int64], plan: WindowPlan, run: int) -> SampledWindows:
    return draw_windows(cut_windows(stream, plan.seq_len), plan, run)


class TestWindows:
    def test_repeated_windows_are_dropped(self) -> None:
        stream = np.concatenate([np.arange(32), np.arange(16), np.arange(50, 70)])
        assert cut_windows(stream, 16)[:, 0].tolist() == [0, 16, 50]

    def test_windows_are_disjoint_pieces_of_the_stream(self) -> None:
        stream = np.arange(16 * 20 + 9)
        drawn = draw(stream, PLAN, run=0)
        assert drawn.preview.shape == (5, 16)
        assert drawn.final.shape == (7, 16)
        rows = np.concatenate([drawn.preview, drawn.final])
        assert len(set(rows[:, 0])) == 12
        assert all(row[0] % 16 == 0 and (row == np.arange(row[0], row[0] + 16)).all() for row in rows)
        assert rows.max() < 16 * 20

    def test_draws_repeat_and_runs_differ(self) -> None:
        stream = np.arange(16 * 40)
        first, again, second = (draw(stream, PLAN, run) for run in (1, 1, 2))
        assert (first.seed, second.seed) == (12, 13)
        assert (first.final == again.final).all()
        assert first.final_ids == again.final_ids != second.final_ids
        order = np.random.default_rng(12).permutation(40)
        assert (first.preview[:, 0] == 16 * order[:5]).all()
        assert (first.final[:, 0] == 16 * order[5:12]).all()

    def test_ids_hash_the_content(self) -> None:
        tokens = np.array([1, 2, 300])
        raw = b"".join(token.to_bytes(8, "little") for token in (1, 2, 300))
        assert window_id(tokens) == hashlib.sha256(raw).hexdigest()[:32]
        assert window_id(tokens.astype(np.int32)) == window_id(tokens)
        drawn = draw(np.arange(16 * 12), PLAN, run=0)
        assert drawn.preview_ids == tuple(map(window_id, drawn.preview))
        assert drawn.final_ids == tuple(map(window_id, drawn.final))

    def test_a_text_that_just_suffices_is_taken(self) -> None:
        draw(np.arange(16 * 12), PLAN, run=0)

    def test_a_short_text_is_told_in_numbers(self) -> None:
        message = r"11 different windows of 16 tokens, but 5 preview \+ 7 final = 12 \(192 tokens\)"
        with pytest.raises(ConfigurationError, match=message):
            draw(np.arange(191), PLAN, run=0)

    @pytest.mark.parametrize(
        "plan", [WindowPlan(1, 5, 7, 0), WindowPlan(16, 0, 7, 0), WindowPlan(16, 5, -1, 0), WindowPlan(16, 5, 7, -1)]
    )
    def test_unusable_plans(self, plan: WindowPlan) -> None:
        with pytest.raises(ConfigurationError):
            draw(np.arange(1000), plan, run=0)


def test_prepared_text_carries_its_facts(tokenizer: PreTrainedTokenizerFast) -> None:
    prepared = prepare_text(SYNTHETIC, tokenizer, PLAN)
    documents = load_documents(SYNTHETIC)
    facts = prepared.facts
    assert (facts.provider, facts.split, facts.documents) == ("synthetic", "evaluation", 60)
    assert facts.text_sha256 == text_sha256(documents)
    assert facts.total_tokens == len(tokenize(documents, tokenizer))
    windows = cut_windows(tokenize(documents, tokenizer), 16)
    assert facts.available_windows == len(windows)
    assert prepared.draw(4).final_ids == draw_windows(windows, PLAN, 4).final_ids
    assert prepared.windows.max() < TOKENS
