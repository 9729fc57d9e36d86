"""Suites: which models, which text, how many runs; and the plan of certificates that follows from them.

A suite is a TOML file (schema ``proof_pack_suite_v1``); ``tiny``, ``smollm2``, ``subset`` and ``full`` come with the
package.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pytest_proofpack.common.files import folder_names
from pytest_proofpack.common.reading import read_named
from pytest_proofpack.common.schemas import require_schema
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import likeliest, shown
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.expected import all_scenarios, certificate_folder, expected_certificates
from pytest_proofpack.plan.installed_files import InstalledFile, locate
from pytest_proofpack.plan.places import is_single_file
from pytest_proofpack.plan.records import (
    Category,
    CertificateRequest,
    ModelSpec,
    RequestedEdit,
    Scenario,
    TextSpec,
)
from pytest_proofpack.plan.requested_edits import Skipped, open_edit, requested_edit
from pytest_proofpack.plan.scenarios import RUNS_OF, read_scenarios
from pytest_proofpack.plan.text_sources import TEXT_SOURCES
from pytest_proofpack.plan.tuned import read_tuned, with_defaults

EMBEDDED = ("tiny", "smollm2", "subset", "full")
DEFAULT_RUNS = {"calibration": 5, "clean": 3, "stress": 2, "error": 1}
DEFAULT_SEED = 42
SMALL_MODEL = 100_000_000
"""Models of fewer parameters get short windows and many of them."""
_MAX_TOML_BYTES = 1 << 20
_SLOT = re.compile(r"MODEL_(?P<number>[1-8])=(?P<value>.*)", re.DOTALL)


@dataclass(frozen=True)
class WindowChoice:
    """The windows a suite asks for; None leaves the choice to :func:`default_windows`."""

    seq_len: int | None = None
    preview: int | None = None
    final: int | None = None
    seed: int = DEFAULT_SEED


@dataclass(frozen=True)
class Suite:
    """A suite, read and checked.

    Attributes:
        name: as reports show it.
        models: what to certify edits of.
        text: the evaluation text.
        windows: how it is cut.
        runs: how often each kind of scenario runs: ``calibration``, ``clean``, ``stress``, ``error``.
        scenarios: the scenarios document.
        tuned: the tuned-parameters document.
        subjects: the edited models of scenarios that bring one, by scenario.
        limits: thresholds of one's own in place of the tier's, by section; checked when the policy is resolved.
    """

    name: str
    models: tuple[ModelSpec, ...]
    text: TextSpec
    windows: WindowChoice
    runs: Mapping[str, int]
    scenarios: JsonObject
    tuned: JsonObject
    subjects: Mapping[str, ModelSpec] = field(default_factory=dict)
    limits: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folders(self) -> dict[str, str]:
        """The folder name of every model, by its id."""
        return folder_names(model.id for model in self.models)


@dataclass(frozen=True)
class Plan:
    """Every certificate that a run has to make, and the clean edits that the tuned file leaves out."""

    requests: tuple[CertificateRequest, ...]
    skipped: tuple[tuple[str, str, str], ...]

    def document(self, suite: Suite) -> JsonObject:
        """Return the run's scenarios document: the suite's, with the plan that the verdict is measured against."""
        return _document(suite, self.skipped)


def suites_directory() -> Path:
    """Return the folder of the suites: beside the modules in a wheel, at the top of a repository checkout."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "suites"
    return installed if installed.is_dir() else package.parents[1] / "suites"


def packaged_tuned() -> JsonObject:
    """Return the packaged tuned-parameters document; its defaults are what the edits themselves propose."""
    return with_defaults(read_tuned(suites_directory() / "tuned_edit_params.json"))


def load_suite(name: str, *, tuned: Path | None = None) -> Suite:
    """Read a suite by name, or from a TOML file.

    Args:
        name: ``tiny``, ``smollm2``, ``subset``, ``full``, or the path of a ``.toml`` file.
        tuned: replaces the suite's tuned-parameters file.

    Raises:
        ConfigurationError: no such suite, or a file that does not fit its format; names file, key and expectation.
    """
    path = suites_directory() / f"{name}.toml" if name in EMBEDDED else Path(name)
    document = _read_toml(path, name)
    folder = path.parent
    scenarios = folder / document["scenarios"] if "scenarios" in document else suites_directory() / "scenarios.json"
    tuned = tuned or (folder / document["tuned_edit_params"] if "tuned_edit_params" in document else None)
    return Suite(
        name=document["name"],
        models=tuple(_model(entry, folder, shown(path)) for entry in document["models"]),
        text=_text(document["text"], folder, shown(path)),
        windows=WindowChoice(**document.get("windows", {})),
        runs=DEFAULT_RUNS | document.get("runs", {}),
        scenarios=read_scenarios(scenarios),
        tuned=packaged_tuned() if tuned is None else read_tuned(tuned),
        limits=document.get("limits", {}),
    )


