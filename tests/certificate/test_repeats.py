"""Repeats: which certificate is made again, what the summary says, and what verification makes of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from pytest_proofpack.certificate.build import build_certificate
from pytest_proofpack.certificate.repeats import (
    RATIO,
    RepeatRequest,
    describe,
    drift_problem,
    followed_numbers,
    repeated_request,
    repeats_findings,
    sample_of,
    summarize,
    with_repeats,
)
from pytest_proofpack.common.files import atomic_write
from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, pretty_json
from pytest_proofpack.errors import PackError
from pytest_proofpack.pack.verify import verify_pack
from pytest_proofpack.plan.byoe import byoe_suite
from pytest_proofpack.plan.records import CertificateRequest, TextSpec, WindowSample
from pytest_proofpack.plan.suites import plan_certificates
from tests.support.certificates import ONE_RUN_EACH, make_evidence, make_plan, make_run_directory
from tests.support.forgery import change_document, files_of, reseal
from tests.support.model_files import build_model_directory
from tests.support.mutations import at, dotted, leaves, other, replaced
from tests.support.packs import copy_of, pack_of

FILE = "analysis/determinism_repeats.json"
IN_PACK = "results/determinism_repeats.json"
REQUESTS = make_plan()[1].requests
QUANT = next(request for request in REQUESTS if request.scenario.id == "quant_4bit_clean")


def made(
    *, more: float = 0.0, windows: int | None = 32, determinism: str = "strict", request: CertificateRequest = QUANT
) -> JsonObject:
    """Return a certificate; ``more`` is added to the subject's loss on every final window, in nats."""
    evidence = make_evidence(request)
    subject = evidence.subject
    final = replace(subject.final, losses=tuple(loss + more for loss in subject.final.losses))
    volatile = {"seconds": {"load": 0.1}} if windows is None else {"batch": {"windows": windows, "halvings": 0}}
    facts = {"requested": determinism, "reached": determinism}
    return build_certificate(
        replace(
            evidence,
            subject=WindowSample(subject.preview, final),
            model=replace(evidence.model, determinism=facts),
            volatile=volatile,
        )
    )


def summary_of(*certificates: JsonObject, requested: int | None = None, determinism: str = "throughput") -> JsonObject:
    """Return the summary of a certificate and its repeats."""
    count = len(certificates) - 1 if requested is None else requested
    samples = [sample_of(certificate, number, f"gw{number}") for number, certificate in enumerate(certificates)]
    samples[0].entry["worker"] = None
    summary = summarize(RepeatRequest(QUANT, count, determinism), samples[::-1])
    assert schema_findings("determinism_repeats", summary) == []
    assert json.loads(pretty_json(summary)) == summary
    return summary


class TestChoice:
    @pytest.mark.parametrize(
        ("left_out", "chosen"),
        [
            ((), "quant_4bit_clean"),
            (("clean",), "prune_50pct_stress"),
            (("clean", "stress"), "nan_injection"),
            (("clean", "stress", "error"), "calibration"),
        ],
    )
    def test_a_clean_edit_if_there_is_one(self, left_out: tuple[str, ...], chosen: str) -> None:
        runs = {**ONE_RUN_EACH, "clean": 2, **dict.fromkeys(left_out, 0)}
        requests = make_plan(("acme/One", "acme/Two"), runs)[1].requests
        request = repeated_request(requests)
        assert (request.model.id, request.scenario.id, request.run) == ("acme/One", chosen, 1)

    def test_a_model_edited_elsewhere(self, tmp_path: Path) -> None:
        base, edited = (build_model_directory(tmp_path / name) for name in ("base", "edited"))
        suite = byoe_suite(str(base), (str(edited),), label=None, text=TextSpec("synthetic"), runs={})
        assert repeated_request(plan_certificates(suite).requests).scenario.id == "edited"

    def test_repeats_stand_behind_what_they_repeat(self) -> None:
        items = with_repeats(REQUESTS, 2)
        first = items.index(QUANT)
        assert [item.id for item in items[first : first + 3]] == [
            "acme/Tiny-1M-quant_4bit_clean-run_1",
            "acme/Tiny-1M-quant_4bit_clean-run_1-repeat_1",
            "acme/Tiny-1M-quant_4bit_clean-run_1-repeat_2",
        ]
        assert [item.repeat for item in items[first : first + 3]] == [0, 1, 2]
        assert tuple(item for item in items if not item.repeat) == REQUESTS == with_repeats(REQUESTS, 0)
        assert replace(items[first + 1], id=QUANT.id, repeat=0) == QUANT


