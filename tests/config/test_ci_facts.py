"""Facts for the manifest: given, or taken from a CI by a fixed list of names."""

from __future__ import annotations

import pytest

from pytest_proofpack.config.ci_facts import facts_in, facts_of, parse_fact
from pytest_proofpack.config.settings import resolve

GITHUB = {
    "GITHUB_ACTIONS": "true",
    "GITHUB_SHA": "5" * 40,
    "GITHUB_SERVER_URL": "https://github.example",
    "GITHUB_REPOSITORY": "acme/models",
    "GITHUB_RUN_ID": "77",
    "GITHUB_REF": "refs/heads/main",
    "GITHUB_TOKEN": "ghs_0123456789abcdef",
    "GITHUB_ACTOR": "ann",
}


def test_github() -> None:
    facts = facts_of(tuple((facts_in(GITHUB) or "").split("\n")))
    assert facts == {
        "commit": "5" * 40,
        "repository": "https://github.example/acme/models",
        "ref": "refs/heads/main",
        "run_url": "https://github.example/acme/models/actions/runs/77",
    }


def test_gitlab_and_jenkins() -> None:
    gitlab = {
        "GITLAB_CI": "true",
        "CI_COMMIT_SHA": "6" * 40,
        "CI_PROJECT_URL": "https://gitlab-ci-token:abc@gitlab.example/acme/models",
        "CI_JOB_URL": "https://gitlab.example/acme/models/-/jobs/7",
        "CI_JOB_NAME": "certify\nall",
        "CI_JOB_TOKEN": "secret",
    }
    assert facts_in(gitlab) == f"commit={'6' * 40}\nrun_url=https://gitlab.example/acme/models/-/jobs/7"
    assert facts_in({"JENKINS_URL": "https://j.example", "BUILD_URL": "https://j.example/job/a/1/"}) == (
        "run_url=https://j.example/job/a/1/"
    )
    assert facts_in({key: value for key, value in GITHUB.items() if key != "GITHUB_ACTIONS"}) is None


def test_what_is_given_comes_after_what_the_ci_states(pytester: pytest.Pytester) -> None:
    config = pytester.parseconfig("--proofpack-meta=commit=mine", "--proofpack-meta=reason=nightly build")
    facts = facts_of(resolve(config, GITHUB).meta)
    assert (facts["commit"], facts["reason"], facts["ref"]) == ("mine", "nightly build", "refs/heads/main")
    alone = pytester.parseconfig("--proofpack-meta=none", "--proofpack-meta=a=1")
    assert facts_of(resolve(alone, GITHUB).meta) == {"a": "1"}


@pytest.mark.parametrize("text", ["", "commit", "=1", "a=", "a b=1", "1a=1", "a=\n", "a=\u202e", "a=" + "x" * 401])
def test_what_is_no_fact(text: str) -> None:
    with pytest.raises(ValueError, match="expected KEY=VALUE"):
        parse_fact(text)


def test_there_may_be_forty() -> None:
    with pytest.raises(ValueError, match="41 facts are more than the 40"):
        facts_of(tuple(f"a{number}=1" for number in range(41)))


def test_a_secret_ends_the_session_before_it_begins(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789abcdef")
    result = pytester.runpytest("--proofpack-suite=tiny", "--proofpack-meta=url=https://x/?t=hf_0123456789abcdef")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*--proofpack-meta=url=...: holds the value of a variable that is called like a secret*"]
    )