def extension_files(name: str) -> list[Path]:
    """Return the files of Python code that a suite brings along, before anything of it is used.

    Raises:
        ConfigurationError: as :func:`load_suite`.
    """
    if name in EMBEDDED:
        return []
    return [Path(name).parent / file for file in _read_toml(Path(name), name).get("extensions", [])]


def with_models(suite: Suite, given: Sequence[str]) -> Suite:
    """Replace the suite's models by local directories or hub ids (``ID@REV``).

    Values ``MODEL_n=...``, as the environment gives them, replace the model at that position only: an empty one leaves
    it out, and one beyond the suite's models is added.

    Raises:
        ConfigurationError: two models cannot be told apart, one has no name, or none is left.
    """
    slots = [match for text in given if (match := _SLOT.fullmatch(text))]
    if len(slots) == len(given):
        models = _with_slots(suite.models, {int(match["number"]): match["value"] for match in slots})
    else:
        models = named_models(given, "--proofpack-model", suite.models)
    ids = [model.id for model in models]
    if len(set(ids)) != len(ids):
        raise ConfigurationError(
            f"--proofpack-model: two of the models have the same name ({', '.join(sorted(ids))}). Rename a directory."
        )
    return replace(suite, models=models)


def named_models(given: Sequence[str], option: str, known: Iterable[ModelSpec] = ()) -> tuple[ModelSpec, ...]:
    """Return the models that a user names: local directories or hub ids (``ID@REV``), in the user's order.

    A directory is known by its own name, or by its parent's too where two directories share theirs; no absolute path
    enters any artifact.

    Args:
        given: as the user wrote them.
        option: how messages call the option that they were given by.
        known: models whose licence, pins or revision are known, to be kept where an id names one of them.

    Raises:
        ConfigurationError: a model has no name.
    """
    by_id = {model.id: model for model in known}
    paths = [_absolute(text) if _names_directory(text) else None for text in given]
    names = [path.name for path in {path for path in paths if path is not None}]
    models = []
    for text, full in zip(given, paths, strict=True):
        if full is not None:
            unique = names.count(full.name) < 2
            models.append(ModelSpec(id=full.name if unique else f"{full.parent.name}/{full.name}", path=full))
        else:
            model_id, _, revision = text.partition("@")
            base = by_id.get(model_id, ModelSpec(id=model_id))
            models.append(replace(base, revision=revision or base.revision))
    if not all(model.id for model in models):
        raise ConfigurationError(f"{option}: a model has no name. Give a directory, or a hub id as ID[@REV].")
    return tuple(models)


def _with_slots(models: Sequence[ModelSpec], given: Mapping[int, str]) -> tuple[ModelSpec, ...]:
    """Replace models by position, counted from 1; an empty value leaves the position out."""
    filled = {number: text for number, text in given.items() if text}
    kept = {number: model for number, model in enumerate(models, start=1) if number not in given}
    named = dict(zip(filled, named_models(list(filled.values()), "MODEL_1 to MODEL_8", models), strict=True))
    chosen = kept | named
    if not chosen:
        raise ConfigurationError("MODEL_1 to MODEL_8 are empty for every model of the suite: leave one, or name one.")
    return tuple(chosen[number] for number in sorted(chosen))


def plan_certificates(suite: Suite, untuned: Collection[tuple[str, str]] = ()) -> Plan:
    """List every certificate of a suite, model by model, in the order of the scenarios file.

    Args:
        suite: the suite.
        untuned: model ids and types of clean edits whose parameters are still to be found; they have none in the plan.

    Raises:
        ConfigurationError: a clean edit of a model has no tuned parameters.
    """
    edits: dict[tuple[str, str], RequestedEdit] = {}
    skipped: list[tuple[str, str, str]] = []
    for model in suite.models:
        for scenario in all_scenarios(suite.scenarios):
            if suite.runs[RUNS_OF[scenario.category]] == 0:
                continue
            edit = open_edit(scenario, model.id, untuned) or requested_edit(scenario, model.id, suite.tuned)
            if isinstance(edit, Skipped):
                skipped.append((model.id, scenario.id, edit.reason))
            else:
                edits[model.id, scenario.id] = edit
    models = {model.id: model for model in suite.models}
    requests = [
        _request(suite, models[model], scenario, run, edits[model, scenario.id])
        for (model, _, run), scenario in expected_certificates(_document(suite, skipped)).items()
    ]
    return Plan(tuple(requests), tuple(skipped))


def _request(suite: Suite, model: ModelSpec, scenario: Scenario, run: int, edit: RequestedEdit) -> CertificateRequest:
    folder = certificate_folder(scenario.id, scenario.category, run)
    return CertificateRequest(
        model=model,
        scenario=scenario,
        run=run,
        id=f"{model.id}-{scenario.id}" + ("" if scenario.category is Category.ERROR else f"-run_{run}"),
        folder=f"{suite.folders[model.id]}/certificates/{folder}",
        edit=edit,
        subject=suite.subjects.get(scenario.id),
    )