class TestSummary:
    def test_the_same_bits_whatever_is_volatile(self) -> None:
        summary = summary_of(made(windows=32), made(windows=16), made(windows=None))
        assert (summary["requested"], summary["made"], summary["bit_identical"]) == (2, 2, True)
        assert (summary["batch_windows"], summary["devices"]) == ([16, 32], ["cpu"])
        assert (summary["determinism_requested"], summary["determinism_reached"]) == ("throughput", ["strict"])
        assert set(summary["metrics"]) == set(followed_numbers())
        for spread in summary["metrics"].values():
            assert spread["min"] == spread["max"] == spread["mean"]
            assert (spread["standard_deviation"], spread["largest_relative_difference"]) == (0.0, 0.0)
        assert describe(summary) == "repeats: 2 of quant_4bit_clean on acme/Tiny-1M: bit-identical"
        assert drift_problem(summary) is None

    def test_how_far_others_are_from_the_first(self) -> None:
        certificates = [made(), made(more=1e-4), made(more=-3e-4)]
        summary = summary_of(*certificates)
        ratios = np.array([certificate["primary_metric"]["ratio_vs_baseline"] for certificate in certificates])
        assert summary["metrics"][RATIO] == {
            "count": 3,
            "min": ratios.min(),
            "max": ratios.max(),
            "mean": pytest.approx(ratios.mean(), rel=1e-14),
            "standard_deviation": pytest.approx(ratios.std(ddof=1), rel=1e-9),
            "largest_relative_difference": pytest.approx(3e-4, rel=1e-3),
        }
        upper = [certificate["primary_metric"]["display_ci"][1] for certificate in certificates]
        assert summary["metrics"]["primary_metric.display_ci[1]"]["max"] == max(upper)
        assert summary["metrics"]["primary_metric.preview"]["largest_relative_difference"] == 0.0
        assert summary["bit_identical"] is False
        assert {"evaluation_windows", "primary_metric"} <= set(summary["differs_in"])
        assert not {"spectral", "rmt", "meta"} & set(summary["differs_in"])
        assert [bool(entry["differs_in"]) for entry in summary["certificates"]] == [False, True, True]
        line = "2 of 3 certificates differ from the first, largest difference of the ratio 0.0003"
        assert describe(summary) == f"repeats: 2 of quant_4bit_clean on acme/Tiny-1M: {line}"

    def test_what_is_not_a_number_is_left_out(self) -> None:
        summary = summary_of(made(), made(more=np.inf))
        assert summary["metrics"][RATIO]["count"] == 1
        assert summary["metrics"][RATIO]["standard_deviation"] is None
        summary = summary_of(made(more=np.inf), made(more=np.inf), made())
        assert summary["metrics"][RATIO]["largest_relative_difference"] is None
        assert describe(summary).endswith("1 of 3 certificates differ from the first")

    def test_nothing_came(self) -> None:
        summary = summarize(RepeatRequest(QUANT, 3, "throughput"), ())
        assert schema_findings("determinism_repeats", summary) == repeats_findings(summary, ()) == []
        assert (summary["made"], summary["bit_identical"], summary["metrics"]) == (0, None, {})
        assert describe(summary) == "repeats: 0 (3 missing) of quant_4bit_clean on acme/Tiny-1M: nothing to compare"


