"""What is told where a model or text is not here: first what is wrong on this machine, then how the hub is asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.run import resolve_run
from pytest_proofpack.sources.preflight import resolve_sources
from tests.support.default_settings import DEFAULTS

HUB = "The network is off. To pin and download what is missing: COMMAND\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "v1/mine").mkdir(parents=True)
    (tmp_path / "v1/mine/model.safetensors").touch()
    (tmp_path / "v1/mine/config.json").touch()
    (tmp_path / "text.txt").touch()
    monkeypatch.chdir(tmp_path)


def told(subject: str, text: str | None = "text.txt", **given: object) -> str:
    settings = replace(DEFAULTS, suite=None, baseline="v1/mine", subject=(subject,), text=text, out="run")
    with pytest.raises(ConfigurationError) as caught:
        resolve_sources(resolve_run(replace(settings, **given)), print, "COMMAND")  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("v1/min", "v1/min: there is no such directory in v1; perhaps v1/mine is meant."),
        ("v1/quantized", "v1/quantized: there is no such directory in v1."),
        ("v1/min/deeper", "v1/min/deeper: there is no such directory in v1; perhaps v1/mine/deeper is meant."),
        ("v1/mine@main", "v1/mine: is a directory here, which has no revisions: leave the one after @ out."),
    ],
)
def test_a_misspelled_path_is_no_matter_of_the_hub(subject: str, message: str) -> None:
    assert told(subject) == message


@pytest.mark.parametrize("net", [False, True])
def test_a_file_of_weights_is_told_its_directory(net: bool) -> None:
    assert told("v1/mine/model.safetensors", net=net).startswith(
        "v1/mine/model.safetensors: is a file: name the directory that holds config.json and the weights, here v1/mine"
    )


def test_what_may_be_on_the_hub_is_looked_for_here_first() -> None:
    told_of = "acme/model: here is no such directory, and of the model of the hub no commit is pinned for its default "
    assert told("acme/model").startswith(f"{told_of}branch. {HUB}")


def test_a_text_that_nobody_has_named() -> None:
    told_of = (
        "no text is given (--proofpack-text=FILE), and of data set Salesforce/wikitext, which is read instead, no "
    )
    assert told("v1/mine", None).startswith(f"{told_of}commit is pinned for its default branch. {HUB}")
