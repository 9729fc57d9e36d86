"""Bad input: one clear paragraph before any long work, exit 4 for usage and 1 for failed work, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.plugin.conftest import SmallSuite
from tests.support.model_files import build_model_directory

Pytester = pytest.Pytester


def run(pytester: Pytester, small: SmallSuite, *options: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess(f"--proofpack-suite={small.suite}", "--proofpack-out=run", *options)


def own_model(small: SmallSuite) -> Path:
    """Replace the link to the shared model by a copy that the test may damage."""
    small.model.unlink()
    return build_model_directory(small.model)


def no_model(small: SmallSuite) -> None:
    small.model.unlink()


def no_tokenizer(small: SmallSuite) -> None:
    model = own_model(small)
    (model / "tokenizer.json").unlink()


def small_vocabulary(small: SmallSuite) -> None:
    small.model.unlink()
    build_model_directory(small.model, vocab_size=200)


def truncated_weights(small: SmallSuite) -> None:
    weights = own_model(small) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])


def short_text(small: SmallSuite) -> None:
    small.text.unlink()
    small.text.write_text("a few words only\n")


def few_preview_windows(small: SmallSuite) -> None:
    small.suite.write_text(small.suite.read_text().replace("seq_len = 32", "seq_len = 32\npreview = 7\nfinal = 2000"))


def no_such_layer(small: SmallSuite) -> None:
    file = small.folder / "scenarios.json"
    document = json.loads(file.read_text())
    document["scenarios"][0]["generation"]["edit_spec"] = "quant_rtn:8:32:all@layer=99"
    file.write_text(json.dumps(document))


def few_tokens(small: SmallSuite) -> None:
    small.suite.write_text(small.suite.read_text().replace("seq_len = 32", "seq_len = 32\npreview = 20\nfinal = 20"))


def no_text(small: SmallSuite) -> None:
    small.text.unlink()


def no_tuned_parameters(small: SmallSuite) -> None:
    (small.folder / "tuned.json").write_text(json.dumps({"_meta": {"schema": "tuned_edit_params_v1"}, "models": {}}))
    content = small.suite.read_text()
    small.suite.write_text('tuned_edit_params = "tuned.json"\n' + content)


def bad_suite_key(small: SmallSuite) -> None:
    small.suite.write_text(small.suite.read_text().replace("clean = 1", 'clean = "often"'))


def bad_toml(small: SmallSuite) -> None:
    small.suite.write_text("name = [")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            no_model,
            "*given/model: does not exist. Name the directory that holds config.json and the weights, or a GGUF file.",
        ),
        (no_tokenizer, "*holds no tokenizer*tokenizer.save_pretrained(directory)."),
        (small_vocabulary, "*the text holds the token *, but the model's vocabulary has only 200 entries*"),
        (
            few_preview_windows,
            "7 preview windows of 32 tokens are too few: *first 8 of them. Set preview to at least 8*",
        ),
        (
            no_such_layer,
            "acme/small: the scope all@layer=99 of scenario quant_4bit_clean does not fit: the model has * layers*",
        ),
        (few_tokens, "suite small: windows: 20 preview and 20 final windows of 32 tokens hold 1,240 scored tokens, *"),
        (truncated_weights, "*model.safetensors: not a complete safetensors file*"),
        (short_text, "*text.txt*windows*"),
        (no_text, "*text.txt*"),
        (
            no_tuned_parameters,
            '*no tuned parameters for the clean edit quant_rtn of acme/small*"acme/small".quant_rtn*',
        ),
        (bad_suite_key, "*small.toml is not a usable suite file: runs.clean: 'often' is not of type 'integer'"),
        (bad_toml, "*small.toml is not valid TOML*"),
    ],
)
def test_bad_files(pytester: Pytester, small: SmallSuite, damage: Callable[[SmallSuite], None], expected: str) -> None:
    damage(small)
    result = run(pytester, small)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    errors = [line for line in result.errlines if line.strip()]
    assert len(errors) == 1
    result.stderr.fnmatch_lines([f"ERROR: {expected}"])
    result.stdout.no_fnmatch_line("*Traceback*")
    assert not (pytester.path / "run").exists()


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        (
            "--proofpack-tier=lax",
            "*--proofpack-tier: 'lax' is unknown; choose one of balanced, conservative, aggressive.",
        ),
        ("--proofpack-runs=clean:x", "*--proofpack-runs: 'clean:x' is not understood; expected KIND:N*"),
        ("--proofpack-layout=v3", "*--proofpack-layout: 'v3' is unknown; choose one of v1, v2."),
        ("--proofpack-device=tpu", "*--proofpack-device: 'tpu' is unknown; choose one of auto, cpu, cuda, mps."),
        ("--proofpack-text=notes.pdf", "*--proofpack-text=notes.pdf: expected a .txt or a .jsonl file"),
        ("--proofpack-verify=pack", "*exclude each other*"),
        (
            "--proofpack-model=nobody/nothing",
            "nobody/nothing: here is no such directory, and of the model of the hub no commit is pinned for its "
            "default branch. The network is off. To pin and download what is missing: "
            "pytest *--proofpack-model=nobody/nothing --proofpack-net=1",
        ),
        ("--proofpack-tuned-edit-params=missing.json", "*missing.json*"),
        ("--proofpack-runs=calibration:0,clean:0,stress:0,error:0", "*asks for no certificate at all*"),
    ],
)
def test_bad_option_values(pytester: Pytester, small: SmallSuite, option: str, expected: str) -> None:
    result = run(pytester, small, option)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {expected}"])


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_by_the_user_and_online_by_option(
    pytester: Pytester, small: SmallSuite, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv(variable, "1")
    result = run(pytester, small, "--proofpack-net=1")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {variable}=1 and --proofpack-net=1 contradict each other.*"])


def test_an_unknown_suite_names_the_known_ones(pytester: Pytester) -> None:
    result = pytester.runpytest_subprocess("--proofpack-suite=tinny")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-suite=tinny: *Choose one of tiny, smollm2, subset, full*"])


def test_a_target_that_is_not_empty_is_refused(pytester: Pytester, small: SmallSuite) -> None:
    (pytester.mkdir("run") / "precious.txt").write_text("mine")
    result = run(pytester, small)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-out: */run is not empty, and nothing is ever overwritten.*"])
    assert (pytester.path / "run" / "precious.txt").read_text() == "mine"


def test_a_file_in_the_targets_place_is_refused(pytester: Pytester, small: SmallSuite) -> None:
    (pytester.path / "run").write_text("a file")
    result = run(pytester, small)

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-out: cannot write to */run*"])


def test_a_required_signature_without_a_key_is_refused_before_the_work(
    pytester: Pytester, small: SmallSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GNUPGHOME", str(pytester.mkdir("no_keys")))
    result = run(pytester, small, "--proofpack-sign=required")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: *key*"])


@pytest.mark.usefixtures("warm_sessions")
def test_a_baseline_that_is_not_finite_fails_with_a_reason(pytester: Pytester, small: SmallSuite) -> None:
    weights = own_model(small) / "model.safetensors"
    tensors = load_file(weights)
    next(tensor for name, tensor in tensors.items() if "down_proj" in name)[0, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    result = run(pytester, small, "-x")

    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["acme/small: the loss of the unedited baseline is not finite*"])
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.fnmatch_lines(["verdict: FAIL"])


@pytest.mark.parametrize(
    ("named", "error"),
    [
        ("absent.py", "file or directory not found: absent.py. What is named beside options are tests of your own, *"),
        (
            "proofpack/small::test_certificate[[]acme/none]",
            "not found: proofpack/small::test_certificate* is no *",
        ),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_begun(
    pytester: Pytester, small: SmallSuite, named: str, error: str
) -> None:
    result = run(pytester, small, named.replace("[[]", "["), "-n2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: {error}"])
    result.stdout.no_fnmatch_line("*checking models*")
    assert not (pytester.path / "run").exists()


@pytest.mark.usefixtures("warm_sessions")
@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (
            ("test_own.py::absent",),
            pytest.ExitCode.USAGE_ERROR,
            "pytest could not use its command line, *",
        ),
        (("test_own.py::absent", "-n1"), pytest.ExitCode.USAGE_ERROR, "pytest could not use its command line, *"),
        (("test_broken.py",), pytest.ExitCode.INTERRUPTED, "pytest could not collect what it was given, *"),
        (("test_own.py", "-k", "own"), pytest.ExitCode.TESTS_FAILED, "nothing is selected: * none of the 6 items *"),
    ],
)
def test_a_session_that_begins_no_item_leaves_nothing_of_its_own(
    pytester: Pytester, small: SmallSuite, options: tuple[str, ...], status: int, said: str
) -> None:
    pytester.makepyfile(test_own="def test_own(): pass", test_broken="import nowhere")
    result = run(pytester, small, *options, "--junitxml=run/junit.xml")
    assert result.ret == status
    result.stdout.fnmatch_lines([said, "nothing was certified, and nothing of this run is left in run"])
    result.stdout.no_fnmatch_line("*go on with: *")
    assert [path.name for path in (pytester.path / "run").iterdir()] == ["junit.xml"]  # which pytest was told to write
