"""``proofpack show`` and ``proofpack export``: what people and other tools read, by those tools' own readers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import (
    EvalResultEntry,
    ModelCard,
    ModelCardData,
    eval_result_entries_to_yaml,
    parse_eval_result_entries,
)

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.formats import finish_certificate
from pytest_proofpack.commands.export import FORMATS
from pytest_proofpack.common.strict_json import pretty_json, read_json
from pytest_proofpack.results.exports import EXPORTS
from pytest_proofpack.results.exports.rows import _cell
from tests.results.conftest import PACKED_QUANT, QUANT, Command, few_certificates
from tests.support.certificates import make_evidence, make_plan
from tests.support.forgery import forge_certificate, rederive
from tests.support.packs import copy_of

REQUEST = next(one for one in make_plan()[1].requests if one.scenario.id == "quant_4bit_clean")
SOURCE = {"dataset": "acme/texts", "config": "plain", "revision": "5" * 40, "field": "text"}
HOSTILE = '=cmd|\' /C calc\'!A0",`<b>\n@x: "y" \U0001f600\u2028\\'


@pytest.fixture(scope="module")
def hosted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate on a text of the hub."""
    evidence = make_evidence(REQUEST)
    certificate = build_certificate(replace(evidence, text=replace(evidence.text, source=SOURCE)))
    path = tmp_path_factory.mktemp("hosted") / "evaluation.cert.json"
    path.write_text(pretty_json(certificate))
    return path


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a model with a name that means something everywhere."""
    return few_certificates(tmp_path_factory.mktemp("hostile") / "run", model_ids=[HOSTILE])


def test_every_export_can_be_asked_for() -> None:
    assert tuple(EXPORTS) == FORMATS


class TestShow:
    def test_markdown_is_what_a_pull_request_wants(
        self, proofpack: Command, pack: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("show", pack) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "### PASS: 6 of 6 certificates are what their scenarios demand"
        assert "- `verified; unsigned: nothing tells who made this pack`" in lines
        table = [line for line in lines if line.startswith("| `acme/Tiny-1M` | `quant_4bit_clean`")]
        assert len(table) == 1
        assert table[0].endswith(" PASSED |")
        assert "<summary>3 stress edits and injected errors, all as expected</summary>" in lines

    def test_what_is_not_as_expected_stands_out(
        self, proofpack: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("show", few_certificates(tmp_path / "run", shifts={"quant_4bit_clean": 1.0})) == 0
        printed = capsys.readouterr().out
        assert printed.startswith("### FAIL: 5 of 6 ")
        assert "| **FAILED** |" in printed
        assert "- `acme/Tiny-1M quant_4bit_clean run 1` FAILED: `not held: perplexity" in printed
        assert "_acceptable" not in printed

    def test_text_and_json(self, proofpack: Command, pack: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert proofpack("show", pack, "--format=text") == 0
        assert "policy        tier balanced, profile dev" in capsys.readouterr().out
        assert proofpack("show", pack, "--format=json", "--require-verdict=FAIL") == 3
        shown = json.loads(capsys.readouterr().out)
        assert (shown["verified"], len(shown["certificates"]), shown["facts"]["suite"]) == (True, 6, "small")

    def test_a_hostile_name_is_one_code_span(
        self, proofpack: Command, hostile: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        proofpack("show", hostile)
        printed = capsys.readouterr().out
        assert "<b>" not in printed
        assert "\\x60\\x3cb\\x3e\\x0a@x" in printed
        assert len({line.count("|") for line in printed.splitlines() if line.startswith("|")}) == 1


class TestRows:
    def test_json_has_every_number(
        self, proofpack: Command, run_directory: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("export", run_directory, "--format=json", "--edit=quant_4bit_clean") == 0
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        metric = read_json(run_directory / QUANT)["primary_metric"]
        assert [row["ratio"], row["ratio_low"], row["ratio_high"]] == [
            metric["ratio_vs_baseline"],
            *metric["display_ci"],
        ]
        assert row["perplexity"] / row["perplexity_baseline"] == pytest.approx(row["ratio"])

    def test_csv_holds_no_formula(self, proofpack: Command, hostile: Path, tmp_path: Path) -> None:
        target = tmp_path / "rows.csv"
        assert proofpack("export", hostile, "--format=csv", f"--output={target}") == 0
        with target.open(newline="") as stream:
            rows = list(csv.DictReader(stream))
        assert len(rows) == 6
        assert {row["model"] for row in rows} == {"'=cmd|' /C calc'!A0\",`<b>\\x0a@x: \"y\" \U0001f600\\u2028\\"}
        assert {float(row["ratio"]) > 0 for row in rows if row["ratio"]} == {True}
        assert next(row["failed_gates"] for row in rows if row["scenario"] == "nan_injection")

    @pytest.mark.parametrize(
        ("name", "cell"),
        [
            ('a;=HYPERLINK("http://x?"&A1)', 'a;\'=HYPERLINK("http://x?"&A1)'),
            ('a, "=1+1', "a, \"'=1+1"),
            ("\uff1d1+1", "'\uff1d1+1"),
            ("a;\uff20x", "a;'\uff20x"),
            ("acme/tiny-1m;v2=a", "acme/tiny-1m;v2=a"),
        ],
    )
    def test_no_separator_begins_a_formula(self, name: str, cell: str) -> None:
        assert _cell(name) == cell


class TestLmEval:
    def test_its_table_can_be_made(self, proofpack: Command, run_directory: Path, tmp_path: Path) -> None:
        """Everything that ``lm_eval.utils.make_table`` and the loggers of lm-eval 0.4.13 look up."""
        target = tmp_path / "results.json"
        assert proofpack("export", run_directory, "--format=lm-eval", f"--output={target}") == 0
        document = json.loads(target.read_bytes())
        tasks = document["results"]
        for task, metrics in tasks.items():
            assert document["versions"][task] == 1
            assert document["n-shot"][task] == 0
            assert document["group_subtasks"][task] == []
            assert document["configs"][task]["task"] == task
            assert document["n-samples"][task]["effective"] == metrics["sample_len"] == 80
            for key, value in metrics.items():
                name, _, form = key.partition(",")
                if form and not name.endswith("_stderr"):
                    assert form == "none"
                    assert isinstance(value, float)
                    assert name in document["higher_is_better"][task]
                    error = metrics[f"{name}_stderr,none"]
                    assert error == "N/A" or isinstance(error, float)
        quant = tasks["quant_4bit_clean"]
        low, high = read_json(run_directory / QUANT)["primary_metric"]["display_ci"]
        assert 2 * 1.96 * quant["perplexity_ratio_stderr,none"] == pytest.approx(high - low, rel=0.01)
        assert "perplexity,none" not in tasks["nan_injection"] or tasks["nan_injection"]["passed,none"] == 0.0
        assert document["config"]["model_args"] == "pretrained=acme/Tiny-1M"


class TestModelCard:
    def test_huggingface_hub_reads_it(self, proofpack: Command, hosted: Path, tmp_path: Path) -> None:
        card_file, url = tmp_path / "README.md", "https://example.org/pack"
        arguments = ("--format=model-card", "--name=acme/tiny-int4", f"--url={url}", f"--output={card_file}")
        assert proofpack("export", hosted, *arguments) == 0
        data = ModelCard.load(card_file).data
        assert isinstance(data, ModelCardData)
        assert (data.model_name, data.base_model) == ("acme/tiny-int4", "acme/Tiny-1M")
        assert data.eval_results is not None
        metric = read_json(hosted)["primary_metric"]
        found = {result.metric_type: result for result in data.eval_results}
        assert found["perplexity"].metric_value == metric["final"]
        assert found["perplexity_ratio"].metric_value == metric["ratio_vs_baseline"]
        first = found["perplexity"]
        assert [first.dataset_type, first.dataset_config, first.dataset_split, first.dataset_revision] == [
            "acme/texts", "plain", "evaluation", "5" * 40,
        ]  # fmt: skip
        assert first.source_url == url
        # What huggingface_hub writes of it says the same.
        assert ModelCardData(**yaml.safe_load(str(data))).eval_results == data.eval_results

    def test_the_baseline_by_its_name_on_the_hub(self, proofpack: Command, hosted: Path, tmp_path: Path) -> None:
        card_file = tmp_path / "README.md"
        arguments = ("--format=model-card", "--base-model=acme/base", f"--output={card_file}")
        assert proofpack("export", hosted, *arguments) == 0
        card = ModelCard.load(card_file)
        assert card.data.base_model == "acme/base"
        assert "certified against `acme/base` with" in card.text

    def test_hostile_text_stays_text(self, proofpack: Command, hostile: Path, tmp_path: Path) -> None:
        target = tmp_path / "README.md"
        arguments = ("--format=model-card", "--edit=quant_4bit_clean", f"--output={target}")
        assert proofpack("export", hostile, *arguments) == 0
        data = ModelCard.load(target).data
        assert data.base_model == '=cmd|\' /C calc\'!A0",`<b>\\x0a@x: "y" \U0001f600\\u2028\\'
        assert len(data.eval_results) == 3

    def test_an_entry_of_eval_results(self, proofpack: Command, hosted: Path, tmp_path: Path) -> None:
        target = tmp_path / "texts.yaml"
        assert proofpack("export", hosted, "--format=eval-results", f"--output={target}") == 0
        document = yaml.safe_load(target.read_text())
        (entry,) = parse_eval_result_entries(document)
        assert isinstance(entry, EvalResultEntry)
        assert (entry.dataset_id, entry.task_id, entry.dataset_revision) == ("acme/texts", "plain", "5" * 40)
        assert entry.value == read_json(hosted)["primary_metric"]["final"]
        assert eval_result_entries_to_yaml([entry]) == document

    def test_an_edit_may_call_anything_its_subject(
        self, proofpack: Command, run_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        certificate = read_json(run_directory / QUANT)
        certificate["provenance"]["edit"]["subject"] = {"a": 1}
        rederive(certificate)
        (tmp_path / "one.json").write_text(pretty_json(finish_certificate(certificate)))
        assert proofpack("export", tmp_path / "one.json", "--format=model-card") == 0
        assert "`acme/Tiny-1M quant_4bit_clean` was certified" in capsys.readouterr().out

    def test_small_numbers_stay_numbers(self) -> None:
        from pytest_proofpack.results.exports.model_card import _scalar

        for value in (1e-05, 1.5e-07, 1e16, 0.1, 3.0, 2):
            assert yaml.safe_load(_scalar(value)) == value

    def test_it_is_about_one_edit_that_was_verified(
        self, proofpack: Command, pack: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert proofpack("export", pack, "--format=model-card") == 2
        assert "--edit: a model card is about one edit; say which: quant_4bit_clean, " in capsys.readouterr().err
        assert proofpack("export", pack, "--format=model-card", "--edit=nan_injection") == 2
        assert "nothing to ship" in capsys.readouterr().err
        assert proofpack("export", pack, "--format=csv", "--edit=quant") == 2
        assert "--edit: there is no 'quant'; there is: calibration, " in capsys.readouterr().err
        assert proofpack("export", pack, "--format=eval-results", "--edit=quant_4bit_clean") == 2
        assert "the text is of synthetic" in capsys.readouterr().err
        forged = copy_of(pack, tmp_path / "forged")
        forge_certificate(forged, PACKED_QUANT, lambda certificate: certificate["primary_metric"].update(final=1.0))
        assert proofpack("export", forged, "--format=csv") == 1
        card = ("--format=model-card", "--edit=quant_4bit_clean", "--accept-unverified")
        assert proofpack("export", forged, *card) == 2
        assert "is not verified" in capsys.readouterr().err
