"""The files of a split are found by card and by layout, in order and whole; names that lead elsewhere are refused."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.text import dataset_layout as dataset_files
from pytest_proofpack.text.dataset_layout import select_files

WIKITEXT = [
    "README.md",
    *(
        f"wikitext-{size}-raw-v1/{split}-00000-of-00001.parquet"
        for size in (2, 103)
        for split in ("test", "validation")
    ),
    "wikitext-2-raw-v1/train-00000-of-00001.parquet",
    "wikitext-103-raw-v1/train-00001-of-00002.parquet",
    "wikitext-103-raw-v1/train-00000-of-00002.parquet",
]


def card(data_files: object, **keys: object) -> dict[str, Any]:
    return {"license": "mit", "configs": [{"config_name": "main", "data_files": data_files, **keys}]}


WIKITEXT_CARD = {
    "configs": [
        {
            "config_name": name,
            "data_files": [{"split": split, "path": f"{name}/{split}-*"} for split in ("test", "train", "validation")],
        }
        for name in ("wikitext-103-raw-v1", "wikitext-2-raw-v1")
    ]
}


def refusal(paths: list[str], card: dict[str, Any] | None, config: str | None, split: str) -> str:
    with pytest.raises(ConfigurationError) as error:
        select_files(paths, card, config, split)
    return str(error.value)


class TestCard:
    @pytest.mark.parametrize("listed", [WIKITEXT_CARD, None])
    def test_wikitext(self, listed: dict[str, Any] | None) -> None:
        assert select_files(WIKITEXT, listed, "wikitext-2-raw-v1", "validation") == (
            "wikitext-2-raw-v1/validation-00000-of-00001.parquet",
        )
        assert select_files(WIKITEXT, listed, "wikitext-103-raw-v1", "train") == (
            "wikitext-103-raw-v1/train-00000-of-00002.parquet",
            "wikitext-103-raw-v1/train-00001-of-00002.parquet",
        )

    @pytest.mark.parametrize(
        ("data_files", "split", "expected"),
        [
            ("a/*.parquet", "train", ("a/1.parquet", "a/2.parquet")),
            (["b.parquet", "./a/2.parquet"], "train", ("b.parquet", "a/2.parquet")),
            ("**", "train", ("a/1.parquet", "a/2.parquet", "a/x/3.parquet", "b.parquet")),
            ("a/**/*.parquet", "train", ("a/1.parquet", "a/2.parquet", "a/x/3.parquet")),
            ("*/?.parquet", "train", ("a/1.parquet", "a/2.parquet")),
            ([{"split": "new", "path": ["a/x/*", "a/[12].*", "a/2.parquet"]}], "new",
             ("a/x/3.parquet", "a/1.parquet", "a/2.parquet")),
            ([{"split": "new", "path": "b.parquet"}, {"split": "new", "path": "a/1*"}], "new",
             ("b.parquet", "a/1.parquet")),
        ],
    )  # fmt: skip
    def test_forms_of_data_files(self, data_files: object, split: str, expected: tuple[str, ...]) -> None:
        paths = ["b.parquet", "a/2.parquet", "a/1.parquet", "a/x/3.parquet", "a/1.txt", "README.md"]
        assert select_files(paths, card(data_files), "main", split) == expected

    def test_the_default_config(self) -> None:
        entries: list[dict[str, object]] = [
            {"config_name": name, "data_files": f"{name}.parquet"} for name in ("a", "b", "default")
        ]
        paths = ["a.parquet", "b.parquet", "default.parquet"]
        assert select_files(paths, {"configs": entries}, None, "train") == ("default.parquet",)
        assert select_files(paths, {"configs": entries[:1]}, None, "train") == ("a.parquet",)
        entries[1] |= {"default": True}
        assert select_files(paths, {"configs": entries}, None, "train") == ("b.parquet",)
        entries[1]["default"] = "no"
        message = refusal(paths, {"configs": entries[:2]}, None, "train")
        assert "2 configs and none that is the default" in message
        assert "'a', 'b'; give one as text.config" in message

    def test_configs_without_a_list_of_files(self) -> None:
        paths = ["de/train-00000-of-00001.parquet", "sub/train.parquet", "train.parquet"]
        configs = [{"config_name": "de"}, {"config_name": "fr", "data_dir": "./sub/"}, {"config_name": "all"}]
        expected = {"de": paths[0], "fr": paths[1], "all": paths[2]}
        for name, path in expected.items():
            assert select_files(paths, {"configs": configs}, name, "train") == (path,)

    @pytest.mark.parametrize(
        ("config", "split", "message"),
        [
            (
                "wikitext-2-v1",
                "test",
                "no configs 'wikitext-2-v1'. Its card names 'wikitext-103-raw-v1', 'wikitext-2-raw",
            ),
            (
                "wikitext-2-raw-v1",
                "dev",
                "has no split 'dev'. It has 'test', 'train', 'validation'; give one as text.sp",
            ),
        ],
    )
    def test_what_is_there_is_told(self, config: str, split: str, message: str) -> None:
        assert message in refusal(WIKITEXT, WIKITEXT_CARD, config, split)

    def test_files_that_are_not_parquet_or_not_there(self) -> None:
        message = refusal(["data/a.jsonl"], card("data/*"), "main", "train")
        assert "'data/*', but no parquet file is called so ('data/a.jsonl' is no parquet)" in message
        assert "refs/convert/parquet" in message
        assert "'b.parquet', but no" in refusal(["a.parquet"], card(["a.parquet", "b.parquet"]), "main", "train")

    @pytest.mark.parametrize(
        ("configs", "message"),
        [
            ("main", "configs must be a list"),
            (["main"], "configs must be a list"),
            ([{"config_name": "main", "data_files": None}], "data_files of config 'main' must be"),
            ([{"config_name": "main", "data_files": [[1]]}], "data_files of config 'main' must be"),
            (
                [{"config_name": "main", "data_files": [{"split": 1, "path": "a"}]}],
                "data_files of config 'main' must be",
            ),
            ([{"config_name": "main", "data_files": [{"path": "a"}]}], "data_files of config 'main' must be"),
            ([{"config_name": "main", "data_files": {"a": {"b": 1}}}], "data_files of config 'main' must be"),
            ([{"config_name": "main", "data_files": "*" * 401}], "data_files of config 'main' must be"),
            ([{"config_name": "main"}] * 2, "2 configs 'main'"),
            ([{"config_name": "main", "data_files": "../*.parquet"}], "'../*.parquet', which leads out of"),
            ([{"config_name": "main", "data_files": "/etc/*.parquet"}], "'/etc/*.parquet', which leads out of"),
            ([{"config_name": "main", "data_files": "hf://datasets/a/b/c.parquet"}], "which leads out of"),
        ],
    )
    def test_a_card_that_makes_no_sense(self, configs: object, message: str) -> None:
        assert message in refusal(["a.parquet"], {"configs": configs}, "main", "train")


class TestLayouts:
    @pytest.mark.parametrize(
        ("paths", "config", "expected"),
        [
            (["train.parquet", "test.parquet"], None, [0]),
            (["data/train-00000-of-00002-0123456789ab.parquet", "data/train-00001-of-00002-fedcba987654.parquet",
              "data/test-00000-of-00001-0123456789ab.parquet"], None, [0, 1]),
            (["train-0.parquet", "train-1.parquet", "training.parquet", "train-clean-0.parquet"], "default", [0, 1]),
            (["en/train.parquet", "fr/train.parquet"], "fr", [1]),
            (["en/train/0000.parquet", "en/train/0001.parquet", "en/test/0000.parquet"], "en", [0, 1]),
            (["en/train/0000.parquet", "en/test/0000.parquet"], None, [0]),
            (["train/any.parquet", "test/any.parquet"], None, [0]),
            (["data/train/any.parquet", "data/test/any.parquet"], None, [0]),
            (["data/en/train-00000-of-00001.parquet", "en.parquet"], "en", [0]),
            (["default/train/0000.parquet", "other/train/0000.parquet"], "default", [0]),
            (["train-00000-of-00001.parquet", "train.parquet", "train/0.parquet", "x/train.parquet"], None, [0]),
        ],
    )  # fmt: skip
    def test_usual_ones(self, paths: list[str], config: str | None, expected: list[int]) -> None:
        assert select_files(paths[::-1], None, config, "train") == tuple(paths[number] for number in expected)
        assert select_files(paths, {"license": "mit"}, config, "train") == tuple(paths[number] for number in expected)

    def test_what_is_there_is_told(self) -> None:
        paths = ["en/train-00000-of-00002.parquet", "en/train-00001-of-00002.parquet", "fr/train.parquet"]
        for config, split in [("de", "train"), ("en", "test"), (None, "train")]:
            message = refusal(paths, None, config, split)
            assert "There are 'en/train', 'fr/train'; give what you want as text.config and text.split" in message
        assert "no parquet files at all" in refusal(["train.csv"], None, None, "train")


class TestShards:
    @pytest.mark.parametrize("listed", [card("data/*"), None])
    @pytest.mark.parametrize(
        "parts",
        [
            ["00000-of-00003", "00002-of-00003"],
            ["00001-of-00001"],
            ["00000-of-00001-0123456789", "00000-of-00001-abcdef0123"],
            ["00000-of-00002-0123456789", "00000-of-00002-abcdef0123"],
            ["00000-of-00001", "00000-of-00002", "00001-of-00002"],
            ["00000-of-999999999"],
            ["00000-of-00000"],
        ],
    )
    def test_all_must_be_there_once(self, parts: list[str], listed: dict[str, Any] | None) -> None:
        paths = [f"data/train-{part}.parquet" for part in parts]
        message = refusal(paths, listed, "main" if listed else None, "train")
        assert f"does not have all parts of 'data/train' once: of {int(parts[0].split('-')[2])} it has 0" in message


class TestHostile:
    @pytest.mark.parametrize(
        "name", ["../x.parquet", "/x.parquet", "a/../../x.parquet", "a//x.parquet", "a\\x.parquet", "a\0.parquet"]
    )
    def test_a_name_that_is_no_plain_path_is_refused(self, name: str) -> None:
        for listed in (card("**"), card("train.parquet"), None):
            message = refusal(["train.parquet", name], listed, None, "train")
            assert repr(name) in message
            assert message.isprintable()

    def test_patterns_do_not_explode(self) -> None:
        """Each of these would keep a matcher that backtracks busy for years."""
        paths = ["a/" * 60 + "a" * 100 + ".parquet"]
        for pattern in ("**/a/" * 60 + "b", "*a" * 150 + "b", "**/" * 100 + "b"):
            assert "no parquet file is called so" in refusal(paths, card(pattern), "main", "train")

    def test_everything_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        paths = [f"{number}.parquet" for number in range(5)]
        monkeypatch.setattr(dataset_files, "MAX_FILES", 4)
        assert "has 5 files, more than the 4 allowed" in refusal(paths, card("**"), "main", "train")
        assert "more than 4 paths" in refusal(paths, card(paths), "main", "train")
        assert "more than 4 paths" in refusal(paths, card([{"split": "train", "path": paths}]), "main", "train")
        monkeypatch.setattr(dataset_files, "_MAX_COMPARISONS", 9)
        assert "2 patterns for one split" in refusal(paths, card(["*", "?"]), "main", "train")
        monkeypatch.setattr(dataset_files, "MAX_PATHS", 4)
        assert "5 files, more than the 4 allowed" in refusal(paths, None, None, "train")
