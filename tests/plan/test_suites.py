"""Suites: the packaged ones, files of one's own, and the plan of certificates that follows from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.schemas import schema_findings
from pytest_proofpack.common.strict_json import JsonObject, compact_json
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.files import check_model_directory
from pytest_proofpack.plan.expected import expected_certificates
from pytest_proofpack.plan.records import Category, EditSpec, FaultSpec, ModelSpec, RequestedEdit, TextSpec
from pytest_proofpack.plan.scenarios import CALIBRATION, parse_scenarios
from pytest_proofpack.plan.suites import (
    EMBEDDED,
    Plan,
    Suite,
    WindowChoice,
    default_windows,
    load_suite,
    plan_certificates,
    suites_directory,
    with_models,
)
from tests.support.certificates import TUNED, make_plan
from tests.support.mutations import removed, replaced
from tests.support.published_models import PUBLISHED

FULL_LAYERS = {
    "mistralai/Mistral-7B-v0.1": 15, "Qwen/Qwen2.5-14B": 31, "Qwen/Qwen2.5-32B": 31, "01-ai/Yi-34B": 31,
    "mistralai/Mixtral-8x7B-v0.1": 31, "Qwen/Qwen1.5-72B": 31,
}  # fmt: skip
"""The models of suite full, in order, with the layer that their clean SVD edits."""
NOT_LOADED = {"README.md", "training.json"}
"""Files beside the embedded model that no loading reads."""
EXAMPLE = """
schema = "proof_pack_suite_v1"
name = "mine"
scenarios = "more/scenarios.json"
tuned_edit_params = "more/tuned.json"

[[models]]
id = "acme/model-7b"
path = "models/model-7b"
revision = "abc"
license = "apache-2.0"

[models.sha256]
"model.safetensors" = "%s"

[text]
provider = "local_jsonl"
path = "more/text.jsonl"
field = "body"

[windows]
seq_len = 64
final = 7

