"""What a text source takes, and a source from outside: chosen by a suite file, with keys of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import TextSpec
from pytest_proofpack.plan.suites import load_suite
from pytest_proofpack.plan.text_sources import TEXT_SOURCES, TextSource, text_of_file
from pytest_proofpack.text.documents import load_documents, recorded_source
from tests.support.own_text_source import STORIES

SUITE = """
schema = "proof_pack_suite_v1"
name = "mine"
[[models]]
id = "acme/a"
[text]
provider = "stories"
words = ["owl", "moss"]
documents = 3
"""


@pytest.fixture
def registered() -> Iterator[None]:
    TEXT_SOURCES.register(STORIES)
    yield
    TEXT_SOURCES.unregister(STORIES.name)


def suite_text(folder: Path, text: str) -> TextSpec:
    (folder / "mine.toml").write_text(text)
    return load_suite(str(folder / "mine.toml")).text


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        suite_text(folder, text)
    return str(caught.value)


class TestFromOutside:
    @pytest.mark.usefixtures("registered")
    def test_its_own_keys_reach_it(self, tmp_path: Path) -> None:
        spec = suite_text(tmp_path, SUITE)
        assert spec == TextSpec("stories", documents=3, options={"words": ["owl", "moss"], "length": 60})
        documents = load_documents(spec)
        assert len(documents) == 3
        assert {word for document in documents for word in document.split(" ")} == {"owl", "moss"}
        assert load_documents(replace(spec, options={**spec.options, "length": 2}))[0].count(" ") == 1
        assert recorded_source(spec) is None
        assert hash(spec) == hash(replace(spec, options={}))  # sources of the hub, which hold a text, are kept in sets

    def test_unknown_without_its_extension(self, tmp_path: Path) -> None:
        expected = (
            f"{tmp_path}/mine.toml: text.provider: the text source 'stories' is unknown; expected one of synthetic, "
        )
        assert refusal(tmp_path, SUITE).startswith(expected)

    @pytest.mark.usefixtures("registered")
    @pytest.mark.parametrize(
        ("before", "after", "message"),
        [
            ("documents = 3", "", "text.documents: the provider stories needs a value for documents"),
            ("documents = 3", "documents = 3\npath = 'a'", "text.path: means nothing to the provider stories, which"),
            ("documents = 3", "documents = '3'", "text.documents: '3' is not of type 'integer'"),
            ("documents = 3", "documents = 3\nlength = nan", "text: cannot be written as strict JSON"),
            ("documents = 3", "documents = 3\nlength = 2024-01-01", "text.length: datetime.date(2024, 1, 1) is not"),
            ('"moss"', "{}", "text.words[1]: {} is not of type 'string', 'number', 'boolean'"),
        ],
    )  # fmt: skip
    def test_a_key_that_does_not_fit(self, tmp_path: Path, before: str, after: str, message: str) -> None:
        assert message in refusal(tmp_path, SUITE.replace(before, after))

    def test_no_name_is_given_twice(self) -> None:
        with pytest.raises(ConfigurationError, match="text source 'synthetic' is registered already"):
            TEXT_SOURCES.register(replace(STORIES, name="synthetic"))

    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (5, "the bad text: its document 2 is a int, not a str. Correct what the text source bad returns"),
            ("\ud800", "its document 2 holds half of a surrogate pair at character 0"),
        ],
    )
    def test_what_is_no_text_is_named(self, document: Any, message: str) -> None:
        TEXT_SOURCES.register(TextSource("bad", lambda _: ["good", document]))
        try:
            with pytest.raises(ConfigurationError, match=message):
                load_documents(TextSpec("bad"))
        finally:
            TEXT_SOURCES.unregister("bad")

    def test_a_data_set_of_its_own(self) -> None:
        TEXT_SOURCES.register(TextSource("news", lambda _: ["a"], defaults={"dataset": "acme/news"}, is_dataset=True))
        try:
            source = recorded_source(TextSpec("news", dataset="acme/news", revision="abc"))
            assert source == {"dataset": "acme/news", "config": None, "revision": "abc", "field": "text"}
        finally:
            TEXT_SOURCES.unregister("news")


def test_a_file_is_read_by_its_suffix() -> None:
    assert text_of_file("a.TXT", "--proofpack-text") == TextSpec("local_text", Path("a.TXT"))
    TEXT_SOURCES.register(TextSource("markdown", lambda _: [], takes=("path",), suffixes=(".md", ".markdown")))
    try:
        assert text_of_file("notes.md", "--proofpack-text").provider == "markdown"
        with pytest.raises(ConfigurationError, match=r"expected a \.txt or a \.jsonl or a \.md or a \.markdown file"):
            text_of_file("a.pdf", "--proofpack-text")
    finally:
        TEXT_SOURCES.unregister("markdown")


@pytest.mark.parametrize("name", ["synthetic", "local_text", "local_jsonl", "wikitext2", "hf_text"])
def test_what_a_source_takes_is_what_it_can_be_told(name: str) -> None:
    source = TEXT_SOURCES[name]
    values: dict[str, Any] = {"path": Path("a"), "seed": 1, "documents": 2}
    spec = source.spec({key: values.get(key, "b") for key in (*source.needs, *source.takes)}, "a test")
    assert spec.provider == name
    assert not spec.options
