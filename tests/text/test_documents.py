"""Documents come out as written, whatever they are read from; bad files and data sets are named."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import PreTrainedTokenizerFast

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec, WindowPlan
from pytest_proofpack.text import local_files
from pytest_proofpack.text.documents import load_documents, text_sha256
from pytest_proofpack.text.synthetic import generate
from pytest_proofpack.text.windows import prepare_text
from tests.support.model_files import small_tokenizer

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

    def test_jsonl_as_programs_write_it(self, tmp_path: Path) -> None:
        content = '\ufeff{"text": "a", "score": NaN}\n{"text": "b", "score": -Infinity}\n'
        assert load_documents(local(tmp_path / "t.jsonl", content, "local_jsonl")) == ["a", "b"]

    @pytest.mark.parametrize(
        ("line", "message"),
        [
            ('{"text": null}', r"line 2: the field 'text' is null\..*Delete the line"),
            ('{"text": NaN}', r"line 2: the field 'text' is no string"),
            ("null", r"line 2: expected a JSON object"),
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
        monkeypatch.setattr(local_files, "MAX_TEXT_BYTES", 10)
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
        monkeypatch.setattr(local_files, "MAX_TEXT_BYTES", 10)
        with pytest.raises(ConfigurationError, match="more than the 10 bytes"):
            load_documents(replace(spec, path=tmp_path))


def test_text_digest_tells_boundaries_apart() -> None:
    expected = hashlib.sha256(b"\x03" + bytes(7) + "aé".encode() + b"\x01" + bytes(7) + b"b").hexdigest()
    assert text_sha256(["aé", "b"]) == expected
    assert text_sha256(["aéb"]) != text_sha256(["aé", "b"]) != text_sha256(["a", "éb"])