def _document(suite: Suite, skipped: Iterable[tuple[str, str, str]]) -> JsonObject:
    return {
        **suite.scenarios,
        "plan": {
            "suite": suite.name,
            "models": [model.id for model in suite.models],
            "runs": dict(suite.runs),
            "skipped": [
                {"model": model, "scenario": scenario, "reason": reason} for model, scenario, reason in skipped
            ],
        },
    }


def default_windows(
    parameters: int, seq_len: int | None, max_positions: int | None, min_tokens: int
) -> tuple[int, int]:
    """Choose window length and count per side where a suite leaves them open.

    Small models (under 100 M parameters) get 128 tokens and at least 200 + 200 windows, larger ones 512 and at least
    100 + 100; a model that takes fewer positions gets shorter windows, and as many as ``min_tokens`` scored tokens
    need.

    Args:
        parameters: size of the model.
        seq_len: the length that the suite asks for, if it does.
        max_positions: how many positions the model takes, if it says so.
        min_tokens: scored tokens that preview and final windows must have together.

    Returns:
        ``(seq_len, windows)``; preview and final have ``windows`` each.
    """
    length, windows = (128, 200) if parameters < SMALL_MODEL else (512, 100)
    if seq_len is not None:
        length = seq_len
    elif max_positions is not None:
        length = max(2, min(length, max_positions))
    needed = -(-min_tokens // (2 * (length - 1)))
    return length, max(windows, needed)


def _names_directory(text: str) -> bool:
    return text.startswith((".", "/", "~")) or Path(text).is_dir() or is_single_file(Path(text))


def _absolute(text: str) -> Path:
    """Return a directory's absolute path. Links stay: a model is known by the name that the user sees."""
    return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - resolve() would follow links


def _read_toml(path: Path, name: str) -> JsonObject:
    try:
        raw = read_named(path, _MAX_TOML_BYTES)
    except OSError as error:
        likely = likeliest(name, EMBEDDED)
        reason = (error.strerror or str(error)) if name else "it names nothing"  # an empty variable of a shell's
        raise ConfigurationError(
            f"--proofpack-suite={name}: {reason}. {f'Did you mean {likely}? ' if likely else ''}Choose one of "
            f"{', '.join(EMBEDDED)}, or name a TOML file in the format proof_pack_suite_v1."
        ) from error
    if len(raw) > _MAX_TOML_BYTES:
        raise ConfigurationError(f"{shown(path)}: more than {_MAX_TOML_BYTES} bytes is too long for a suite file")
    try:
        document: dict[str, Any] = tomllib.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"{shown(path)} is not valid TOML: no text in UTF-8 (byte {error.start}). Is it a suite file at all?"
        ) from error
    except (ValueError, RecursionError) as error:  # not TOML, or a number of thousands of digits
        raise ConfigurationError(f"{shown(path)} is not valid TOML: {error}") from error
    require_schema("suite", document, shown(path))
    ids = [entry["id"] for entry in document["models"]]
    if len(set(ids)) != len(ids):
        raise ConfigurationError(f"{shown(path)}: models: every id may stand there once")
    return document


def with_installed_models(suite: Suite) -> Suite:
    """Return the suite with the places of those models that are files of installed packages.

    Raises:
        ConfigurationError: a package is not installed, or has no such file.
    """
    places = {
        model.id: locate(model.installed, f"{suite.name}: the model {model.id}")
        for model in suite.models
        if model.installed is not None and model.path is None
    }
    models = tuple(replace(model, path=places.get(model.id, model.path)) for model in suite.models)
    return replace(suite, models=models)


def _model(entry: Mapping[str, Any], folder: Path, source: str) -> ModelSpec:
    if ("package" in entry) != ("file" in entry) or {"package", "path"} <= entry.keys():
        raise ConfigurationError(
            f"{source}: the model {entry['id']}: package and file belong together, and exclude path"
        )
    return ModelSpec(
        id=entry["id"],
        path=folder / entry["path"] if "path" in entry else None,
        revision=entry.get("revision"),
        license=entry.get("license"),
        sha256=entry.get("sha256", {}),
        parameters=entry.get("parameters"),
        trust_remote_code=entry.get("trust_remote_code", False),
        installed=InstalledFile(entry["package"], entry["file"]) if "package" in entry else None,
    )


def _text(entry: Mapping[str, Any], folder: Path, source: str) -> TextSpec:
    given = {key: value for key, value in entry.items() if key != "provider"}
    if "path" in given:
        given["path"] = folder / given["path"]
    return TEXT_SOURCES.require(entry["provider"], f"{source}: text.provider").spec(given, source)
