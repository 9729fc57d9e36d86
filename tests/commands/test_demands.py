"""What a stranger can demand: every demand met, not met and misused, by what the command prints and its exit status.

The command runs in this process; that the program does the same is asked once for every exit status.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.commands.main import main
from pytest_proofpack.common.model_directory import directory_digest
from pytest_proofpack.common.strict_json import sha256_of
from pytest_proofpack.pack.sign import SigningMode
from pytest_proofpack.pack.terms import TERMS
from pytest_proofpack.plan.suites import suites_directory
from tests.support.certificates import TUNED, make_run_directory
from tests.support.forgery import change_document, rewrite_checksums
from tests.support.openpgp import Keyring
from tests.support.packs import copy_of, keyring, pack_of, using

TEXT = "a" * 64
RUNS = {"calibration": 1, "clean": 2, "stress": 1, "error": 1}
"""As often as the packaged suite ``tiny`` has them."""
SUITE_FILE = """
schema = "proof_pack_suite_v1"
name = "{name}"
scenarios = "{scenarios}"
tuned_edit_params = "{tuned}.json"
[[models]]
id = "any/model"
[text]
provider = "synthetic"
[runs]
calibration = 1
clean = {clean}
stress = 1
error = 1
"""


def write_tuned(file: Path, bits: int) -> None:
    """Write the parameters that the pack's clean edits have, but for the bits of one."""
    defaults = {**TUNED["defaults"], "quant_rtn": {**TUNED["defaults"]["quant_rtn"], "bits": bits}}
    file.write_text(json.dumps({**TUNED, "defaults": defaults}))


@pytest.fixture(scope="module")
def ring() -> Iterator[tuple[Keyring, str]]:
    with keyring() as made:
        yield made, made.make_key()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all commands are started in: packs, models, suites."""
    return tmp_path_factory.mktemp("stranger")


@pytest.fixture(scope="module")
def pack(folder: Path, ring: tuple[Keyring, str]) -> Path:
    """A signed pack of a suite called ``tiny``, with its scenarios."""
    (folder / "model/deeper").mkdir(parents=True)
    (folder / "model/config.json").write_text("{}")
    (folder / "model/deeper/weights").write_text("1.0")
    (folder / "other").mkdir()
    (folder / "other/config.json").write_text("[]")
    scenarios = suites_directory() / "scenarios.json"
    write_tuned(folder / "tuned.json", bits=4)
    write_tuned(folder / "milder.json", bits=8)
    for file, name, clean, tuned in (
        ("same", "tiny", 2, "tuned"),
        ("more", "tiny", 3, "tuned"),
        ("named", "mine", 2, "tuned"),
        ("milder", "tiny", 2, "milder"),
    ):
        text = SUITE_FILE.format(name=name, clean=clean, scenarios=scenarios, tuned=tuned)
        (folder / f"{file}.toml").write_text(text)
    (folder / "days.toml").write_text(text.replace("[[models]]", "extensions = [2020-01-01]\n[[models]]"))
    few = json.loads(scenarios.read_text())
    few["scenarios"] = few["scenarios"][:1]
    (folder / "few.json").write_text(json.dumps(few))
    (folder / "few.toml").write_text(SUITE_FILE.format(name="tiny", clean=1, scenarios="few.json", tuned="tuned"))
    digest = directory_digest(folder / "model")
    run = make_run_directory(folder / "run", runs=RUNS, name="tiny", baseline_digest=digest)
    with using(ring[0]):
        return pack_of(run.directory, folder / "pack", sign=SigningMode.REQUIRED)


@pytest.fixture(scope="module")
def failing(folder: Path) -> Path:
    """An unsigned pack whose verdict is FAIL, of a suite that is called ``tiny`` and is not."""
    few = json.loads((suites_directory() / "scenarios.json").read_text())
    few["scenarios"] = few["scenarios"][:1]
    run = make_run_directory(folder / "failing", name="tiny", scenarios=few, shifts={"quant_4bit_clean": 1.0})
    return pack_of(run.directory, folder / "failing_pack")


@pytest.fixture(autouse=True)
def _ring(ring: tuple[Keyring, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GNUPGHOME", str(ring[0].home))


@pytest.fixture(autouse=True)
def _own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes the working directory off the import path."""
    monkeypatch.setattr(sys, "path", list(sys.path))


@dataclass(frozen=True)
class Ran:
    returncode: int
    stdout: str
    stderr: str


