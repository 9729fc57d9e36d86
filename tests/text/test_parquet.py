"""Documents come out of parquet as they went in, sampled by seed; what is wrong with a file is told with its name."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.text import parquet as parquet_text
from pytest_proofpack.text.parquet import Sample, read_card, read_documents, split_files

LIMIT = 10**6
TEXTS = [f"text {number} naïve 🙂\n\n" for number in range(50)]


def parquet(path: Path, columns: dict[str, object], **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def refusal(file: Path, field: str = "text") -> str:
    with pytest.raises(ConfigurationError) as error:
        list(read_documents([file], field, max_bytes=LIMIT))
    message = str(error.value)
    assert str(file) in message
    return message


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two files of 20 and 30 rows, in row groups of 7."""
    return [
        parquet(tmp_path / f"{start}.parquet", {"id": list(range(len(texts))), "text": texts}, row_group_size=7)
        for start, texts in ((0, TEXTS[:20]), (20, TEXTS[20:]))
    ]


class TestDocuments:
    def test_every_row_in_order(self, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_text, "_ROWS_PER_BATCH", 3)
        assert list(read_documents(files, "text", max_bytes=LIMIT)) == TEXTS

    @pytest.mark.parametrize(
        "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
    )
    def test_every_kind_of_text(self, tmp_path: Path, kind: pa.DataType) -> None:
        file = parquet(tmp_path / "a.parquet", {"text": pa.array(["b", "a", "b", ""]).cast(kind)})
        assert list(read_documents([file], "text", max_bytes=LIMIT)) == ["b", "a", "b", ""]

    def test_a_column_whose_name_looks_like_a_path(self, tmp_path: Path) -> None:
        columns = {"a.b": ["plain"], "a": [{"b": "nested"}]}
        file = parquet(tmp_path / "a.parquet", columns)
        assert "cannot be told from" in refusal(file, "a.b")
        file = parquet(tmp_path / "b.parquet", {"a.b": ["plain"]})
        assert list(read_documents([file], "a.b", max_bytes=LIMIT)) == ["plain"]

    def test_a_sample_is_drawn_by_its_seed(self, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_text, "_ROWS_PER_BATCH", 3)
        drawn = [list(read_documents(files, "text", max_bytes=LIMIT, sample=Sample(12, seed))) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]
        for texts in drawn:
            assert len(set(texts)) == 12
            assert sorted(texts, key=TEXTS.index) == texts
        assert list(read_documents(files, "text", max_bytes=LIMIT, sample=Sample(50, 1))) == TEXTS

    def test_every_row_is_drawn_equally_often(self, files: list[Path]) -> None:
        draws = 400
        counts = dict.fromkeys(TEXTS, 0)
        for seed in range(draws):
            for text in read_documents(files, "text", max_bytes=LIMIT, sample=Sample(5, seed)):
                counts[text] += 1
        assert sum(counts.values()) == draws * 5
        deviation = (draws * 0.1 * 0.9) ** 0.5
        assert all(abs(count - draws * 0.1) < 4.5 * deviation for count in counts.values())

    def test_row_groups_without_a_row_of_the_sample_are_not_read(self, tmp_path: Path) -> None:
        """A sample of a large data set does not cost reading all of it."""
        file = parquet(tmp_path / "a.parquet", {"text": TEXTS}, row_group_size=1)
        chosen = set(read_documents([file], "text", max_bytes=LIMIT, sample=Sample(1, 0)))
        raw = bytearray(file.read_bytes())
        for group in range(50):
            if TEXTS[group] not in chosen:
                start = pq.read_metadata(file).row_group(group).column(0).dictionary_page_offset
                raw[start : start + 8] = b"\xff" * 8
        file.write_bytes(raw)
        assert set(read_documents([file], "text", max_bytes=LIMIT, sample=Sample(1, 0))) == chosen
        assert "damaged" in refusal(file)


