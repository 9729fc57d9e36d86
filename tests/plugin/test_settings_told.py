"""What a session says of settings that nobody has typed, and of what it judges by."""

from __future__ import annotations

import pytest

Pytester = pytest.Pytester


def require_header(pytester: Pytester, lines: list[str]) -> None:
    result = pytester.runpytest_inprocess("--proofpack-suite=tiny", "--collect-only", "--proofpack-profile=ci")

    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(lines)


def test_the_header_says_the_tier_and_what_comes_from_the_environment(
    pytester: Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVARLOCK_TIER", "aggressive")
    monkeypatch.setenv("RUN_ERROR_INJECTION", "0")
    monkeypatch.setenv("OUTPUT_DIR", "a\x1b[2Jb-0123456789abcdef")
    monkeypatch.setenv("SOME_TOKEN", "0123456789abcdef")

    require_header(
        pytester,
        [
            "proofpack: suite tiny, *; tier aggressive, profile ci, ratio at most 1.2; run directory *",
            "proofpack: from the environment: OUTPUT_DIR=a\\x1b[[]2Jb-<SOME_TOKEN>, INVARLOCK_TIER=aggressive, "
            "RUN_ERROR_INJECTION=0",
        ],
    )


def test_so_it_does_of_the_ini_file_but_for_what_the_command_line_or_the_environment_says_instead(
    pytester: Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini(
        "[pytest]\nproofpack_tier = aggressive\nproofpack_profile = ci\n"
        "proofpack_determinism = strict\nproofpack_runs = error:0\n"
    )
    monkeypatch.setenv("RUN_ERROR_INJECTION", "1")

    require_header(
        pytester,
        [
            "proofpack: suite tiny, *; tier aggressive, profile ci, *",
            "proofpack: from the environment: RUN_ERROR_INJECTION=1; from tox.ini: proofpack_tier=aggressive, "
            "proofpack_determinism=strict",
        ],
    )


def test_a_usage_error_names_what_nobody_has_typed(pytester: Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESUME_FLAG", "1")
    monkeypatch.setenv("PACK_NET", "0")  # which has nothing to do with it

    result = pytester.runpytest_inprocess("--proofpack-suite=tiny")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: --proofpack-resume: *DIR. (From the environment: RESUME_FLAG=1.)"])