def verify(pack: Path, *options: str) -> Ran:
    """Run the command in the pack's folder, in this process."""
    said, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(pack.parent), contextlib.redirect_stdout(said), contextlib.redirect_stderr(errors):
        status = main(["verify", pack.name, *options])
    return Ran(status, said.getvalue(), errors.getvalue())


def program(pack: Path, *options: str) -> Ran:
    """Run it as people do."""
    command = [sys.executable, "-P", "-m", "pytest_proofpack", "verify", pack.name, *options]
    done = subprocess.run(command, cwd=pack.parent, capture_output=True, text=True, check=False)
    return Ran(done.returncode, done.stdout, done.stderr)


MET = [
    "--require-verdict=PASS",
    "--require-signature",
    "--expect-suite=tiny:own-parameters",
    "--expect-suite=same.toml",
    "--expect-suite=milder.toml:own-parameters",
    "--expect-model=acme/Tiny-1M",
    "--expect-model=acme/Tiny-1M@{digest}",
    "--expect-model={digest}",
    "--min-tier=aggressive",
    "--min-tier=balanced",
    "--min-format=1",
    "--min-format=2",
    f"--expect-text={TEXT}",
    "--expect-text=synthetic",
    "--max-age=9999w",
    "--max-age=999999w",
    "--not-before=2026-01-01",
    "--not-before=2025-12-31T23:00:00-01:00",
    "--baseline=model",
]
UNMET = {
    "--require-verdict=FAIL": "the verdict is PASS",
    "--expect-suite=tiny": "svd_rank32_l31_clean of acme/Tiny-1M has rank 32, scope ffn@layer=1, and the ",
    "--expect-suite=milder.toml": "quant_4bit_clean of acme/Tiny-1M has bits 4, not 8. tiny:own-parameters accepts",
    "--expect-suite=full": "the pack's suite is called tiny",
    "--expect-suite=more.toml": "clean runs 2 times, not 3",
    "--expect-suite=named.toml": "the pack's suite is called tiny",
    "--expect-suite=few.toml": "its scenarios are the packaged ones of version",
    "--expect-model=acme/tiny-1m": "it is not certified here; certified: acme/Tiny-1M",
    "--expect-model=acme/Tiny-1M@0123": "acme/Tiny-1M, a local directory, files ",
    "--min-tier=conservative": "the tier is balanced",
    "--expect-text=wikitext2": f"synthetic evaluation, text {TEXT}",
    "--max-age=1d": "made 2026-01-01T00:00:00Z",
    "--not-before=2026-01-01T00:00:01Z": "made 2026-01-01T00:00:00Z",
    "--baseline=other": "its files have the digest ",
    "--subject=model": "edits that were made in memory",
}
MISUSED = {
    "--require-verdict=pass": "expected one of PASS, FAIL",
    "--expect-suite=absent.toml": "expected one of tiny, smollm2, subset, full, or a suite's TOML file",
    "--expect-suite=few.json": "few.json is not valid TOML",
    "--expect-model=@abc": "expected ID or ID@REV",
    "--expect-model=a@": "expected ID or ID@REV",
    f"--expect-model={TEXT}@abc": "what stands before the @ is a digest",
    "--min-format=3": "--min-format=3: expected one of 1, 2",
    "--expect-suite=days.toml": "days.toml is not a usable suite file: extensions[0]: ",
    "--min-tier=strict": "expected one of aggressive, balanced, conservative",
    "--expect-text=": "expected the digest of a text, or the name of a data set",
    "--max-age=30": "expected a number and a unit",
    "--not-before=yesterday": "expected a day or a time",
    "--baseline=absent": "expected the directory of a model",
    "--subject=few.json": "expected the directory of a model",
    "--trusted-key=1234": "1234",
    "--trusted-key-file=absent": "--trusted-key-file=absent: cannot be read",
    "--policy=absent.toml": "--policy=absent.toml: cannot be read (No such file or directory)",
}


@pytest.mark.parametrize("option", MET)
def test_a_demand_that_is_met(pack: Path, option: str) -> None:
    option = option.format(digest=directory_digest(pack.parent / "model"))
    result = verify(pack, option)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"demand        met          {option[2:]}: " in result.stdout
    assert "VERIFIED: all that this pack claims holds; its verdict is PASS." in result.stdout


