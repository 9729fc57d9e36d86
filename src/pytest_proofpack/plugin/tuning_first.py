"""``--proofpack-tune=auto``: a run whose models lack tuned parameters begins with a tuning session of its own.

That session is another process, in a directory inside the run's, and is gone on with like any other. The run itself
stays what it is: complete before its first worker starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.tuned import read_tuned
from pytest_proofpack.plan.tuning import chosen_words
from pytest_proofpack.plugin.terminal import resume_command, say
from pytest_proofpack.runs.paths import REVISIONS, TUNED_FILE, TUNING
from pytest_proofpack.runs.run import Run, with_tuned_edits

_PASSED_ON = (
    "suite", "model", "net", "revisions", "text", "tuned_edit_params", "preset_dir", "tier", "profile", "determinism",
    "device", "device_timeout", "gpu_memory",
)  # fmt: skip
"""The options that decide what is tuned, and how."""
_PREFIX = "proofpack: "
_TAIL = 30


def tuned_first(config: pytest.Config, asked: Run) -> Run:
    """Return a run with tuned parameters for everything that lacked them, found by a session of their own.

    Args:
        config: of the session.
        asked: what the settings ask for; its directory has been taken for this session.

    Raises:
        ConfigurationError: the tuning session did not find them all.
    """
    if not asked.untuned:
        return asked
    models = ", ".join(dict.fromkeys(request.model.id for request in asked.untuned))
    say(config, f"tuning first: {len(asked.untuned)} clean edits of {models} have no parameters of their own")
    folder = asked.out / TUNING
    _run_session(config, asked, folder)
    document = read_tuned(folder / TUNED_FILE)
    for line in _found(document):
        say(config, line)
    run = with_tuned_edits(asked, document)
    if run.settings.net and run.settings.revisions is None:  # what was tuned is what is certified
        run = replace(run, settings=replace(run.settings, revisions=str(folder / REVISIONS)))
    return run


def _run_session(config: pytest.Config, asked: Run, folder: Path) -> None:
    options = [
        *_session_options(config),
        *_options_of(asked.settings),
        *("--proofpack-mode=tune", "--proofpack-tune=auto", "--proofpack-resume", f"--proofpack-out={folder}"),
    ]
    tail: deque[str] = deque(maxlen=_TAIL)
    with subprocess.Popen(  # noqa: S603 - pytest, with the options of this session
        [sys.executable, "-m", "pytest", *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=config.invocation_params.dir,
        env={**os.environ, "PYTEST_ADDOPTS": ""},
        encoding="utf-8",
        errors="replace",
    ) as session:
        assert session.stdout is not None
        for line in session.stdout:
            tail.append(line.rstrip())
            if line.startswith(_PREFIX):
                say(config, line.removeprefix(_PREFIX).rstrip())
    if session.returncode:
        again = resume_command(config, asked.out)
        last = "\n".join(tail)
        raise ConfigurationError(
            f"--proofpack-tune=auto: the tuning session ended with exit status {session.returncode}. It went on:\n"
            f"{last}\nWhat it has found is kept; go on with: {again}"
        )


def _session_options(config: pytest.Config) -> Iterator[str]:
    """Yield what pytest and xdist were told that matters to any session, and nothing that selects items."""
    option = config.option
    yield from ("-k", "", "-m", "")
    for name in option.plugins or ():
        yield from ("-p", name)
    for pair in getattr(option, "override_ini", None) or ():
        yield from ("-o", pair)
    if option.inifilename:
        yield from ("-c", str(option.inifilename))
    if option.rootdir:
        yield f"--rootdir={option.rootdir}"
    specs = getattr(option, "tx", None) or []
    if specs and set(specs) == {"popen"}:
        yield from ("-n", str(len(specs)))
    elif specs:
        yield "--dist=load"
        yield from (f"--tx={spec}" for spec in specs)


def _options_of(settings: Settings) -> Iterator[str]:
    """Yield the resolved options as text, so that the other session resolves them to the same."""
    for name in _PASSED_ON:
        value = getattr(settings, name)
        flag = "--proofpack-" + name.replace("_", "-")
        values = value if isinstance(value, tuple) else (value,)
        yield from (f"{flag}={int(own) if isinstance(own, bool) else own}" for own in values if own is not None)
    if settings.runs:
        yield "--proofpack-runs=" + ",".join(f"{kind}:{number}" for kind, number in settings.runs.items())


def _found(document: JsonObject) -> Iterator[str]:
    for model, measured in document["_meta"]["tuning"]["models"].items():
        for edit, facts in measured["edits"].items():
            yield f"tuned {model} {edit}: {chosen_words({**facts, 'entry': document['models'][model][edit]})}"
