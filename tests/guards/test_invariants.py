"""The invariants guard: every kind of structural difference is seen, named, counted and graded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.errors import FormatError
from pytest_proofpack.guards.guard import NAMES_SHOWN
from pytest_proofpack.guards.invariants import (
    Violation,
    compare_structure,
    derive_invariants,
    severity_of,
    status_of,
)
from pytest_proofpack.guards.inventory import Inventory
from pytest_proofpack.guards.structure import COMPUTATION_KEYS, COSMETIC_KEYS, SAID_TWICE, StructureMeasure, TensorFacts

POLICY = resolve_policy("balanced").section("invariants")
BASE = StructureMeasure(
    tensors={name: TensorFacts((8, 4), "float32") for name in ("embed", "up", "down", "norm")},
    norm_modules={"block.norm": "RMSNorm", "final": "RMSNorm"},
    tied=(("embed", "head"),),
    config_tied=True,
    vocabulary={"embedding": 8, "head": 8, "config": 8, "tokenizer": 7},
    config={"hidden_size": 4, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "custom": 1, "use_cache": True},
    tokenizer="a" * 64,
)


def compare(**changes: Any) -> tuple[Violation, ...]:
    return compare_structure(BASE, replace(BASE, **changes), POLICY)


def tensors(**changes: TensorFacts) -> dict[str, TensorFacts]:
    return {**BASE.tensors, **changes}


def config(**changes: object) -> dict[str, object]:
    return {**BASE.config, **changes}


ONE_OF_EACH: list[tuple[str, dict[str, Any], tuple[str, ...], str]] = [
    ("missing_tensors", {"tensors": {"embed": BASE.tensors["embed"]}}, ("down", "norm", "up"), "are missing"),
    ("unexpected_tensors", {"tensors": tensors(lora_a=TensorFacts((1,), "float32"))}, ("lora_a",), "does not have"),
    ("shape", {"tensors": tensors(up=TensorFacts((4, 8), "float32"))}, ("up",), "shapes differ"),
    ("dtype", {"tensors": tensors(up=TensorFacts((8, 4), "bfloat16"))}, ("up",), "dtypes differ"),
    (
        "non_finite",
        {"tensors": tensors(up=TensorFacts((8, 4), "float32", 2), down=TensorFacts((8, 4), "float32", 3))},
        ("down", "up"),
        "5 values are NaN or infinite",
    ),
    ("tying", {"tied": ()}, ("embed", "head"), "no longer share one storage"),
    ("tying", {"tied": (("embed", "head"), ("down", "up"))}, ("down", "up"), "now share one storage"),
    ("tying", {"config_tied": False}, ("config.tie_word_embeddings",), "is False, the baseline's is True"),
    ("vocabulary", {"vocabulary": {**BASE.vocabulary, "embedding": 16}}, ("embedding",), "embedding 8 -> 16"),
    ("vocabulary", {"vocabulary": {"embedding": 8, "config": 8, "tokenizer": 7}}, ("head",), "head 8 -> None"),
    ("config", {"config": config(rope_theta=500000.0)}, ("rope_theta",), "rope_theta 10000.0 -> 500000.0"),
    ("config", {"config": {"hidden_size": 4, "rope_theta": 10000.0, "custom": 1}}, ("rms_norm_eps",), "1e-06 -> None"),
    (
        "config",
        {"config": config(**{f"rope_theta{SAID_TWICE}": 5e5})},
        (f"rope_theta{SAID_TWICE}",),
        "differs: rope_theta",
    ),
    ("config_unknown", {"config": config(custom=2, newer=3)}, ("custom", "newer"), "other configuration differs"),
    ("norm_modules", {"norm_modules": {"final": "RMSNorm"}}, ("block.norm",), "normalisation modules differ"),
    ("norm_modules", {"norm_modules": {**BASE.norm_modules, "final": "LayerNorm"}}, ("final",), "modules differ"),
    ("loading", {"loading": {"missing": ("norm.weight",)}}, ("norm.weight",), "missing keys when loading"),
    ("tokenizer", {"tokenizer": "b" * 64}, ("tokenizer",), "own tokenizer is another one"),
]


UNSTRUCTURAL = {"non_finite", "vocabulary", "loading", "tokenizer"}


class TestKinds:
    def test_no_difference_is_no_violation(self) -> None:
        assert compare_structure(BASE, replace(BASE), POLICY) == ()

    @pytest.mark.parametrize(
        ("kind", "changes", "names", "message"), ONE_OF_EACH, ids=[f"{k[0]}-{n}" for n, k in enumerate(ONE_OF_EACH)]
    )
    def test_each_is_found_alone_and_named(
        self, kind: str, changes: dict[str, Any], names: tuple[str, ...], message: str
    ) -> None:
        (violation,) = compare(**changes)
        assert (violation.kind, violation.names, violation.count) == (kind, names, len(names))
        assert message in violation.message
        assert violation.severity == ("warning" if kind in {"dtype", "config_unknown", "tokenizer"} else "fatal")

    def test_every_kind_of_the_policy_is_among_them(self) -> None:
        others = {"layout", "vocabulary_grown"}  # of the baseline alone, and of a subject that was loaded
        assert {kind for kind, *_ in ONE_OF_EACH} | others == {*POLICY["fatal"], *POLICY["warning"]}

    def test_what_the_layout_could_not_tell_of_the_baseline_is_a_warning(self) -> None:
        base = replace(BASE, inventory=Inventory(warnings=("head could not be probed",)))
        (violation,) = compare_structure(base, base, POLICY)
        assert (violation.kind, violation.severity) == ("layout", "warning")
        assert violation.names == ("head could not be probed",)

    def test_a_tensor_that_was_untied_is_not_called_unexpected_as_well(self) -> None:
        found = compare(tied=(), tensors=tensors(head=TensorFacts((8, 4), "float32")))
        assert [violation.kind for violation in found] == ["tying"]

    def test_a_finite_subject_of_a_baseline_that_is_not_is_no_violation(self) -> None:
        base = replace(BASE, tensors=tensors(up=TensorFacts((8, 4), "float32", 1)))
        assert compare_structure(base, BASE, POLICY) == ()

    @pytest.mark.parametrize("key", sorted(COSMETIC_KEYS))
    def test_how_a_model_is_stored_does_not_matter(self, key: str) -> None:
        assert compare(config=config(**{key: "other"})) == ()

    @pytest.mark.parametrize("key", sorted(COMPUTATION_KEYS))
    def test_what_it_computes_does(self, key: str) -> None:
        (violation,) = compare(config=config(**{key: "other"}))
        assert (violation.kind, violation.severity, violation.names) == ("config", "fatal", (key,))

    def test_no_key_is_both(self) -> None:
        assert not COSMETIC_KEYS & COMPUTATION_KEYS

    def test_every_kind_of_loading_report_is_listed(self) -> None:
        loading = {"unexpected": ("a",), "missing": ("b", "c"), "mismatched": ()}
        found = [(violation.kind, violation.names) for violation in compare(loading=loading)]
        assert found == [("loading", ("b", "c")), ("loading", ("a",))]


class TestOrderAndBounds:
    def test_fatal_ones_come_first_then_by_name(self) -> None:
        found = compare(
            config=config(custom=2, hidden_size=5), tied=(), tensors=tensors(up=TensorFacts((8, 4), "float16"))
        )
        assert [violation.kind for violation in found] == ["config", "tying", "config_unknown", "dtype"]

    def test_an_unknown_tokenizer_is_no_other_one(self) -> None:
        assert compare(tokenizer=None) == ()

    def test_many_names_are_counted_but_not_all_listed(self) -> None:
        extra = {f"extra_{number:02}": TensorFacts((1,), "float32") for number in range(30)}
        (violation,) = compare(tensors=tensors(**extra))
        assert violation.count == 30
        assert violation.names == tuple(sorted(extra)[:NAMES_SHOWN])

    def test_the_order_of_the_mappings_does_not_matter(self) -> None:
        backwards = replace(
            BASE,
            tensors=dict(reversed(list(BASE.tensors.items()))),
            config=dict(reversed(list(BASE.config.items()))),
        )
        assert compare_structure(BASE, backwards, POLICY) == ()
        assert backwards.summary() == BASE.summary()


class TestSummary:
    @pytest.mark.parametrize("changes", [changes for kind, changes, *_ in ONE_OF_EACH if kind not in UNSTRUCTURAL])
    def test_the_digest_sees_every_structural_difference(self, changes: dict[str, Any]) -> None:
        if "config_tied" not in changes:
            assert replace(BASE, **changes).summary()["sha256"] != BASE.summary()["sha256"]

    def test_the_digest_does_not_see_what_is_cosmetic_or_recorded_beside_it(self) -> None:
        same = replace(
            BASE,
            config=config(use_cache=False),
            tensors=tensors(up=TensorFacts((8, 4), "float32", 9)),
            vocabulary={"embedding": 9},
        )
        assert same.summary()["sha256"] == BASE.summary()["sha256"]
        assert (same.summary()["non_finite"], same.summary()["vocabulary"]) == (9, {"embedding": 9})

    def test_counts(self) -> None:
        summary = BASE.summary()
        assert (summary["tensors"], summary["norm_modules"], summary["non_finite"]) == (4, 2, 0)
        assert (summary["tied"], summary["config_tied"]) == ([["embed", "head"]], True)


class TestGrading:
    def test_what_the_policy_does_not_know_is_fatal(self) -> None:
        assert severity_of("unheard_of", POLICY) == "fatal"
        assert severity_of("dtype", POLICY) == "warning"
        assert severity_of("dtype", {"fatal": [], "warning": []}) == "fatal"

    @pytest.mark.parametrize(
        ("severities", "status"),
        [([], "pass"), (["warning"], "warn"), (["fatal"], "fail"), (["warning", "fatal"], "fail"), (["odd"], "fail")],
    )
    def test_status(self, severities: list[str], status: str) -> None:
        assert status_of(severities) == status


MASK = "c" * 64


def masked(at: str | None = MASK, count: int = 3) -> StructureMeasure:
    return replace(BASE, tensors=tensors(mask=TensorFacts((4,), "float32", count, at)))


class TestInfinite:
    """What is -inf in both is a mask; what is in one only is damage."""

    def test_a_mask_that_both_have_is_no_violation(self) -> None:
        assert compare_structure(masked(), masked(), POLICY) == ()
        assert masked().summary(masked())["non_finite_shared"] == 3
        assert judged(masked(), masked())["status"] == "pass"

    @pytest.mark.parametrize(
        "subject", [masked("d" * 64), masked("d" * 64, 4), masked(None, 3)], ids=["elsewhere", "more", "NaN"]
    )
    def test_another_one_is(self, subject: StructureMeasure) -> None:
        (violation,) = compare_structure(masked(), subject, POLICY)
        assert (violation.kind, violation.names) == ("non_finite", ("mask",))
        assert "non_finite_shared" not in subject.summary(masked())
        assert judged(masked(), subject)["status"] == "fail"

    def test_nan_in_both_is_damage_in_both(self) -> None:
        (violation,) = compare_structure(masked(None), masked(None), POLICY)
        assert violation.kind == "non_finite"

    def test_further_ones_beside_a_shared_mask_are_named(self) -> None:
        subject = replace(masked(), tensors={**masked().tensors, "up": TensorFacts((8, 4), "float32", 2)})
        (violation,) = compare_structure(masked(), subject, POLICY)
        assert violation.names == ("up",)
        assert judged(masked(), subject)["status"] == "fail"

    @pytest.mark.parametrize("shared", [4, 10**9])
    def test_no_more_are_shared_than_there_are(self, shared: int) -> None:
        block = recorded(masked(), masked())
        block["subject"]["non_finite_shared"] = shared
        with pytest.raises(FormatError, match="not finite are shared"):
            derive_invariants(block, POLICY)


def recorded(baseline: StructureMeasure, subject: StructureMeasure) -> dict[str, Any]:
    """Return the block of a certificate."""
    violations = compare_structure(baseline, subject, POLICY)
    return {
        "baseline": baseline.summary(),
        "subject": subject.summary(baseline),
        "violations": [violation.to_json() for violation in violations],
    }


def judged(baseline: StructureMeasure, subject: StructureMeasure) -> dict[str, Any]:
    return derive_invariants(recorded(baseline, subject), POLICY)


class TestOneForm:
    """What says the same is the same to whoever compares and to whoever takes digests."""

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({"custom": None}, {}),
            ({"rope_scaling": None, "hidden_size": 4}, {"hidden_size": 4.0}),
            ({"rope_parameters": {"factor": 1, "low": None}}, {"rope_parameters": {"factor": 1.0}}),
            ({"custom": [{"a": None}, 2.0]}, {"custom": [{}, 2]}),
            ({"custom": 2**53}, {"custom": float(2**53)}),
            ({"custom": -0.0}, {"custom": 0}),
            ({"custom": (1, 2)}, {"custom": [1, 2]}),
        ],
    )
    def test_no_violation(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        first, second = (replace(BASE, config=values) for values in (ours, theirs))
        assert compare_structure(first, second, POLICY) == ()
        assert judged(first, second)["status"] == "pass"

    @pytest.mark.parametrize(
        ("ours", "theirs"),
        [
            ({"custom": True}, {"custom": 1}),
            ({"custom": False}, {}),
            ({"custom": 0}, {"custom": None}),
            ({"custom": "1"}, {"custom": 1}),
            ({"custom": {}}, {}),
            ({"custom": [None]}, {"custom": []}),
            ({"custom": 2**53}, {"custom": 2**53 + 1}),
        ],
    )
    def test_one_violation(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        first, second = (replace(BASE, config=values) for values in (ours, theirs))
        (violation,) = compare_structure(first, second, POLICY)
        assert (violation.kind, violation.names) == ("config_unknown", ("custom",))
        assert judged(first, second)["status"] == "warn"
