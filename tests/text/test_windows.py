"""Documents come out as written, windows are disjoint, seeded and identified by content, bad files are named."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec, WindowPlan
from pytest_proofpack.plan.suites import suites_directory
from pytest_proofpack.text import windows as text
from pytest_proofpack.text.synthetic import generate
from pytest_proofpack.text.windows import (
    DrawnWindows,
    cut_windows,
    draw_windows,
    load_documents,
    prepare_text,
    text_sha256,
    tokenize,
    tokenizer_fingerprint,
    window_id,
)
from tests.support.model_files import END, TOKENS, small_tokenizer

SYNTHETIC = TextSpec("synthetic", seed=3, documents=60)
PLAN = WindowPlan(seq_len=16, preview=5, final=7, seed=11)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return small_tokenizer()


def local(path: Path, content: str | bytes, provider: str = "local_text") -> TextSpec:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return TextSpec(provider, path)


class TestDocuments:
    def test_synthetic_documents_are_the_generators(self) -> None:
        assert load_documents(SYNTHETIC) == [document.text for document in generate(3, 60, "evaluation")]

    def test_paragraphs_without_duplicates_and_blanks(self, tmp_path: Path) -> None:
        content = "\ufefffirst\r\nstill first\r\n \t\r\nsecond\n\n\n\nfirst\nstill first\n\n  second \n\nthird\n"
        assert load_documents(local(tmp_path / "t.txt", content)) == ["first\nstill first", "second", "third"]

    def test_wikitext_articles_are_whole(self, tmp_path: Path) -> None:
        content = " \n = One = \n \n Text . \n \n = = Part = = \n \n More . \n \n = Two <unk> = \n \n Other . \n"
        assert load_documents(local(tmp_path / "wiki.txt", content)) == [
            "= One = \n \n Text . \n \n = = Part = = \n \n More .",
            "= Two <unk> = \n \n Other .",
        ]

    def test_jsonl_keeps_the_field_as_it_is(self, tmp_path: Path) -> None:
        lines = [{"body": " a\n\nb "}, {"body": "c", "other": 1}, {"body": " "}, {"body": "c"}]
        spec = local(tmp_path / "t.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n", "local_jsonl")
        assert load_documents(TextSpec("local_jsonl", spec.path, field="body")) == [" a\n\nb ", "c"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"text": "unclosed', r"t\.jsonl: line 2: not valid JSON"),
            ('{"tex": "a"}', r"line 2: there is no field 'text'"),
            ('{"text": 5}', r"line 2: the field 'text' is no string"),
            ('["a"]', r"line 2: expected a JSON object"),
            ('{"text": "\\ud800"}', r"line 2: .*surrogate"),
        ],
    )
    def test_a_bad_jsonl_line_is_named(self, tmp_path: Path, line: str, message: str) -> None:
        spec = local(tmp_path / "t.jsonl", '{"text": "good"}\n' + line + "\n", "local_jsonl")
        with pytest.raises(ConfigurationError, match=message):
            load_documents(spec)

    def test_bytes_that_are_not_utf8_are_located(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"t\.txt: line 2 is not UTF-8 .* at byte 9\)"):
            load_documents(local(tmp_path / "t.txt", b"good\nbad \xe9 text\n"))

    @pytest.mark.parametrize("provider", ["local_text", "local_jsonl"])
    def test_unusable_files(self, tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ConfigurationError, match=r"missing\.txt: does not exist"):
            load_documents(TextSpec(provider, tmp_path / "missing.txt"))
        with pytest.raises(ConfigurationError, match="is not a file"):
            load_documents(TextSpec(provider, tmp_path))
        with pytest.raises(ConfigurationError, match="needs the path"):
            load_documents(TextSpec(provider))
        with pytest.raises(ConfigurationError, match="holds no text"):
            load_documents(local(tmp_path / "blank.txt", " \n\n \n", provider))
        monkeypatch.setattr(text, "MAX_TEXT_BYTES", 10)
        with pytest.raises(ConfigurationError, match="11 bytes, more than the 10 allowed"):
            load_documents(local(tmp_path / "large.txt", "x" * 11, provider))

    def test_an_unknown_provider_is_told_the_known_ones(self) -> None:
        with pytest.raises(ConfigurationError, match=r"'web'.*synthetic, local_text, local_jsonl, wikitext2, hf_text"):
            load_documents(TextSpec("web"))

    @pytest.mark.parametrize("provider", ["local_text", "local_jsonl", "wikitext2", "hf_text"])
    def test_a_path_that_cannot_be_one(self, provider: str) -> None:
        with pytest.raises(ConfigurationError, match=r"'a\\x00b': no path can hold the character NUL"):
            load_documents(TextSpec(provider, Path("a\0b"), dataset="a/b"))


ARTICLE = " \n = One = \n \n Text é . \n Text of <unk> . \n \n = = Part = = \n \n More . \n \n"
WIKITEXT = f"{ARTICLE} \n = Two = \n \n Other . \n{ARTICLE} \n = Three = \n \n Last . \n"


def wikitext(directory: Path, content: str) -> TextSpec:
    """Write a text in the form of WikiText as the hub has it: a row per line, blank lines empty; in two files."""
    rows = [line if line.strip() else "" for line in content.splitlines(keepends=True)]
    folder = directory / "wikitext-2-raw-v1"
    folder.mkdir(parents=True)
    for part, texts in enumerate((rows[:7], rows[7:])):
        pq.write_table(pa.table({"text": texts}), folder / f"validation-{part:05d}-of-00002.parquet")
    pq.write_table(pa.table({"text": [" = Another split = \n"]}), folder / "test-00000-of-00001.parquet")
    return TextSpec(
        "wikitext2", directory, split="validation", dataset="Salesforce/wikitext", config="wikitext-2-raw-v1"
    )


class TestDataSets:
    def test_wikitext_has_the_documents_of_the_same_text_in_a_file(self, tmp_path: Path) -> None:
        documents = load_documents(wikitext(tmp_path / "set", WIKITEXT))
        assert [document.split(" \n")[0] for document in documents] == ["= One =", "= Two =", "= Three ="]
        local_documents = load_documents(local(tmp_path / "wiki.txt", WIKITEXT))
        assert documents == local_documents
        assert text_sha256(documents) == text_sha256(local_documents)

    def test_rows_without_line_ends_are_lines_too(self, tmp_path: Path) -> None:
        spec = wikitext(tmp_path, "")
        pq.write_table(
            pa.table({"text": [" = One = ", "", " Text . "]}),
            tmp_path / "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        )
        assert load_documents(replace(spec, split="test")) == ["= One = \n \n Text ."]

    def test_every_row_is_a_document(self, tmp_path: Path) -> None:
        rows = [" a\n\n = b = \n", "c", " ", "c", ""]
        pq.write_table(pa.table({"body": rows, "id": range(5)}), tmp_path / "test.parquet")
        spec = TextSpec("hf_text", tmp_path, field="body", split="test", dataset="acme/words")
        assert load_documents(spec) == [" a\n\n = b = \n", "c"]
        with pytest.raises(ConfigurationError, match="Its columns are 'body', 'id'"):
            load_documents(replace(spec, field="text"))

    def test_a_sample_is_seeded_and_recorded(self, tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        rows = [document.text for document in generate(5, 100, "evaluation")]
        pq.write_table(pa.table({"text": rows}), tmp_path / "test.parquet")
        spec = TextSpec("hf_text", tmp_path, seed=3, documents=40, split="test", dataset="acme/words", revision="abc")
        prepared = prepare_text(spec, tokenizer, PLAN)
        assert prepared.facts.source == {
            "dataset": "acme/words", "config": None, "revision": "abc", "field": "text",
            "sample": {"documents": 40, "seed": 3},
        }  # fmt: skip
        assert prepared.facts.documents == 40
        assert prepared.facts.text_sha256 == text_sha256(load_documents(spec))
        assert prepared.facts.text_sha256 != text_sha256(load_documents(replace(spec, seed=4)))
        whole = prepare_text(replace(spec, documents=0), tokenizer, PLAN).facts
        assert whole.documents == 100
        assert whole.source == {"dataset": "acme/words", "config": None, "revision": "abc", "field": "text"}
        assert prepare_text(SYNTHETIC, tokenizer, PLAN).facts.source is None

    @pytest.mark.parametrize("provider", ["wikitext2", "hf_text"])
    def test_what_is_not_there(
        self, tmp_path: Path, provider: str, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spec = TextSpec(provider, split="test", dataset="acme/words")
        with pytest.raises(ConfigurationError, match="the split test of acme/words is not on this machine"):
            load_documents(spec)
        with pytest.raises(ConfigurationError, match="none: does not exist"):
            load_documents(replace(spec, path=tmp_path / "none"))
        pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "test.parquet")
        with pytest.raises(ConfigurationError, match="the split test of acme/words: holds no text"):
            load_documents(replace(spec, path=tmp_path))
        pq.write_table(pa.table({"text": ["a longer text"]}), tmp_path / "test.parquet")
        with pytest.raises(ConfigurationError, match="the split test of acme/words is too short"):
            prepare_text(replace(spec, path=tmp_path), tokenizer, PLAN)
        monkeypatch.setattr(text, "MAX_TEXT_BYTES", 10)
        with pytest.raises(ConfigurationError, match="more than the 10 bytes"):
            load_documents(replace(spec, path=tmp_path))


def test_text_digest_tells_boundaries_apart() -> None:
    expected = hashlib.sha256(b"\x03" + bytes(7) + "aé".encode() + b"\x01" + bytes(7) + b"b").hexdigest()
    assert text_sha256(["aé", "b"]) == expected
    assert text_sha256(["aéb"]) != text_sha256(["aé", "b"]) != text_sha256(["a", "éb"])


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

    def test_fingerprint_sees_one_merge_that_is_gone(self, tmp_path: Path) -> None:
        embedded = suites_directory() / "tiny_model"
        for name in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(embedded / name, tmp_path)
        whole = tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path))
        definition = json.loads((tmp_path / "tokenizer.json").read_text())
        definition["model"]["merges"].pop()
        (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
        assert tokenizer_fingerprint(AutoTokenizer.from_pretrained(tmp_path)) != whole


def draw(stream: NDArray[np.int64], plan: WindowPlan, run: int) -> DrawnWindows:
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