@pytest.mark.parametrize("option", UNMET)
def test_a_demand_that_is_not_met(pack: Path, option: str) -> None:
    result = verify(pack, option, "--require-verdict=PASS" if "verdict" not in option else "--require-signature")
    assert result.returncode == 3, result.stdout + result.stderr
    line = next(
        line for line in result.stdout.split("\n") if line.startswith(f"demand        NOT MET      {option[2:]}: ")
    )
    assert UNMET[option] in line
    assert "VERIFIED, BUT NOT WHAT WAS DEMANDED (1 of 2 demands not met); its verdict is PASS." in result.stdout


@pytest.mark.parametrize("option", MISUSED)
def test_a_demand_that_cannot_be_understood(pack: Path, option: str) -> None:
    result = verify(pack, option)
    assert (result.returncode, result.stdout) == (2, "")
    assert MISUSED[option] in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("status", "options"),
    [
        (0, ["--require-verdict=PASS", "--expect-suite=same.toml"]),
        (1, [f"--trusted-key={'A' * 40}"]),
        (2, ["--min-tier=strict"]),
        (3, ["--require-verdict=FAIL"]),
    ],
)
def test_the_program_says_the_same(pack: Path, status: int, options: list[str]) -> None:
    ran = program(pack, *options)
    assert ran.returncode == status
    assert ran == verify(pack, *options)


def test_every_demand_is_tried_here() -> None:
    tried = {option[2:].partition("=")[0] for option in (*MET, *UNMET, *MISUSED)}
    assert set(TERMS) <= tried


def test_a_signature_that_is_not_the_demanded_one_is_no_verified_pack(pack: Path, failing: Path, ring: Any) -> None:
    assert verify(pack, f"--trusted-key={ring[1]}").returncode == 0
    result = verify(pack, f"--trusted-key={'A' * 40}", "--require-verdict=PASS")
    assert result.returncode == 1
    assert f"demand        NOT MET      trusted-key={'A' * 40}: signed by {ring[1]}" in result.stdout
    assert "demand        NOT MET      require-verdict=PASS: the pack is not verified" in result.stdout
    assert verify(failing, "--require-signature").returncode == 1


def test_a_pack_that_does_not_hold_meets_no_demand(pack: Path, tmp_path: Path) -> None:
    forged = copy_of(pack, tmp_path / "pack")
    change_document(forged / "results/final_verdict.json", lambda verdict: verdict.update(verdict="PASS", suite="x"))
    rewrite_checksums(forged)
    result = verify(forged, "--require-verdict=PASS")
    assert result.returncode == 1
    assert "demand        NOT MET      require-verdict=PASS: the pack is not verified" in result.stdout
    assert "suite         " not in result.stdout


def test_a_verdict_that_is_not_pass_is_said_loudly(failing: Path) -> None:
    result = verify(failing)
    assert result.returncode == 0
    assert "\nTHE VERDICT OF THIS PACK IS FAIL.\n" in result.stdout
    assert "suite         tiny; its scenarios are NOT the packaged ones of tiny (sha256 " in result.stdout
    row = next(line for line in result.stdout.split("\n") if "quant_4bit_clean" in line)
    assert row.endswith("  FAILED")
    assert verify(failing, "--require-verdict=PASS").returncode == 3
    assert verify(failing, "--require-verdict=FAIL").returncode == 0
    suite = verify(failing, "--expect-suite=tiny")
    assert "its scenarios are NOT the packaged ones of tiny; clean runs 1 times, not 2" in suite.stdout


def test_what_a_pack_says_is_always_printed(pack: Path) -> None:
    lines = verify(pack).stdout.split("\n")
    start = lines.index("") + 1
    digest = sha256_of(json.loads((suites_directory() / "scenarios.json").read_text()))
    assert lines[start].startswith("suite         tiny; its scenarios are the packaged ones of version ")
    assert lines[start].endswith(f" (sha256 {digest})")
    files = directory_digest(pack.parent / "model")
    assert lines[start + 1 : start + 6] == [
        "runs          calibration 1, clean 2, error 1, stress 1",
        f"models        acme/Tiny-1M, a local directory, files {files}",
        f"text          synthetic evaluation, text {TEXT}",
        "policy        tier balanced, profile dev",
        "certificates  22: 9 must pass, 2 must fail, 9 must detect, 2 informational",
    ]
    time = r"time          made 2026-01-01T00:00:00Z and signed 20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ, as its maker says"
    own = "svd_rank32_l31_clean of acme/Tiny-1M: lowrank_svd, rank 32, scope ffn@layer=1"
    assert lines[start + 6] == f"parameters    its maker's own: {own}"
    assert re.fullmatch(time, lines[start + 7])
    table = lines[start + 9 : start + 28]
    assert ",".join(table[0].split()) == "model,scenario,demand,runs,ratio,interval,limit,margin,KL,worst,run"
    assert len({line.index("must") for line in table[1:] if "must" in line}) == 1
    assert table[2].split()[:5] == ["acme/Tiny-1M", "quant_4bit_clean", "must", "pass", "2"]
    assert table[2].endswith("  PASSED")