class TestBadFiles:
    def test_no_such_column(self, tmp_path: Path) -> None:
        file = parquet(tmp_path / "a.parquet", {"id": [1], "content": ["a"]})
        assert "has no column 'text'. Its columns are 'id', 'content'; name one as text.field" in refusal(file)

    def test_two_such_columns(self, tmp_path: Path) -> None:
        file = tmp_path / "a.parquet"
        pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), file)
        assert "has the column 'text' 2 times" in refusal(file)

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            ([1], "int64"),
            ([b"a"], "binary"),
            ([["a"]], "list<"),
            ([{"text": "a"}], "struct<"),
            (pa.nulls(1), "null"),
        ],
    )
    def test_a_column_that_is_no_text(self, tmp_path: Path, values: object, kind: str) -> None:
        message = refusal(parquet(tmp_path / "a.parquet", {"text": values}))
        assert "the column 'text' holds" in message
        assert kind in message

    def test_a_null(self, tmp_path: Path) -> None:
        file = parquet(tmp_path / "a.parquet", {"text": ["a"] * 10 + [None]}, row_group_size=4)
        assert "row 10 of the column 'text' is null" in refusal(file)

    def test_bytes_that_are_not_utf8(self, tmp_path: Path) -> None:
        bad = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(bytes(4) + b"\x02\0\0\0"), pa.py_buffer(b"a\xff")]
        )
        assert "can't decode" in refusal(parquet(tmp_path / "a.parquet", {"text": bad}))

    @pytest.mark.parametrize("damage", ["cut", "zeros", "empty", "text", "missing", "directory"])
    def test_a_damaged_file(self, tmp_path: Path, damage: str) -> None:
        file = parquet(tmp_path / "a.parquet", {"text": TEXTS}, write_page_checksum=True, compression="none")
        raw = file.read_bytes()
        middle = raw.index(b"text 25")
        file.unlink()
        if damage == "directory":
            file.mkdir()
        elif damage != "missing":
            forms = {
                "cut": raw[:-9],
                "zeros": raw[:middle] + bytes(4) + raw[middle + 4 :],
                "empty": b"",
                "text": b"a" * 99,
            }
            file.write_bytes(forms[damage])
        assert "cannot be read as parquet" in refusal(file)

    @pytest.mark.parametrize(
        ("places", "message"),
        [((0, 1, 2), "declares 63 rows in its row group 0 but holds 50"), ((0,), "declares 63 rows, which cannot be")],
    )
    def test_rows_that_are_not_there(self, tmp_path: Path, places: tuple[int, ...], message: str) -> None:
        """The footer names the number of rows thrice, each time as 0x16, twice the number: column, row group, file."""
        file = parquet(tmp_path / "a.parquet", {"text": TEXTS})
        raw = bytearray(file.read_bytes())
        footer = len(raw) - 8 - int.from_bytes(raw[-8:-4], "little")
        found = [at for at in range(footer, len(raw)) if raw[at : at + 2] == b"\x16\x64"]
        for place in places:
            raw[found[place] + 1] = 2 * 63
        file.write_bytes(raw)
        assert message in refusal(file)

    def test_too_much_text(self, files: list[Path]) -> None:
        total = sum(len(text.encode()) for text in TEXTS)
        assert len(list(read_documents(files, "text", max_bytes=total))) == 50
        with pytest.raises(ConfigurationError, match=rf"0\.parquet and 1 more: more than the {total - 1} bytes"):
            list(read_documents(files, "text", max_bytes=total - 1))
        with pytest.raises(ConfigurationError, match=r"text\.documents"):
            list(read_documents(files, "text", max_bytes=total // 2))
        assert list(read_documents(files, "text", max_bytes=total // 2, sample=Sample(20, 0)))

    def test_too_many_rows(self, files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parquet_text, "MAX_DOCUMENTS", 49)
        with pytest.raises(ConfigurationError, match="50 rows, more than the 49 allowed"):
            next(read_documents(files, "text", max_bytes=LIMIT))
        assert len(list(read_documents(files, "text", max_bytes=LIMIT, sample=Sample(49, 0)))) == 49

    def test_a_small_file_does_not_unfold_into_gigabytes(self, tmp_path: Path) -> None:
        """One long text, 100000 times: a few kilobytes on disk, 100 GB as strings."""
        text = "x" * 10**6
        rows = pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int32()), [text])
        file = parquet(tmp_path / "a.parquet", {"text": rows}, compression="zstd", store_schema=False)
        assert file.stat().st_size < 10**5
        before = pa.total_allocated_bytes()
        texts = read_documents([file], "text", max_bytes=20 * 10**6)
        for _ in range(20):
            assert next(texts) == text
            assert pa.total_allocated_bytes() - before < 100 * 10**6
        with pytest.raises(ConfigurationError, match="more than the 20000000 bytes"):
            next(texts)


class TestCard:
    def test_front_matter(self, tmp_path: Path) -> None:
        file = tmp_path / "README.md"
        assert read_card(file) is None
        for content, expected in [
            ("# Title\n---\na: 1\n---\n", None),
            ("---\na: 1\n", None),
            ("---\n---\n", None),
            ("\ufeff\n---\r\na: [1, é]\r\n--- \r\n---\r\n", {"a": [1, "é"]}),
            ("---\na: &x [1]\nb: *x\n---\n", {"a": [1], "b": [1]}),
        ]:
            file.write_bytes(content.encode())
            assert read_card(file) == expected

    @pytest.mark.parametrize(
        ("front", "message"),
        [
            ("a: b: c", "cannot be read"),
            ("a: !!python/object/apply:os.getcwd []", "cannot be read"),
            ("a: 2020-13-45", "cannot be read"),
            ("- a", "is no mapping"),
            ("[" * 10**5, "nested too deeply"),
            (
                "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)),
                "merge",
            ),
            ("a: &a {k: 1}\nb: {!!merge x: *a}", "merge"),
        ],
    )
    def test_yaml_that_is_refused(self, tmp_path: Path, front: str, message: str) -> None:
        (tmp_path / "README.md").write_text(f"---\n{front}\n---\n")
        with pytest.raises(ConfigurationError, match=rf"README\.md: .*{message}"):
            read_card(tmp_path / "README.md")


class TestSplitFiles:
    def test_a_snapshot_of_links_with_a_card(self, tmp_path: Path) -> None:
        """The hub's cache keeps files elsewhere and links to them."""
        blob = parquet(tmp_path / "blobs/0", {"text": ["a"]})
        snapshot = tmp_path / "snapshots/1"
        (snapshot / "odd").mkdir(parents=True)
        (snapshot / ".cache").mkdir()
        (snapshot / ".cache/train.parquet").symlink_to(blob)
        (snapshot / "odd/name.parquet").symlink_to(blob)
        card = "---\nconfigs:\n- config_name: c\n  data_files:\n  - split: s\n    path: odd/*\n---\n"
        (snapshot / "README.md").write_text(card)
        assert split_files(snapshot, "c", "s") == [snapshot / "odd/name.parquet"]
        with pytest.raises(ConfigurationError, match=r"snapshots/1: .*no split 'train'. It has 's'"):
            split_files(snapshot, None, "train")
        (snapshot / "README.md").unlink()
        with pytest.raises(ConfigurationError, match=r"There are 'odd/name';"):
            split_files(snapshot, None, "train")

    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match="none: does not exist"):
            split_files(tmp_path / "none", None, "train")
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError, match="file: is not a directory"):
            split_files(tmp_path / "file", None, "train")
