"""Putting the shards of a run together: judged again, and ended as one session would have ended it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pytest_proofpack.certificate.kept_text import KEY as KEPT_TEXT
from pytest_proofpack.certificate.limits import KEY as LIMITS
from pytest_proofpack.certificate.policy import resolve_policy
from pytest_proofpack.certificate.repeats import FILE as REPEATS
from pytest_proofpack.common.budgets import BUDGETS
from pytest_proofpack.common.files import no_empty_folders_left, require_empty_directory, temporary_directory_beside
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json, read_json
from pytest_proofpack.common.words import printable
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError, FormatError, ProofPackError
from pytest_proofpack.pack.verify import verify_pack
from pytest_proofpack.plan.pins import Pin, Role
from pytest_proofpack.plan.records import ModelSpec, TextSpec
from pytest_proofpack.plan.scenarios import parse_scenarios
from pytest_proofpack.plan.suites import Suite, WindowChoice, plan_certificates
from pytest_proofpack.report.formatting import counted
from pytest_proofpack.runs.claim import require_apart
from pytest_proofpack.runs.collected import Collected, collect, judge, refuse, told
from pytest_proofpack.runs.directory import RunDirectory
from pytest_proofpack.runs.finish import SessionResult, check_sealing, finish
from pytest_proofpack.runs.paths import ANALYSIS, PACK
from pytest_proofpack.runs.resume import PreviousRun
from pytest_proofpack.runs.run import Run
from pytest_proofpack.runs.shards import Part, one_run, read_part

OPTION = "--out"
_MODE = 0o755


@dataclass(frozen=True)
class Assembled:
    """A run that was put together.

    Attributes:
        run: the run.
        result: how it ended.
        told: what people should know of how its parts go together, a line each.
    """

    run: Run
    result: SessionResult
    told: tuple[str, ...]


def assemble(directories: Sequence[Path], settings: Settings) -> Assembled:
    """Write one run from directories that hold parts of it, with verdict, reports and pack.

    Args:
        directories: those of the shards, in any order.
        settings: ``out`` is where the run goes, an empty or a new directory; what they say of packs and signatures is
            heeded, and nothing else.

    Raises:
        ConfigurationError: the directories are not of one run; something is missing, does not hold or contradicts
            another part; or what is to be written cannot be. Nothing is written then.
    """
    out = Path(str(settings.out)).expanduser().absolute()
    parts = [read_part(directory) for directory in directories]
    whole = one_run(parts)
    with no_empty_folders_left(out):
        run, result, collected = _assembled(out, parts, whole, settings)
    if result.pack is not None:
        result = replace(result, pack=replace(result.pack, directory=out / PACK))
    count = counted(len(parts), "directory", "directories")
    head = f"{count} of one run, {counted(len(run.requests), 'certificate')} judged again"
    return Assembled(replace(run, out=out), result, (head, *told(collected)))


def _assembled(
    out: Path, parts: Sequence[Part], whole: PreviousRun, settings: Settings
) -> tuple[Run, SessionResult, Collected]:
    """Write the run, which appears whole or not at all."""
    require_apart(out, OPTION)
    require_empty_directory(out, OPTION)
    staged = temporary_directory_beside(out)
    try:
        run = run_of(whole, settings, staged)
        check_sealing(run, whole.session["network_mode"])
        collected = collect(run, parts)
        run = _completed(run, whole, collected)
        judge(run, collected)
        result = _written(run, whole, collected, _repeats(parts))
        staged.chmod(_MODE)
        staged.rename(out)
    except (OSError, ProofPackError) as error:
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"nothing was written: {error}") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return run, result, collected


def run_of(whole: PreviousRun, settings: Settings, out: Path) -> Run:
    """Return the run that its documents describe; what only certificates say, it lacks: see :func:`_completed`.

    Raises:
        ConfigurationError: they contradict each other, or it is of a tier or an edit that is not known here.
    """
    session = whole.session
    suite = _suite_of(whole)
    plan = plan_certificates(suite)
    planned = parse_json(compact_json(plan.document(suite)).encode(), "the plan")
    if planned != whole.scenarios or session["suite"] != suite.name:
        raise ConfigurationError("state/scenarios.json: its plan is not what its scenarios and parameters give.")
    asked = {name: session[name] for name in ("tier", "profile", "determinism")}
    return Run(
        settings=replace(settings, suite=suite.name, out=str(out), **asked),
        suite=suite,
        plan=plan,
        policy=resolve_policy(session["tier"], session["profile"]),
        out=out,
        pack_dir=None if settings.no_pack else out / PACK,
        presets={},
        revisions=whole.revisions,
    )


def _suite_of(whole: PreviousRun) -> Suite:
    """Return the suite that a run's documents describe; what nobody needs who makes no certificate, it lacks."""
    document = whole.scenarios
    pins = {key: pin for (role, key), pin in whole.revisions.pins.items() if role is Role.MODEL}
    known = {model: pins.get(model, Pin(None)) for model in document["plan"]["models"]}
    subjects = {one.id: one.subject for one in parse_scenarios(document) if one.subject is not None}
    return Suite(
        name=document["plan"]["suite"],
        models=tuple(ModelSpec(model, revision=pin.revision, license=pin.license) for model, pin in known.items()),
        text=TextSpec(""),
        windows=WindowChoice(),
        runs=document["plan"]["runs"],
        scenarios={name: value for name, value in document.items() if name != "plan"},
        tuned=whole.tuned,
        subjects={name: ModelSpec(edit.model_id, revision=edit.revision) for name, edit in subjects.items()},
    )