class TestProblem:
    def test_drift_is_one_only_under_strict_determinism(self) -> None:
        certificates = made(windows=32), made(windows=16, more=1e-4)
        assert drift_problem(summary_of(*certificates)) is None
        text = drift_problem(summary_of(*certificates, determinism="strict"))
        assert text is not None
        assert text.startswith(
            "acme/Tiny-1M, scenario quant_4bit_clean, run 1: strict determinism promises the same bits"
        )
        assert "  made on     cpu, batches of 16, 32 windows\n" in text
        assert f"  differs     {RATIO}: 0.0001\n" in text
        assert "primary_metric.preview" not in text

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            (lambda certificate: certificate["provenance"]["model_digest"].update(baseline="0" * 64), "weights"),
            (lambda certificate: certificate["dataset"]["hash"].update(text="0" * 64), "text"),
            (lambda certificate: certificate["meta"].update(tokenizer_hash="0" * 64), "tokenizer"),
        ],
    )
    @pytest.mark.parametrize("determinism", ["strict", "throughput"])
    def test_what_was_made_of_something_else_is_no_drift(
        self, change: Callable[[JsonObject], None], name: str, determinism: str
    ) -> None:
        other = made(more=1e-4)
        change(other)
        summary = summary_of(made(), made(), other, determinism=determinism)
        assert describe(summary).endswith(f"1 of 3 certificates were made of other {name}")
        text = drift_problem(summary)
        assert text is not None
        assert f"other {name} than the first had: it changed while the run was under way" in text
        assert "strict determinism promises" not in text

    def test_a_summary_of_before_tells_nothing_of_it(self) -> None:
        summary = summary_of(made(), made(more=1e-4))
        for entry in summary["certificates"]:
            del entry["inputs"]
        assert repeats_findings(summary, [made()]) == []
        assert drift_problem(summary) is None

    def test_missing_ones_always(self) -> None:
        text = drift_problem(summary_of(made(), made(), requested=4))
        assert text is not None
        assert "3 of 4 repeats are missing." in text
        assert "strict" not in text

    def test_strict_determinism_wants_something_to_compare_with(self) -> None:
        alone = summarize(RepeatRequest(QUANT, 1, "strict"), [sample_of(made(), 1)])
        assert alone["made"] == 1
        assert drift_problem(alone) is not None


