"""Options: where each may come from; command line beats environment, that the ini file, that the default."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, NamedTuple

import pytest

from pytest_proofpack.config.options import OPTIONS, parse_runs, parse_seconds
from pytest_proofpack.config.settings import Settings, from_environment, resolve
from pytest_proofpack.errors import ConfigurationError

Pytester = pytest.Pytester


class Row(NamedTuple):
    """One option: the text each source gives, and what comes of it."""

    name: str
    default: Any
    flag: tuple[str, Any]
    ini: tuple[str, Any] | None = None
    environment: tuple[dict[str, str], Any] | None = None


TABLE = (
    Row("suite", None, ("=tiny", "tiny")),
    Row("verify", None, ("=pack", "pack")),
    Row("baseline", None, ("=a", "a")),
    Row("subject", (), ("=a", ("a",))),
    Row("edit_label", None, ("=quant_rtn", "quant_rtn")),
    Row("out", None, ("=a", "a"), ("b", "b"), ({"PACK_OUTPUT_DIR": "c", "OUTPUT_DIR": "d"}, "c")),
    Row("resume", False, ("", True), ("yes", True), ({"RESUME_FLAG": "true"}, True)),
    Row("shard", None, ("=2/4", "2/4"), (" 1 / 3 ", "1/3")),
    Row("ray", None, ("=auto", "auto"), ("a:6379", "a:6379")),
    Row("pack_dir", None, ("=a", "a"), ("b", "b"), ({"PACK_DIR": "c"}, "c")),
    Row("no_pack", False, ("", True), ("yes", True)),
    Row("layout", "v1", ("=v1", "v1"), ("v2", "v2"), ({"PACK_PACK_LAYOUT": "v1"}, "v1")),
    Row(
        "model",
        (),
        ("=a", ("a",)),
        ("b\n  c", ("b", "c")),
        ({"MODEL_1": "d", "MODEL_2": "", "MODEL_8": "e"}, ("MODEL_1=d", "MODEL_2=", "MODEL_8=e")),
    ),
    Row("net", False, ("=1", True), ("1", True), ({"PACK_NET": "1"}, True)),
    Row(
        "revisions",
        None,
        ("=a.json", "a.json"),
        ("b.json", "b.json"),
        ({"PACK_MODEL_REVISIONS_FILE": "c.json"}, "c.json"),
    ),
    Row("text", None, ("=a.txt", "a.txt"), ("b.txt", "b.txt")),
    Row(
        "tuned_edit_params",
        None,
        ("=a.json", "a.json"),
        ("b.json", "b.json"),
        ({"PACK_TUNED_EDIT_PARAMS_FILE": "c.json"}, "c.json"),
    ),
    Row(
        "mode",
        "full",
        ("=full", "full"),
        ("run-only", "run-only"),
        ({"PACK_SUITE_MODE": "calibrate-only"}, "calibrate-only"),
    ),
    Row("tune", "off", ("=auto", "auto"), ("auto", "auto"), ({"PACK_TUNE": "auto"}, "auto")),
    Row(
        "preset_dir",
        None,
        ("=a", "a"),
        ("b", "b"),
        ({"PACK_CALIBRATION_PRESET_DIR": "c", "PACK_CALIBRATION_PRESET_FILE": "d"}, "c"),
    ),
    Row(
        "tier",
        "balanced",
        ("=balanced", "balanced"),
        ("aggressive", "aggressive"),
        ({"INVARLOCK_TIER": "conservative"}, "conservative"),
    ),
    Row("profile", "dev", ("=dev", "dev"), ("ci", "ci"), ({"PACK_VERIFY_PROFILE": "release"}, "release")),
    Row("limits", None, ("=limits.toml", "limits.toml"), ("limits.toml", "limits.toml")),
    Row(
        "determinism",
        "throughput",
        ("=throughput", "throughput"),
        ("throughput", "throughput"),
        ({"PACK_DETERMINISM": "strict"}, "strict"),
    ),
    Row(
        "runs",
        {},
        ("=clean:7", {"clean": 7}),
        ("stress:3,error:0", {"stress": 3, "error": 0}),
        (
            {
                "DRIFT_CALIBRATION_RUNS": "2",
                "CLEAN_EDIT_RUNS": "4",
                "STRESS_EDIT_RUNS": "0",
                "RUN_ERROR_INJECTION": "true",
            },
            {"calibration": 2, "clean": 4, "stress": 0, "error": 1},
        ),
    ),
    Row("repeats", 0, ("=3", 3), ("1000", 1000), ({"PACK_REPEATS": "5"}, 5)),
    Row("device", "auto", ("=cpu", "cpu"), ("cuda", "cuda")),
    Row("device_timeout", 14400.0, ("=0", 0.0), ("90.5", 90.5)),
    Row("timeout", None, ("=90", 90.0), ("0.5", 0.5), ({"PACK_TIMEOUT": "3600"}, 3600.0)),
    Row(
        "gpu_memory",
        None,
        ("=24", 24.0),
        ("80", 80.0),
        ({"GPU_MEMORY_GB": "39.5", "GPU_MEMORY_PER_DEVICE": "79"}, 39.5),
    ),
    Row("sign", "auto", ("=auto", "auto"), ("required", "required"), ({"PACK_GPG_SIGN": "0"}, "off")),
    Row("gpg_key", None, ("=AB", "AB"), ("CD", "CD")),
    Row("attest", None, ("=key", "key"), ("off", "off")),
    Row("attest_key", (), ("=a.pem", ("a.pem",)), ("env:B\n  c.pem", ("env:B", "c.pem"))),
    Row("attest_trust_config", None, ("=a.json", "a.json"), ("b.json", "b.json")),
    Row("attest_identity", None, ("=me@example.org", "me@example.org"), ("you@example.org", "you@example.org")),
    Row("attest_issuer", None, ("=https://a.example", "https://a.example"), ("https://b.example", "https://b.example")),
    Row("trusted_key", (), ("=AB", ("AB",)), ("CD\n  EF", ("CD", "EF"))),
    Row("trusted_key_file", (), ("=a.asc", ("a.asc",)), ("b\n  c", ("b", "c"))),
    Row("require_signature", False, ("", True), ("1", True)),
    Row("require_verdict", None, ("=PASS", "PASS"), ("FAIL", "FAIL")),
    Row("expect_suite", None, ("=tiny", "tiny"), ("full", "full")),
    Row("expect_model", (), ("=a@b", ("a@b",)), ("c\n  d", ("c", "d"))),
    Row("min_tier", None, ("=balanced", "balanced"), ("conservative", "conservative")),
    Row("min_format", None, ("=1", "1"), ("2", "2")),
    Row("expect_text", None, ("=a", "a"), ("b", "b")),
    Row("max_age", None, ("=30d", "30d"), ("8w", "8w")),
    Row("not_before", None, ("=2026-01-31", "2026-01-31"), ("2026-02-28", "2026-02-28")),
    Row("accept_unbound", False, ("", True), ("on", True)),
    Row("allow_unknown_guards", False, ("", True), ("on", True)),
    Row("json", None, ("=a", "a"), ("b", "b")),
    Row("meta", (), ("=a=1", ("a=1",)), ("b=2", ("b=2",))),
    Row("keep_text", False, ("", True), ("on", True)),
    Row("no_fork", False, ("", True), ("on", True), ({"PACK_NO_FORK": "1"}, True)),
    Row("no_html", False, ("", True), ("true", True), ({"PACK_SKIP_HTML": "1"}, True)),
)
CHOICES = [option for option in OPTIONS if option.choices]


def write_ini(pytester: Pytester, name: str, text: str) -> None:
    pytester.makeini(f"[pytest]\nproofpack_{name} = {text}\n")


def flag(row: Row) -> str:
    return f"--proofpack-{row.name.replace('_', '-')}{row.flag[0]}"


def test_the_table_holds_every_option() -> None:
    assert [row.name for row in TABLE] == [option.name for option in OPTIONS]
    assert {row.name for row in TABLE} == set(Settings.__dataclass_fields__)


def test_defaults(pytester: Pytester) -> None:
    assert asdict(resolve(pytester.parseconfig(), {})) == {row.name: row.default for row in TABLE}


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_sources_and_their_order(pytester: Pytester, row: Row) -> None:
    environment, from_environment = row.environment or ({}, None)
    if row.ini:
        write_ini(pytester, row.name, row.ini[0])
        assert getattr(resolve(pytester.parseconfig(), {}), row.name) == row.ini[1]
    if row.environment:
        assert getattr(resolve(pytester.parseconfig(), environment), row.name) == from_environment
    assert getattr(resolve(pytester.parseconfig(flag(row)), environment), row.name) == row.flag[1]


@pytest.mark.parametrize("name", ["suite", "verify", "baseline", "subject"])
def test_what_turns_the_plugin_on_has_to_be_typed(pytester: Pytester, name: str) -> None:
    with pytest.raises(ValueError, match="unknown configuration value"):
        pytester.parseconfig().getini(f"proofpack_{name}")


def test_what_nobody_has_typed_is_told_from_which_variable_it_comes(pytester: Pytester) -> None:
    environment = {
        "INVARLOCK_TIER": "aggressive",
        "PACK_OUTPUT_DIR": "first",
        "OUTPUT_DIR": "second",
        "MODEL_2": "",
        "RUN_ERROR_INJECTION": "0",
        "CLEAN_EDIT_RUNS": "",
        "PACK_GPG_SIGN": "0",
        "PACK_NET": "1",
        "GITHUB_ACTIONS": "true",
        "GITHUB_SHA": "0" * 40,
        "HF_TOKEN": "secret",
    }
    told = from_environment(pytester.parseconfig("--proofpack-net=0"), environment)
    assert told == {
        "PACK_OUTPUT_DIR": "first",
        "MODEL_2": "",
        "INVARLOCK_TIER": "aggressive",
        "RUN_ERROR_INJECTION": "0",
        "PACK_GPG_SIGN": "0",
    }


@pytest.mark.parametrize("row", [row for row in TABLE if row.environment], ids=lambda row: row.name)
def test_every_variable_that_sets_something_is_told(pytester: Pytester, row: Row) -> None:
    assert row.environment is not None
    names = from_environment(pytester.parseconfig(), row.environment[0])
    assert names
    assert getattr(resolve(pytester.parseconfig(), names), row.name) == row.environment[1]


class TestSingleOptions:
    def test_repeatable_ones_collect_in_order(self, pytester: Pytester) -> None:
        config = pytester.parseconfig("--proofpack-model=b", "--proofpack-model=a@rev")
        assert resolve(config, {"MODEL_1": "unused"}).model == ("b", "a@rev")

    def test_an_empty_variable_says_nothing(self, pytester: Pytester) -> None:
        names = ("PACK_OUTPUT_DIR", "INVARLOCK_TIER", "CLEAN_EDIT_RUNS", "PACK_SKIP_HTML", "PACK_NET")
        settings = resolve(pytester.parseconfig(), dict.fromkeys(names, "") | {"OUTPUT_DIR": "d"})
        assert (settings.out, settings.tier, settings.runs, settings.net) == ("d", "balanced", {}, False)

    def test_but_an_empty_slot_of_a_model_says_that_it_is_off(self, pytester: Pytester) -> None:
        assert resolve(pytester.parseconfig(), {"MODEL_2": " "}).model == ("MODEL_2=",)

    def test_the_environment_can_keep_the_network_off(self, pytester: Pytester) -> None:
        write_ini(pytester, "net", "1")
        assert resolve(pytester.parseconfig(), {"PACK_NET": "0"}).net is False

    def test_the_environment_can_turn_a_switch_off_again(self, pytester: Pytester) -> None:
        write_ini(pytester, "no_html", "1")
        assert resolve(pytester.parseconfig(), {"PACK_SKIP_HTML": "0"}).no_html is False

    @pytest.mark.parametrize(("text", "number"), [("TRUE", 1), ("1", 1), ("no", 0), ("off", 0)])
    def test_error_injection_is_a_switch_in_the_environment(self, pytester: Pytester, text: str, number: int) -> None:
        assert resolve(pytester.parseconfig(), {"RUN_ERROR_INJECTION": text}).runs == {"error": number}

    def test_signing_is_only_turned_off_by_its_variable(self, pytester: Pytester) -> None:
        assert resolve(pytester.parseconfig(), {"PACK_GPG_SIGN": "1"}).sign == "auto"

    def test_settings_reach_a_worker_unchanged(self, pytester: Pytester) -> None:
        config = pytester.parseconfig("--proofpack-model=a", "--proofpack-runs=clean:2", "--proofpack-no-html")
        settings = resolve(config, {})
        assert Settings.from_json(json.loads(json.dumps(settings.to_json()))) == settings


def test_one_preset_file_stands_for_its_directory(pytester: Pytester) -> None:
    assert resolve(pytester.parseconfig(), {"PACK_CALIBRATION_PRESET_FILE": "p.json"}).preset_dir == "p.json"


class TestUnknownValues:
    @pytest.mark.parametrize("option", CHOICES, ids=lambda option: option.name)
    def test_the_option_its_source_and_the_allowed_values_are_named(self, pytester: Pytester, option: Any) -> None:
        allowed = f"'lax' is unknown; choose one of {', '.join(option.choices)}."
        with pytest.raises(ConfigurationError) as typed:
            resolve(pytester.parseconfig(f"{option.flag}=lax"), {})
        assert str(typed.value) == f"{option.flag}: {allowed}"
        write_ini(pytester, option.name, "lax")
        with pytest.raises(ConfigurationError) as written:
            resolve(pytester.parseconfig(), {})
        assert str(written.value) == f"ini file, proofpack_{option.name}: {allowed}"

    @pytest.mark.parametrize(
        ("variable", "value", "message"),
        [
            ("INVARLOCK_TIER", "lax", "environment, for --proofpack-tier: 'lax' is unknown"),
            ("PACK_SKIP_HTML", "perhaps", "environment, for --proofpack-no-html: 'perhaps' is not understood"),
            ("CLEAN_EDIT_RUNS", "-1", "environment, for --proofpack-runs: 'clean:-1' is not understood"),
            ("PACK_REPEATS", "-1", "for --proofpack-repeats: '-1' is not understood; expected a number from 0 to 1000"),
            ("PACK_REPEATS", "1001", "for --proofpack-repeats: '1001' is not understood"),
            ("GPU_MEMORY_GB", "0", "for --proofpack-gpu-memory: '0' is not understood; expected a positive number"),
            ("RUN_ERROR_INJECTION", "flase", "environment, for --proofpack-runs: 'error:flase' is not understood"),
        ],
    )
    def test_a_variable_names_the_option_it_stands_for(
        self, pytester: Pytester, variable: str, value: str, message: str
    ) -> None:
        with pytest.raises(ConfigurationError, match=message):
            resolve(pytester.parseconfig(), {variable: value})

    @pytest.mark.parametrize("text", ["-1", "inf", "nan", "4h", ""])
    def test_seconds_that_are_not_understood(self, text: str) -> None:
        with pytest.raises(ValueError, match="expected a number of seconds, 0 or more"):
            parse_seconds(text)

    @pytest.mark.parametrize(
        "text", ["clean", "clean:", "clean:x", "clean:1001", "error:2", "dirty:1", "clean:1.5", ":1"]
    )
    def test_runs_that_are_not_understood(self, text: str) -> None:
        with pytest.raises(ValueError, match=r"expected KIND:N with KIND one of calibration, clean, stress, error"):
            parse_runs(f"stress:1,{text}")

    def test_runs(self) -> None:
        assert parse_runs(" clean:1000, error:1 ,") == {"clean": 1000, "error": 1}

    def test_pytest_ends_with_a_usage_error(self, pytester: Pytester) -> None:
        result = pytester.runpytest("--proofpack-suite=tiny", "--proofpack-tier=lax")
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines(
            "ERROR: --proofpack-tier: 'lax' is unknown; choose one of balanced, conservative, aggressive."
        )


def test_help_explains_every_option(pytester: Pytester) -> None:
    text = " ".join(pytester.runpytest("--help").stdout.str().split())
    for option in OPTIONS:
        assert option.flag in text
        assert option.help.split("(")[0].strip() in text
        assert (f"{option.dest} (" in text) == option.ini