class TestJson:
    def test_it_carries_facts_and_demands(self, pack: Path, tmp_path: Path) -> None:
        target = tmp_path / "result.json"
        verify(pack, f"--json={target}", "--require-verdict=PASS", "--min-tier=conservative", "--require-signature")
        report = json.loads(target.read_bytes())
        assert (report["ok"], report["accepted"]) == (True, False)
        assert [(one["demand"], one["met"]) for one in report["demands"]] == [
            ("require-signature", True),
            ("require-verdict=PASS", True),
            ("min-tier=conservative", False),
        ]
        assert report["demands"][2]["why"] == "the tier is balanced"
        facts = report["facts"]
        assert facts["models"][0]["digests"] == [directory_digest(pack.parent / "model")]
        assert facts["counts"] == {"must_pass": 9, "must_fail": 2, "must_detect": 9, "informational": 2}
        edit = next(edit for edit in facts["edits"] if edit["scenario"] == "quant_4bit_clean")
        assert edit["margin"] == pytest.approx(edit["limit"] - edit["interval"][1])
        assert facts["times"] == {"made": "2026-01-01T00:00:00Z", "signed": report["signature"]["signed_at"]}


class TestPolicyFile:
    def write(self, pack: Path, text: str) -> str:
        (pack.parent / "policy.toml").write_text(text)
        return "--policy=policy.toml"

    def test_every_option_has_its_key(self, pack: Path, ring: Any) -> None:
        policy = self.write(
            pack,
            f'trusted-key = ["{ring[1]}"]\nrequire-signature = true\nrequire-verdict = "PASS"\nmin-format = 1\n'
            'expect-suite = "same.toml"\n'
            f'expect-model = "acme/Tiny-1M"\nmin-tier = "balanced"\nexpect-text = "{TEXT}"\nmax-age = "9999w"\n'
            'not-before = 2026-01-01\nbaseline = "model"\naccept-unbound = false\nallow-unknown-guards = true\n',
        )
        result = verify(pack, policy)
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stdout.count("demand        met") == 11

    def test_a_time_of_toml(self, pack: Path) -> None:
        assert verify(pack, self.write(pack, "not-before = 2026-01-01T00:00:01Z\n")).returncode == 3

    def test_the_command_line_comes_first(self, pack: Path) -> None:
        policy = self.write(pack, 'min-tier = "conservative"\nexpect-model = ["absent/model"]\n')
        assert verify(pack, policy).returncode == 3
        assert verify(pack, policy, "--min-tier=balanced", "--expect-model=acme/Tiny-1M").returncode == 0

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ('require-verdct = "PASS"', "is no option of a policy; these are: trusted-key, "),
            ('require_verdict = "PASS"', "Did you mean 'require-verdict'?"),
            ('json = "out.json"', "json: is no option of a policy"),
            ("require-signature = 1", "require-signature: expected true or false"),
            ("require-verdict = true", "require-verdict: expected a text"),
            ("require-verdict = 1", "require-verdict: expected a text"),
            ("min-format = true", "min-format: expected a text"),
            ("min-format = 0", "--min-format=0: expected one of 1, 2"),
            ('require-verdict = ["PASS"]', "require-verdict: expected a text"),
            ("expect-model = [1]", "expect-model: expected a text"),
            ("trusted-key = []", "trusted-key: is empty, so it would demand nothing"),
            ('require-verdict = "MAYBE"', "--require-verdict=MAYBE: expected one of PASS, FAIL"),
            ("[[", "is not valid TOML"),
            ("#" * (1 << 20) + "\n", "is too long for a policy"),
        ],
    )
    def test_what_is_no_policy(self, pack: Path, text: str, message: str) -> None:
        result = verify(pack, self.write(pack, text))
        assert (result.returncode, result.stdout) == (2, "")
        assert message in result.stderr

    def test_the_pack_has_no_say(self, pack: Path, tmp_path: Path) -> None:
        copy = copy_of(pack, tmp_path / "pack")
        (copy / "policy.toml").write_text('require-verdict = "PASS"\n')
        result = verify(copy, "--policy=pack/policy.toml")
        assert (result.returncode, result.stdout) == (2, "")
        assert "lies inside of the pack" in result.stderr
