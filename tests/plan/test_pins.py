"""Revisions documents: what is written is read, and nothing but commits is a pin."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.pins import Pin, Revisions, Role, is_commit, read_revisions

A, B = "a" * 40, "b" * 40
MODEL, TEXTS = (Role.MODEL, "acme/small"), (Role.DATASET, "acme/texts")


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages name files as one would type them


class TestDocument:
    def test_what_is_written_is_read(self, tmp_path: Path) -> None:
        pins = {
            MODEL: Pin(A, "2026-01-31T12:00:00Z", gated=True, private=False, license="mit"),
            (Role.MODEL, "local"): Pin(None),
            TEXTS: Pin(B),
        }
        revisions = Revisions("s", "2026-01-31T12:00:00Z", ("acme/small", "local"), pins)
        document = revisions.document()
        assert schema_findings("model_revisions", document) == []
        assert document["models"]["acme/small"] == {
            "revision": A,
            "resolved_at": "2026-01-31T12:00:00Z",
            "gated": True,
            "private": False,
            "license": "mit",
        }
        assert "subjects" not in document
        (tmp_path / "r.json").write_text(json.dumps(document))
        assert read_revisions(tmp_path / "r.json") == revisions == Revisions.from_document(revisions.document())

    def test_other_tools_may_add_to_it(self, tmp_path: Path) -> None:
        (tmp_path / "r.json").write_text(json.dumps({"models": {"m": {"revision": A, "size": 3}}, "tool": "t"}))
        assert read_revisions(tmp_path / "r.json").pins == {(Role.MODEL, "m"): Pin(A)}

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            ("[]", "expected a JSON object"),
            ("{", "not valid JSON"),
            ("{}", "the key 'models' is missing"),
            ('{"models": {"m": {}}}', "models.m: the key 'revision' is missing"),
            ('{"models": {"m": {"revision": "main"}}}', "models.m.revision: 'main' does not match"),
            (f'{{"models": {{"m": {{"revision": "{A.upper()}"}}}}}}', "does not match"),
            (f'{{"models": {{"m": {{"revision": "{A}\\n"}}}}}}', "is too long"),
            ('{"models": {"m": {"revision": "' + "a" * 39 + '"}}}', "does not match"),
        ],
    )
    def test_what_is_none_is_refused(self, tmp_path: Path, content: str, expected: str) -> None:
        (tmp_path / "r.json").write_text(content)
        with pytest.raises(ConfigurationError, match=expected) as caught:
            read_revisions(tmp_path / "r.json")
        assert "--proofpack-revisions" in str(caught.value)
        assert "r.json" in str(caught.value)

    @pytest.mark.parametrize("text", [None, "main", A[:39], A.upper(), A + "\n", "g" * 40])
    def test_only_full_hashes_are_commits(self, text: str | None) -> None:
        assert is_commit(A)
        assert not is_commit(text)