def _completed(run: Run, whole: PreviousRun, collected: Collected) -> Run:
    """Return the run with what its certificates alone say: limits of its own, kept text, models that ran own code.

    Raises:
        ConfigurationError: the limits make no sense, or they are not those of the run.
    """
    (first, *_), *_ = collected.values()
    session, overrides = whole.session, first.certificate["policy_provenance"]["overrides"]
    policy = resolve_policy(session["tier"], session["profile"], overrides.get(LIMITS), str(first.path))
    if policy.digest != session["policy_digest"]:
        raise ConfigurationError(
            f"the run has the policy {session['policy_digest']}; tier, profile and limits of it have {policy.digest}."
        )
    metas = [found.certificate["meta"] for several in collected.values() for found in several]
    trusted = {meta["model_id"] for meta in metas if meta.get("trust_remote_code")}
    models = tuple(replace(model, trust_remote_code=model.id in trusted) for model in run.suite.models)
    suite = replace(run.suite, models=models)
    settings = replace(run.settings, keep_text=KEPT_TEXT in first.certificate["dataset"])
    return replace(run, settings=settings, suite=suite, plan=plan_certificates(suite), policy=policy)


def _repeats(parts: Sequence[Part]) -> JsonObject | None:
    """Return the summary of the repeats, from the shard that has made them.

    Raises:
        ConfigurationError: two directories hold different ones.
    """
    found: dict[str, JsonObject] = {}
    for part in parts:
        path = part.file(ANALYSIS / REPEATS)
        if path is not None:
            try:
                summary = read_json(path, str(path), max_bytes=BUDGETS.document_bytes, below=part.directory)
            except FormatError as error:
                raise ConfigurationError(f"{error}. Nothing was written.") from error
            found[compact_json(summary)] = summary
    if len(found) > 1:
        raise ConfigurationError(f"{ANALYSIS / REPEATS}: several directories hold one, and they differ.")
    return next(iter(found.values()), None)


class _AssembledDirectory(RunDirectory):
    """A run directory with the summary of repeats that a shard has made."""

    def __init__(self, run: Run, summary: JsonObject | None) -> None:
        super().__init__(run)
        self._summary = summary

    def repeats(self) -> JsonObject | None:
        """Return the summary."""
        return self._summary


def _written(run: Run, whole: PreviousRun, collected: Collected, repeats: JsonObject | None) -> SessionResult:
    """Write the run and its pack, and verify that.

    Raises:
        ConfigurationError: there is no pack though one was wanted, or it does not verify.
    """
    directory = _AssembledDirectory(run, repeats)
    directory.network_mode = whole.session["network_mode"]
    directory.create(whole.session["measured_under"], workers=False, started_at=whole.session["started_at"])
    for found, *_ in collected.values():
        directory.store(compact_json(found.certificate))
    result = finish(run, directory, interrupted=False, replaces_pack=False)
    if result.failure is not None:
        raise ConfigurationError(printable(f"{result.failure}. Nothing was written."))
    if run.pack_dir is not None:
        refuse([finding for step in verify_pack(run.pack_dir).steps for finding in step.findings])
    return result