[runs]
clean = 4
""" % ("a" * 64)
MINIMAL = 'schema = "proof_pack_suite_v1"\nname = "mine"\n[[models]]\nid = "acme/a"\n[text]\nprovider = "synthetic"\n'


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # messages name files as one would type them


def refusal(folder: Path, toml: str | bytes, tuned: Path | None = None) -> str:
    """Return why a suite file is refused."""
    path = folder / "mine.toml"
    path.write_bytes(toml if isinstance(toml, bytes) else toml.encode())
    with pytest.raises(ConfigurationError) as caught:
        load_suite(str(path), tuned=tuned)
    return str(caught.value)


def small_suite(
    model_ids: Sequence[str] = ("acme/a",), runs: Mapping[str, int] | None = None, tuned: JsonObject = TUNED
) -> Suite:
    """Return a suite of the packaged scenarios."""
    suite, _ = make_plan(model_ids)
    return replace(suite, tuned=tuned, runs=suite.runs if runs is None else runs)


def edits(plan: Plan, model: str) -> dict[str, RequestedEdit]:
    """Return the edits of a model by scenario."""
    return {request.scenario.id: request.edit for request in plan.requests if request.model.id == model}


class TestPackaged:
    def test_tiny(self) -> None:
        suite = load_suite("tiny")
        (model,) = suite.models
        assert (suite.name, model.id, model.license) == ("tiny", "proofpack/tiny", "apache-2.0")
        assert model.path == suites_directory() / "tiny_model"
        assert suite.text == TextSpec("synthetic", seed=1, documents=1200)
        assert suite.windows == WindowChoice(128, 200, 200, 42)
        assert suite.runs == {"calibration": 1, "clean": 2, "stress": 1, "error": 1}

    def test_the_embedded_model_is_the_pinned_one(self) -> None:
        (model,) = load_suite("tiny").models
        assert model.path is not None
        files = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in model.path.iterdir()}
        assert dict(model.sha256) == {name: digest for name, digest in files.items() if name not in NOT_LOADED}
        assert "model.safetensors" in model.sha256
        check_model_directory(model)

    @pytest.mark.parametrize(("name", "models"), [("subset", list(FULL_LAYERS)[:1]), ("full", list(FULL_LAYERS))])
    def test_subset_and_full(self, name: str, models: list[str]) -> None:
        suite = load_suite(name)
        assert (suite.name, [model.id for model in suite.models]) == (name, models)
        assert all(model.path is None and model.license for model in suite.models)
        assert suite.text == TextSpec(
            "wikitext2", split="validation", dataset="Salesforce/wikitext", config="wikitext-2-raw-v1"
        )
        assert suite.windows == WindowChoice(None, None, None, 42)
        assert suite.runs == {"calibration": 5, "clean": 3, "stress": 2, "error": 1}

    @pytest.mark.parametrize(
        ("name", "certificates"), [("tiny", 1 + 4 * 2 + 4 + 9), ("subset", 34), ("full", 6 * (5 + 4 * 3 + 4 * 2 + 9))]
    )
    def test_everything_is_planned_and_nothing_skipped(self, name: str, certificates: int) -> None:
        plan = plan_certificates(load_suite(name))
        assert (len(plan.requests), plan.skipped) == (certificates, ())

    @pytest.mark.parametrize(
        ("name", "model", "svd"),
        [
            ("tiny", "proofpack/tiny", EditSpec("lowrank_svd", "ffn@layer=2", {"rank": 96})),
            *(
                ("full", model, EditSpec("lowrank_svd", f"ffn@layer={layer}", {"rank": 32}))
                for model, layer in FULL_LAYERS.items()
            ),
        ],
    )
    def test_edits_of_every_model(self, name: str, model: str, svd: EditSpec) -> None:
        found = edits(plan_certificates(load_suite(name)), model)
        assert {scenario: edit for scenario, edit in found.items() if isinstance(edit, EditSpec)} == {
            "calibration": EditSpec("noop", "", {}),
            "quant_4bit_clean": EditSpec("quant_rtn", "ffn", {"bits": 4, "group_size": 32}),
            "fp8_e5m2_clean": EditSpec("fp8_quant", "ffn", {"format": "e5m2"}),
            "prune_12pct_clean": EditSpec("magnitude_prune", "ffn", {"sparsity": 0.12}),
            "svd_rank32_l31_clean": svd,
            "prune_50pct_stress": EditSpec("magnitude_prune", "all", {"sparsity": 0.5}),
            "svd_rank32_stress": EditSpec("lowrank_svd", "all", {"rank": 32}),
            "quant_4bit_stress": EditSpec("quant_rtn", "all", {"bits": 4, "group_size": 32}),
            "fp8_e5m2_stress": EditSpec("fp8_quant", "all", {"format": "e5m2"}),
        }

    def test_a_model_that_nobody_tuned_gets_the_defaults_and_no_svd(self) -> None:
        plan = plan_certificates(replace(load_suite("tiny"), models=(ModelSpec("acme/new"),)))
        ((model, scenario, reason),) = plan.skipped
        assert (model, scenario) == ("acme/new", "svd_rank32_l31_clean")
        assert "has to be tuned for that model" in reason
        assert edits(plan, "acme/new")["quant_4bit_clean"] == EditSpec(
            "quant_rtn", "ffn", {"bits": 4, "group_size": 32}
        )


class TestOwnFile:
    def test_paths_are_relative_to_the_file(self, tmp_path: Path) -> None:
        packaged = json.loads((suites_directory() / "scenarios.json").read_text())
        scenarios = {**packaged, "scenarios": packaged["scenarios"][:1]}
        (tmp_path / "more").mkdir()
        (tmp_path / "more/scenarios.json").write_text(json.dumps(scenarios))
        (tmp_path / "more/tuned.json").write_text(json.dumps(TUNED))
        (tmp_path / "mine.toml").write_text(EXAMPLE)
        assert load_suite(str(tmp_path / "mine.toml")) == Suite(
            name="mine",
            models=(
                ModelSpec(
                    "acme/model-7b", tmp_path / "models/model-7b", "abc", "apache-2.0", {"model.safetensors": "a" * 64}
                ),
            ),
            text=TextSpec("local_jsonl", tmp_path / "more/text.jsonl", "body"),
            windows=WindowChoice(64, None, 7, 42),
            runs={"calibration": 5, "clean": 4, "stress": 2, "error": 1},
            scenarios=scenarios,
            tuned=TUNED,
        )

    def test_what_is_left_out_is_the_packaged_one(self, tmp_path: Path) -> None:
        (tmp_path / "mine.toml").write_text(MINIMAL)
        suite, packaged = load_suite(str(tmp_path / "mine.toml")), load_suite("full")
        assert suite.models == (ModelSpec("acme/a"),)
        assert (suite.text, suite.windows) == (TextSpec("synthetic"), WindowChoice())
        assert (suite.scenarios, suite.tuned) == (packaged.scenarios, packaged.tuned)

    def test_the_option_replaces_the_tuned_file(self, tmp_path: Path) -> None:
        (tmp_path / "other.json").write_text(json.dumps(TUNED))
        assert load_suite("tiny", tuned=tmp_path / "other.json").tuned == TUNED


class TestBadFile:
    @pytest.mark.parametrize(
        ("before", "after", "finding"),
        [
            ("name =", "names = 1\nname =", "top level: the key 'names' is unknown ("),
            ("[text]", "[windows]\nlength = 5\n[text]", "windows: the key 'length' is unknown ("),
            ("[text]", "[runs]\nerrors = 1\n[text]", "runs: the key 'errors' is unknown ("),
            ("[text]", "size = 7\n[text]", "models[0]: the key 'size' is unknown ("),
            ("name =", "nmae =", "top level: the key 'nmae' is unknown (did you mean 'name'?)"),
            ("[[models]]", "[models]", "models: is one object, where a list of them is expected; in TOML, each "),
            ("_v1", "_v2", "schema: 'proof_pack_suite_v1' was expected"),
            ('"mine"', "5", "name: 5 is not of type 'string'"),
            ('"mine"', '"../mine"', "name: '../mine' does not match"),
            ('name = "mine"', "", "top level: the key 'name' is missing"),
            ('id = "acme/a"', "", "models[0]: the key 'id' is missing"),
            ("[text]", "[models.sha256]\nf = 'A0'\n[text]", "models[0].sha256.f: 'A0' does not match '^[0-9a-f]{64}$'"),
            ('"synthetic"', "5", "text.provider: 5 is not of type 'string'"),
            ('"synthetic"', '"synthetic"\nseeds = 2024-01-01', "text.seeds: datetime.date(2024, 1, 1) is not of type"),
            ('"synthetic"', '"synthetic"\nseed = 1.0', "text.seed: 1.0 is not of type 'integer'"),
            ('"synthetic"', '"synthetic"\nseed = -1', "text.seed: -1 is less than the minimum of 0"),
            ("[text]", "[windows]\nseq_len = 1\n[text]", "windows.seq_len: 1 is less than the minimum of 2"),
            ("[text]", "[windows]\nfinal = true\n[text]", "windows.final: True is not of type 'integer'"),
            ("[text]", "[runs]\nerror = 2\n[text]", "runs.error: 2 is not one of [0, 1]"),
            ("[text]", "[runs]\nclean = '3'\n[text]", "runs.clean: '3' is not of type 'integer'"),
        ],
    )  # fmt: skip
    def test_a_key_or_value_that_does_not_fit(self, tmp_path: Path, before: str, after: str, finding: str) -> None:
        message = refusal(tmp_path, MINIMAL.replace(before, after, 1))
        assert message.startswith("mine.toml is not a usable suite file: ")
        assert finding in message

    def test_a_model_that_stands_there_twice(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, MINIMAL.replace("[text]", '[[models]]\nid = "acme/a"\n[text]'))
        assert message == "mine.toml: models: every id may stand there once"

    def test_a_data_set_as_text(self, tmp_path: Path) -> None:
        text = (
            'provider = "hf_text"\ndataset = "acme/words"\nconfig = "en"\nrevision = "abc"\ndocuments = 9\nseed = 1\n'
        )
        (tmp_path / "mine.toml").write_text(MINIMAL.replace('provider = "synthetic"\n', text))
        assert load_suite(str(tmp_path / "mine.toml")).text == TextSpec(
            "hf_text", seed=1, documents=9, split="validation", dataset="acme/words", config="en", revision="abc"
        )
        (tmp_path / "mine.toml").write_text(
            MINIMAL.replace('"synthetic"', '"wikitext2"\nsplit = "test"\nconfig = "wikitext-103-raw-v1"\npath = "wiki"')
        )
        assert load_suite(str(tmp_path / "mine.toml")).text == TextSpec(
            "wikitext2", tmp_path / "wiki", split="test", dataset="Salesforce/wikitext", config="wikitext-103-raw-v1"
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('"hf_text"', "text.dataset: the provider hf_text needs the id of a data set, for example"),
            (
                '"wikitext2"\ndocuments = 5',
                "text.documents: means nothing to the provider wikitext2, which takes dataset,",
            ),
            (
                '"synthetic"\ndataset = "a/b"',
                "text.dataset: means nothing to the provider synthetic, which takes seed, ",
            ),
            ('"local_text"\npath = "a.txt"\nfield = "x"', "text.field: means nothing to the provider local_text"),
            (
                '"local_text"\npathe = "a.txt"',
                "text.path: the provider local_text needs the path of a file, and knows nothing",
            ),
            ('"synthetic"\nseeds = 1', "text.seeds: means nothing to the provider synthetic, which takes seed, "),
            (
                '"web"',
                "text.provider: the text source 'web' is unknown; expected one of synthetic, local_text, local_jsonl, "
                "wikitext2, hf_text.",
            ),
        ],
    )
    def test_keys_of_a_text_that_are_missing_or_mean_nothing(self, tmp_path: Path, text: str, message: str) -> None:
        assert refusal(tmp_path, MINIMAL.replace('"synthetic"', text)).startswith(f"mine.toml: {message}")

    @pytest.mark.parametrize("provider", ["local_text", "local_jsonl"])
    def test_a_local_text_without_path(self, tmp_path: Path, provider: str) -> None:
        message = refusal(tmp_path, MINIMAL.replace("synthetic", provider))
        assert message == f"mine.toml: text.path: the provider {provider} needs the path of a file"

    @pytest.mark.parametrize(
        ("toml", "reason"),
        [
            ("name = mine", "is not valid TOML: Invalid value (at line 1, column 8)"),
            ("name = 1\nname = 2", "is not valid TOML: Cannot overwrite a value"),
            (b"name = '\xff'", "is not valid TOML: no text in UTF-8 (byte 8)"),
            ("name = " + "[" * 5000, "is not valid TOML: "),
            ("name = " + "1" * 5000, "is not valid TOML: "),
            ("name = 2024-02-31", "is not valid TOML: "),
            (b"#" * ((1 << 20) + 1), ": more than 1048576 bytes is too long for a suite file"),
        ],
        ids=["value", "twice", "encoding", "nesting", "digits", "date", "long"],
    )
    def test_what_is_no_toml(self, tmp_path: Path, toml: str | bytes, reason: str) -> None:
        assert refusal(tmp_path, toml).startswith(f"mine.toml{'' if reason.startswith(':') else ' '}{reason}")

    def test_no_such_suite_names_those_that_there_are(self, tmp_path: Path) -> None:
        missing = "No such file or directory"
        known = (("tinny", f"{missing}. Did you mean tiny?"), ("", "it names nothing"))
        for name, reason in (("smal", missing), (str(tmp_path), "Is a directory"), *known):
            with pytest.raises(ConfigurationError) as caught:
                load_suite(name)
            choice = "Choose one of tiny, smollm2, subset, full"
            assert str(caught.value).startswith(
                f"--proofpack-suite={name}: {reason}{'' if reason[-1] == '?' else '.'} {choice}"
            )
            assert "proof_pack_suite_v1" in str(caught.value)

    def test_a_missing_file_of_scenarios(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, f'scenarios = "none.json"\n{MINIMAL}')
        assert message.startswith("none.json: cannot be read (No such file or directory). Name a file in the format")

    @pytest.mark.parametrize(
        ("entry", "finding"),
        [
            ({"status": "maybe"}, "status: 'maybe' is not one of ['selected', 'skipped']"),
            ({"scope": "ffn"}, ": the key 'status' is missing"),
            ({"status": "selected", "bits": 4, "group_size": 32}, ": the key 'scope' is missing"),
            ({"status": "selected", "scope": "ffn", "bits": "4"}, "bits: '4' is not a whole number from 2 to 8"),
            ({"status": "selected", "scope": "ffn", "bits": 1}, "bits: 1 is not a whole number from 2 to 8"),
            ({"status": "skipped", "why": "x"}, "why: quant_rtn has no such parameter; it takes bits, group_size"),
            ({"status": "skipped", "rank": 4}, "rank: quant_rtn has no such parameter; it takes bits, group_size"),
            ({"status": "selected", "scope": "ffn", "bits": [4]}, "bits: [4] is not of type 'number', 'string'"),
        ],
    )
    def test_a_bad_entry_of_the_tuned_file(self, tmp_path: Path, entry: JsonObject, finding: str) -> None:
        (tmp_path / "tuned.json").write_text(json.dumps(replaced(TUNED, ("defaults", "quant_rtn"), entry)))
        message = refusal(tmp_path, MINIMAL, tmp_path / "tuned.json")
        separator = "" if finding.startswith(":") else "."
        assert message == f"tuned.json is not a usable tuned edit params file: defaults.quant_rtn{separator}{finding}"

    @pytest.mark.parametrize(
        ("document", "finding"),
        [
            (replaced(TUNED, ("_meta", "schema"), "v2"), "schema: 'tuned_edit_params_v1' was expected"),
            (
                replaced(TUNED, ("defaults", "distill"), {"status": "skipped"}),
                "defaults.distill: the edit 'distill' is unknown, or takes no parameters; expected one of quant_rtn, ",
            ),
            (removed(TUNED, ("models",)), "top level: the key 'models' is missing"),
        ],
        ids=["schema", "unknown edit", "no models"],
    )
    def test_a_bad_tuned_file(self, tmp_path: Path, document: JsonObject, finding: str) -> None:
        (tmp_path / "tuned.json").write_text(json.dumps(document))
        message = refusal(tmp_path, MINIMAL, tmp_path / "tuned.json")
        assert message.startswith("tuned.json is not a usable tuned edit params file: ")
        assert finding in message

    def test_a_tuned_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        path = tmp_path / "tuned.json"
        assert "tuned.json: cannot be read (No such file or directory)" in refusal(tmp_path, MINIMAL, path)
        path.write_bytes(b"\xff")
        message = refusal(tmp_path, MINIMAL, path)
        assert "tuned.json: not UTF-8 text" in message
        assert "tuned_edit_params_v1 with --proofpack-tuned-edit-params" in message


class TestTunedParameters:
    @pytest.mark.parametrize("defaults", [True, False])
    def test_none_for_an_edit_of_a_model(self, defaults: bool) -> None:
        quantized = {"quant_rtn": TUNED["defaults"]["quant_rtn"]}
        tuned = removed(TUNED, ("defaults", "fp8_quant") if defaults else ("defaults",))
        with pytest.raises(ConfigurationError) as caught:
            plan_certificates(small_suite(tuned=replaced(tuned, ("models", "acme/a"), quantized)))
        message = str(caught.value)
        assert "the clean edit fp8_quant of acme/a (scenario fp8_e5m2_clean)" in message
        assert 'add models."acme/a".fp8_quant, or defaults.fp8_quant' in message
        assert "--proofpack-tuned-edit-params" in message

    def test_none_are_needed_for_what_does_not_run(self) -> None:
        tuned = removed(TUNED, ("defaults",))
        plan = plan_certificates(small_suite(runs={"calibration": 1, "clean": 0, "stress": 1, "error": 1}, tuned=tuned))
        assert not [request for request in plan.requests if request.scenario.category is Category.CLEAN]
        assert len(plan.requests) == 1 + 4 + 9

    def test_those_of_the_model_come_before_the_defaults(self) -> None:
        own = {"status": "selected", "scope": "ffn", "sparsity": 0.05}
        tuned = replaced(TUNED, ("models", "acme/a"), {"magnitude_prune": own})
        plan = plan_certificates(small_suite(["acme/a", "acme/b"], tuned=tuned))
        sparsity = {
            request.model.id: request.edit_facts["parameters"]["sparsity"]
            for request in plan.requests
            if request.scenario.id == "prune_12pct_clean"
        }
        assert sparsity == {"acme/a": 0.05, "acme/b": 0.12}

    def test_the_tuned_scope_wins_over_the_scenarios(self) -> None:
        entry = {"status": "selected", "scope": "attn@layers=3", "bits": 4, "group_size": 32}
        plan = plan_certificates(small_suite(tuned=replaced(TUNED, ("defaults", "quant_rtn"), entry)))
        found = edits(plan, "acme/a")["quant_4bit_clean"]
        assert found == EditSpec("quant_rtn", "attn@layers=3", {"bits": 4, "group_size": 32})

    @pytest.mark.parametrize(
        ("entry", "expectation"),
        [
            ({"status": "selected", "scope": "ffn", "bits": 4}, "group_size is None; quant_rtn expects a whole number"),
            ({"status": "selected", "scope": "head", "bits": 4, "group_size": 32}, "scope 'head' is not understood"),
        ],
    )
    def test_an_entry_that_cannot_be_used(self, entry: JsonObject, expectation: str) -> None:
        with pytest.raises(ConfigurationError) as caught:
            plan_certificates(small_suite(tuned=replaced(TUNED, ("defaults", "quant_rtn"), entry)))
        assert str(caught.value).startswith("tuned parameters of acme/a, quant_rtn: ")
        assert expectation in str(caught.value)

    @pytest.mark.parametrize(
        ("entry", "reason"),
        [
            ({"status": "skipped", "reason": "too small"}, "too small"),
            ({"status": "skipped"}, "skipped by the tuned-parameters file"),
        ],
    )
    def test_a_skipped_edit_is_left_out_and_said_to_be(self, entry: JsonObject, reason: str) -> None:
        suite = small_suite(["acme/a", "acme/b"], tuned=replaced(TUNED, ("models", "acme/b"), {"quant_rtn": entry}))
        plan = plan_certificates(suite)
        assert plan.skipped == (("acme/b", "quant_4bit_clean", reason),)
        assert plan.document(suite)["plan"]["skipped"] == [
            {"model": "acme/b", "scenario": "quant_4bit_clean", "reason": reason}
        ]
        assert set(edits(plan, "acme/a")) - set(edits(plan, "acme/b")) == {"quant_4bit_clean"}


class TestModels:
    def test_a_directory_is_known_by_its_name(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "edited").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        for text in ("edited", "./edited", "~/edited", str(tmp_path / "edited"), "edited/../edited"):
            suite = with_models(load_suite("tiny"), [text])
            assert suite.models == (ModelSpec("edited", tmp_path / "edited"),), text
        assert replace(suite, models=()) == replace(load_suite("tiny"), models=())

    def test_directories_of_the_same_name_are_told_apart_by_their_parents(self, tmp_path: Path) -> None:
        paths = [tmp_path / name for name in ("one/model", "two/model", "three")]
        suite = with_models(load_suite("tiny"), [str(path) for path in paths])
        assert [(model.id, model.path) for model in suite.models] == list(
            zip(["one/model", "two/model", "three"], paths, strict=True)
        )

    def test_no_absolute_path_enters_an_artifact(self, tmp_path: Path) -> None:
        suite = with_models(load_suite("tiny"), [str(tmp_path / name) for name in ("one/model", "two/model")])
        plan = plan_certificates(suite)
        names = [text for request in plan.requests for text in (request.id, request.folder)]
        assert str(tmp_path) not in compact_json(plan.document(suite)) + "".join(names)

    @pytest.mark.parametrize("given", [["/x/one/model", "/y/one/model"], ["acme/a", "acme/a@main"], ["/y/a", "a"]])
    def test_models_that_cannot_be_told_apart(self, given: list[str]) -> None:
        with pytest.raises(ConfigurationError, match=r"^--proofpack-model: two of the models have the same name"):
            with_models(load_suite("tiny"), given)

    @pytest.mark.parametrize("given", ["", "@main", "/"])
    def test_a_model_without_a_name(self, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir("/")
        with pytest.raises(ConfigurationError, match=r"^--proofpack-model: a model has no name.*ID\[@REV\]"):
            with_models(load_suite("tiny"), [given])

    def test_a_hub_id_with_its_revision(self) -> None:
        suite = with_models(load_suite("full"), ["acme/new@v2", "Qwen/Qwen2.5-14B@abc", "01-ai/Yi-34B"])
        assert suite.models == (
            ModelSpec("acme/new", revision="v2"),
            ModelSpec("Qwen/Qwen2.5-14B", revision="abc", license="apache-2.0", parameters=14_770_033_664),
            ModelSpec("01-ai/Yi-34B", license="apache-2.0", parameters=34_388_917_248),
        )

    def test_the_environment_replaces_by_position(self) -> None:
        first, *rest = load_suite("full").models
        suite = with_models(load_suite("full"), ["MODEL_2=acme/new@v2", "MODEL_3=", "MODEL_8=acme/added"])
        assert suite.models == (first, ModelSpec("acme/new", revision="v2"), *rest[2:], ModelSpec("acme/added"))

    def test_an_id_of_the_suite_keeps_what_is_known_in_another_slot(self) -> None:
        (model,) = with_models(load_suite("subset"), ["MODEL_1=", "MODEL_2=mistralai/Mistral-7B-v0.1@v1"]).models
        assert (model.revision, model.license) == ("v1", "apache-2.0")

    def test_one_slot_has_to_be_left(self) -> None:
        with pytest.raises(ConfigurationError, match="MODEL_1 to MODEL_8 are empty for every model"):
            with_models(load_suite("subset"), ["MODEL_1="])

    def test_an_id_of_the_suite_keeps_its_directory_revision_and_pins(self) -> None:
        suite = load_suite("tiny")
        pinned = replace(suite, models=(replace(suite.models[0], revision="abc"),))
        assert with_models(pinned, ["proofpack/tiny"]) == pinned

    def test_a_missing_directory_is_no_hub_id(self, tmp_path: Path) -> None:
        (model,) = with_models(load_suite("tiny"), [str(tmp_path / "gone")]).models
        assert (model.id, model.path) == ("gone", tmp_path / "gone")
        with pytest.raises(ConfigurationError, match="gone"):
            check_model_directory(model)


class TestPlan:
    RUNS: Mapping[str, int] = {"calibration": 2, "clean": 3, "stress": 1, "error": 1}
    MODELS = ("Acme/A", "acme/a", "acme__a")
    """Three ids that would share a folder."""

    def test_order_runs_ids_and_folders_of_one_model(self) -> None:
        suite = small_suite(["Acme/A"], self.RUNS)
        expected = []
        for scenario in [CALIBRATION, *parse_scenarios(suite.scenarios)]:
            if scenario.category is Category.ERROR:
                folder = f"acme__a/certificates/errors/{scenario.id}"
                expected.append((scenario, 1, f"Acme/A-{scenario.id}", folder))
            else:
                expected += [
                    (scenario, run, f"Acme/A-{scenario.id}-run_{run}", f"acme__a/certificates/{scenario.id}/run_{run}")
                    for run in range(1, self.RUNS[scenario.category.value] + 1)
                ]
        plan = plan_certificates(suite)
        assert [(r.scenario, r.run, r.id, r.folder) for r in plan.requests] == expected
        assert len(expected) == 2 + 4 * 3 + 4 + 9

    def test_ids_and_folders_are_one_to_one_model_by_model(self) -> None:
        plan = plan_certificates(small_suite(self.MODELS, self.RUNS))
        total = 3 * (2 + 4 * 3 + 4 + 9)
        assert len(plan.requests) == total
        assert len({request.id for request in plan.requests}) == total
        assert len({request.folder for request in plan.requests}) == total
        assert list(dict.fromkeys(r.model.id for r in plan.requests)) == list(self.MODELS)
        models = [request.model.id for request in plan.requests]
        assert models == sorted(models, key=self.MODELS.index)
        tops = {(request.model.id, request.folder.split("/")[0]) for request in plan.requests}
        assert len(tops) == 3

    @pytest.mark.parametrize("kind", ["calibration", "clean", "stress", "error"])
    def test_a_kind_that_runs_no_times_is_left_out(self, kind: str) -> None:
        full, without = (
            {request.id for request in plan_certificates(small_suite(runs=runs)).requests}
            for runs in (self.RUNS, {**self.RUNS, kind: 0})
        )
        assert without < full
        assert len(full - without) == {"calibration": 2, "clean": 12, "stress": 4, "error": 9}[kind]

    def test_what_does_not_run_is_not_called_skipped(self) -> None:
        tuned = replaced(TUNED, ("defaults", "quant_rtn"), {"status": "skipped"})
        assert plan_certificates(small_suite(runs={**self.RUNS, "clean": 0}, tuned=tuned)).skipped == ()

    def test_what_a_request_takes(self) -> None:
        for request in plan_certificates(small_suite()).requests:
            assert isinstance(request.edit, FaultSpec if request.scenario.error_type else EditSpec)
            expected = request.scenario.error_type or str(request.scenario.edit_spec).split(":")[0]
            assert request.edit_name == expected

    @pytest.mark.parametrize("name", [*EMBEDDED, "skipping", "uneven"])
    def test_the_document_expects_exactly_the_requests(self, name: str) -> None:
        if name in EMBEDDED:
            suite = load_suite(name)
        else:
            skipped = replaced(TUNED, ("models", "acme/a"), {"lowrank_svd": {"status": "skipped"}})
            runs = {"calibration": 0, "clean": 2, "stress": 3, "error": 0} if name == "uneven" else self.RUNS
            suite = small_suite(self.MODELS, runs, skipped)
        plan = plan_certificates(suite)
        document = json.loads(compact_json(plan.document(suite)))
        assert schema_findings("scenarios", document) == []
        assert document["plan"]["suite"] == suite.name
        assert list(expected_certificates(document).items()) == [
            ((request.model.id, request.scenario.id, request.run), request.scenario) for request in plan.requests
        ]

    def test_the_document_is_the_suites_with_the_plan_added(self) -> None:
        suite = small_suite()
        assert removed(plan_certificates(suite).document(suite), ("plan",)) == suite.scenarios
        assert "plan" not in suite.scenarios


class TestDefaultWindows:
    @pytest.mark.parametrize(
        ("parameters", "seq_len", "max_positions", "expected"),
        [
            (1_000_000, None, None, (128, 200)),
            (99_999_999, None, 2048, (128, 200)),
            (100_000_000, None, None, (512, 100)),
            (7_000_000_000, None, 32768, (512, 100)),
            (7_000_000_000, None, 512, (512, 100)),
            (7_000_000_000, None, 256, (256, 100)),
            (1_000_000, None, 64, (64, 397)),
            (1_000_000, 64, None, (64, 397)),
            (1_000_000, 64, 32, (64, 397)),
            (1_000_000, 2048, 4096, (2048, 200)),
            (1_000_000, None, 1, (2, 25_000)),
        ],
    )
    def test_with_the_tokens_that_the_balanced_tier_needs(
        self, parameters: int, seq_len: int | None, max_positions: int | None, expected: tuple[int, int]
    ) -> None:
        assert default_windows(parameters, seq_len, max_positions, 50_000) == expected

    @pytest.mark.parametrize("parameters", [10**6, 10**9])
    @pytest.mark.parametrize("min_tokens", [0, 1, 50_799, 50_801, 102_200, 102_201, 999_999])
    def test_just_as_many_as_the_tokens_need(self, parameters: int, min_tokens: int) -> None:
        length, windows = default_windows(parameters, None, None, min_tokens)
        least = default_windows(parameters, None, None, 0)[1]
        assert 2 * windows * (length - 1) >= min_tokens
        assert windows == least or 2 * (windows - 1) * (length - 1) < min_tokens


def test_the_stated_numbers_of_parameters_are_those_of_the_published_dimensions() -> None:
    import torch
    import transformers

    counts = {}
    for name, (config, dimensions) in PUBLISHED.items():
        with torch.device("meta"):
            built = getattr(transformers, config)(**dimensions)
            model = transformers.AutoModelForCausalLM.from_config(built)  # type: ignore[no-untyped-call]
        counts[name] = sum(parameter.numel() for parameter in model.parameters())
    assert counts == {model.id: model.parameters for model in load_suite("full").models}
    assert load_suite("subset").models == load_suite("full").models[:1]