class TestForgery:
    ON_THE_MAKERS_WORD = frozenset({"requested", "determinism_requested", "worker", "halvings"})
    """What nothing else in the summary tells; the manifest repeats the second."""

    @pytest.mark.parametrize("more", [0.0, 1e-4])
    def test_any_change_of_a_summary_contradicts_the_rest(self, more: float) -> None:
        certificate = made()
        summary = summary_of(certificate, made(more=more), made(more=more))
        assert repeats_findings(summary, [made(request=REQUESTS[0]), certificate]) == []
        unseen = []
        for path in leaves(summary):
            changed = replaced(summary, path, other(at(summary, path)))
            if not schema_findings("determinism_repeats", changed) and not repeats_findings(changed, [certificate]):
                unseen.append(dotted(path))
        allowed = self.ON_THE_MAKERS_WORD | ({"certificate_digest"} if more else set())  # of repeats that differ
        assert {path.rpartition(".")[2] for path in unseen} <= allowed

    def test_the_first_entry_is_the_certificate_of_the_run(self) -> None:
        summary = summary_of(made(), made())
        assert "certificates[0].certificate_digest" in "\n".join(repeats_findings(summary, [made(more=1e-4)]))
        assert "in only one of summary and pack" in "\n".join(repeats_findings(summary, []))
        without = summarize(RepeatRequest(QUANT, 1, "throughput"), [sample_of(made(), 1)])
        assert "in only one of summary and pack" in "\n".join(repeats_findings(without, [made()]))

    @pytest.mark.parametrize("more", [0.0, 1e-4])
    def test_equal_digests_mean_equal_numbers(self, more: float) -> None:
        summary = summary_of(made(), made(more=more))
        summary["certificates"][1]["certificate_digest"] = "0" * 64 if more == 0.0 else made()["certificate_digest"]
        summary["bit_identical"] = more > 0.0
        assert repeats_findings(summary, [made()]) == [
            "certificates[1]: contradicts what its digest says about equality with the first"
        ]

    def test_a_repeat_counts_once(self) -> None:
        summary = summary_of(made(), made())
        summary["certificates"].append(summary["certificates"][1])
        summary["made"] = 2
        assert "not numbered in order" in "\n".join(repeats_findings(summary, [made()]))

    def test_the_schema_knows_the_metrics(self) -> None:
        data = resources.files("pytest_proofpack").joinpath("data", "determinism_repeats.schema.json").read_bytes()
        entry = json.loads(data)["properties"]["certificates"]["items"]["properties"]["metrics"]
        assert tuple(entry["required"]) == followed_numbers()
        assert entry["maxProperties"] == len(followed_numbers())


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with repeats, and its pack; tests do not change them."""
    run = make_run_directory(tmp_path_factory.mktemp("run"))
    certificate = run.certificates[f"{QUANT.folder}/evaluation.cert.json"]
    atomic_write(run.directory / FILE, pretty_json(summary_of(certificate, certificate, made(more=1e-4), requested=3)))
    return run.directory, pack_of(run.directory, tmp_path_factory.mktemp("packed") / "pack", html=True)


@pytest.fixture
def pack(packed: tuple[Path, Path], tmp_path: Path) -> Path:
    """A pack with repeats, to damage."""
    return copy_of(packed[1], tmp_path / "pack")


class TestPack:
    def test_it_holds_the_summary_and_verifies(self, packed: tuple[Path, Path]) -> None:
        run, pack = packed
        assert (pack / IN_PACK).read_bytes() == (run / FILE).read_bytes()
        assert "repeat_1" not in "\n".join(files_of(pack))
        manifest = json.loads((pack / "manifest.json").read_bytes())
        assert manifest["repeats"] == 2
        assert manifest["determinism_repeats"] == json.loads((run / FILE).read_bytes())
        line = "repeats: 2 (1 missing) of quant_4bit_clean on acme/Tiny-1M: 1 of 3 certificates differ from the first"
        assert line in (pack / "index.html").read_text(encoding="utf-8")
        report = verify_pack(pack)
        assert report.ok
        assert "1 of 3 repeats are missing" in "\n".join(report.steps[-1].warnings)

    @pytest.mark.parametrize(
        ("change", "finding"),
        [
            (lambda summary: summary.update(bit_identical=True), f"{IN_PACK}: bit_identical: recorded True"),
            (lambda summary: summary.update(made=3), f"{IN_PACK}: made: recorded 3, the entries give 2"),
            (lambda summary: summary.pop("made"), f"{IN_PACK}: top level: 'made' is a required property"),
            (lambda summary: summary.update(determinism_requested="strict"), "is not what manifest.json says"),
            (lambda summary: summary["certificate"].update(run=9), "certificate: is none that the run expects"),
        ],
    )
    def test_a_changed_summary_is_found(self, pack: Path, change: Callable[[JsonObject], object], finding: str) -> None:
        change_document(pack / IN_PACK, change)
        assert not verify_pack(pack).ok  # by its digest
        summary = json.loads((pack / IN_PACK).read_bytes())
        reseal(pack, lambda manifest: manifest.update(determinism_repeats=summary))
        report = verify_pack(pack)
        assert not report.ok
        assert finding in "\n".join(line for step in report.steps for line in step.findings)

    @pytest.mark.parametrize(("key", "value"), [("repeats", 3), ("determinism_repeats", None)])
    def test_the_manifest_has_to_agree(self, pack: Path, key: str, value: object) -> None:
        reseal(pack, lambda manifest: manifest.update({key: value}))
        assert f"manifest.json: {key}: recorded {value!r}" in "\n".join(verify_pack(pack).steps[-1].findings)

    def test_a_pack_without_repeats_may_not_count_any(self, pack: Path) -> None:
        (pack / IN_PACK).unlink()
        reseal(pack, lambda manifest: manifest.update(determinism_repeats=None))
        assert verify_pack(pack).steps[-1].findings == ("manifest.json: repeats: recorded 2, the pack gives 0",)

    def test_a_summary_that_does_not_add_up_is_not_packed(self, packed: tuple[Path, Path], tmp_path: Path) -> None:
        run = copy_of(packed[0], tmp_path / "run")
        change_document(run / FILE, lambda summary: summary.update(made=3))
        with pytest.raises(PackError, match=r"determinism_repeats.json of the run does not add up \(made: recorded 3"):
            pack_of(run, tmp_path / "pack")
        assert not (tmp_path / "pack").exists()
