"""A run: the settings resolved into suite, plan, policy and directories. Controller and workers build the same one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pytest_proofpack.certificate.detectors import require_known_gates
from pytest_proofpack.certificate.limits import describe
from pytest_proofpack.certificate.policy import Policy, limits_beside, policy_words, resolve_policy
from pytest_proofpack.certificate.presets import Preset, preset_name, read_preset
from pytest_proofpack.certificate.repeats import with_repeats
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.config.settings import Settings
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.byoe import byoe_suite
from pytest_proofpack.plan.limits_file import read_limits_file
from pytest_proofpack.plan.pins import Revisions
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, WindowPlan
from pytest_proofpack.plan.suites import (
    Plan,
    Suite,
    default_windows,
    load_suite,
    plan_certificates,
    with_installed_models,
    with_models,
)
from pytest_proofpack.plan.text_sources import default_text, text_of_file
from pytest_proofpack.plan.tuning import tuning_requests, with_tuned
from pytest_proofpack.runs.extensions import Extension

TUNE = "tune"
"""The mode of a run that tunes."""
_TEXT_OPTION = "--proofpack-text"


@dataclass(frozen=True)
class Run:
    """Everything that is fixed before the first certificate is made; it never changes.

    :func:`resolve_run` returns what the settings ask for. The controller goes on from there, before any worker starts:
    the run that is certified has its commits, its directories, and what it reuses of earlier sessions. A worker
    builds the same one from what the controller sends it; only where files lie, it finds out for itself.

    Attributes:
        settings: the resolved options, with ``out`` filled in.
        suite: the suite, with the user's models, text and runs.
        plan: every certificate to be made.
        policy: the resolved policy.
        out: the run directory.
        pack_dir: where the pack goes; None if there will be none.
        presets: calibration presets given by the user, by model id.
        extensions: what was added to the package from outside.
        revisions: the commits that it reads; without pins where nothing was resolved, as while only collecting.
        reused: what an item needs of each certificate of earlier sessions that is still valid, by the id of its
            request; see :mod:`pytest_proofpack.runs.resume`.
        untuned: the clean edits whose parameters are to be found before the run begins; none once it is complete.
        share: the ids of the requests that this session makes, where it makes a shard of the run; None for all.
    """

    settings: Settings
    suite: Suite
    plan: Plan
    policy: Policy
    out: Path
    pack_dir: Path | None
    presets: Mapping[str, Preset]
    extensions: tuple[Extension, ...] = ()
    revisions: Revisions = field(default_factory=lambda: Revisions("", "", ()))
    reused: Mapping[str, JsonObject] = field(default_factory=dict)
    untuned: tuple[CertificateRequest, ...] = ()
    share: frozenset[str] | None = None

    @property
    def tunes(self) -> bool:
        """Whether it finds parameters of clean edits, and certifies nothing."""
        return self.settings.mode == TUNE

    @property
    def requests(self) -> tuple[CertificateRequest, ...]:
        """Every certificate to be made: those of the plan, or of this session's share of it."""
        wanted = self.plan.requests
        return wanted if self.share is None else tuple(request for request in wanted if request.id in self.share)

    @property
    def to_be_made(self) -> tuple[CertificateRequest, ...]:
        """Those of them that no earlier session has made."""
        return tuple(request for request in self.requests if request.id not in self.reused)

    @property
    def items(self) -> tuple[CertificateRequest, ...]:
        """Every item of the run: the certificates, and the repeats of one of them."""
        return with_repeats(self.requests, self.settings.repeats)

    @property
    def models(self) -> tuple[ModelSpec, ...]:
        """Every model that has to be on this machine: unedited ones and subjects."""
        return (*self.unedited, *self.subjects.values())

    @property
    def unedited(self) -> tuple[ModelSpec, ...]:
        """The suite's models; of a shard, those that it makes certificates of."""
        wanted = {request.model.id for request in self.requests}
        return tuple(model for model in self.suite.models if self.share is None or model.id in wanted)

    @property
    def subjects(self) -> dict[str, ModelSpec]:
        """The edited models by scenario; of a shard, those that it makes certificates of."""
        wanted = {request.scenario.id for request in self.requests}
        known = self.suite.subjects.items()
        return {scenario: model for scenario, model in known if self.share is None or scenario in wanted}

    @property
    def judged_by(self) -> str:
        """The tier, with the limit of the ratio, in words."""
        return policy_words(self.policy.tier, self.settings.profile, self.policy.thresholds)

    @property
    def own_limits(self) -> str:
        """The thresholds that are not the tier's, in words; empty if all are."""
        found = limits_beside(self.policy.tier, self.settings.profile, self.policy.overrides)
        return f"limits: {describe(found, self.policy.tier)}" if found else ""

    @property
    def spectral_contract(self) -> JsonObject:
        """How the spectra of weights are measured."""
        contract: JsonObject = self.policy.section("spectral")["measurement_contract"]
        return contract

    @property
    def activation_contract(self) -> JsonObject:
        """How activations are measured, for every guard that reads them."""
        contract: JsonObject = self.policy.section("rmt")["measurement_contract"]
        return contract

    @property
    def highest_run(self) -> int:
        """The highest run number: windows are drawn with the suite's seed plus 1 up to this."""
        return max((request.run for request in self.requests), default=0)

    def window_plan(self, parameters: int, max_positions: int | None) -> WindowPlan:
        """Return how text is cut for a model of so many parameters that takes so many positions."""
        choice = self.suite.windows
        min_tokens = self.policy.section("primary_metric")["min_tokens"]
        seq_len, windows = default_windows(parameters, choice.seq_len, max_positions, min_tokens)
        return WindowPlan(seq_len, choice.preview or windows, choice.final or windows, choice.seed)


def resolve_run(settings: Settings, extensions: tuple[Extension, ...] = (), tuned: JsonObject | None = None) -> Run:
    """Build the run that ``settings`` ask for.

    Args:
        settings: the resolved options.
        extensions: those that are loaded; what they registered can be asked for.
        tuned: the run's tuned parameters, for who has been told; None to read those of the settings or the suite.

    Raises:
        ConfigurationError: whatever in them cannot be used.
    """
    suite = _byoe_suite(settings) if settings.baseline or settings.subject else _named_suite(settings)
    suite = replace(suite, runs=_runs_of_mode(settings, suite.runs), tuned=suite.tuned if tuned is None else tuned)
    suite, plan, untuned = _planned(settings, suite, settled=tuned is not None)
    limits, source = suite.limits, f"suite {suite.name}: limits"
    if settings.limits is not None:
        source = f"--proofpack-limits={settings.limits}"
        limits = read_limits_file(Path(settings.limits).expanduser(), "--proofpack-limits")
    if settings.resume and settings.out is None:
        raise ConfigurationError("--proofpack-resume: name the directory to go on with by --proofpack-out=DIR.")
    out = Path(settings.out or _default_out(suite.name)).expanduser().absolute()
    no_pack = settings.no_pack or settings.mode == TUNE
    pack_dir = None if no_pack else Path(settings.pack_dir or out / "proof_pack").expanduser().absolute()
    return Run(
        settings=replace(settings, out=str(out)),
        suite=suite,
        plan=plan,
        policy=resolve_policy(settings.tier, settings.profile, limits, source),
        out=out,
        pack_dir=pack_dir,
        presets=_read_presets(suite, settings.preset_dir),
        extensions=extensions,
        untuned=untuned,
    )


def with_tuned_edits(run: Run, tuned: JsonObject) -> Run:
    """Return a run with the parameters that were found for its untuned edits, and the plan that follows.

    Args:
        run: the run that is asked for.
        tuned: a tuned-parameters document with them; those that it does not have are the run's defaults.

    Raises:
        ConfigurationError: an edit has no parameters all the same.
    """
    pairs = [(request.model.id, request.edit_name) for request in run.untuned]
    suite = replace(run.suite, tuned=with_tuned(run.suite.tuned, tuned, pairs))
    return replace(run, suite=suite, plan=plan_certificates(suite), untuned=())


def _planned(settings: Settings, suite: Suite, *, settled: bool) -> tuple[Suite, Plan, tuple[CertificateRequest, ...]]:
    """Return the suite, the plan, and what is to be tuned before it can be carried out: nothing if that is settled."""
    if settings.mode == TUNE:
        if settings.repeats or suite.subjects:
            raise ConfigurationError(
                "--proofpack-mode=tune tunes the clean edits of a suite: leave --proofpack-repeats, "
                "--proofpack-baseline and --proofpack-subject out."
            )
        requests = tuning_requests(suite, untuned_only=settings.tune == "auto")
        if not requests:
            raise ConfigurationError(
                "--proofpack-mode=tune: there is nothing to tune: the suite runs no clean edit that has a ladder, or "
                "all of them have parameters (--proofpack-tune=auto)."
            )
        wanted = {request.model.id for request in requests}
        models = tuple(model for model in suite.models if model.id in wanted)
        return replace(suite, models=models), Plan(requests, ()), ()
    first = settings.tune == "auto" and not settled
    untuned = tuning_requests(suite, untuned_only=True) if first else ()
    plan = plan_certificates(suite, {(request.model.id, request.edit_name) for request in untuned})
    if not plan.requests:
        raise ConfigurationError("the suite asks for no certificate at all: every kind of run is 0")
    return suite, plan, untuned


def _named_suite(settings: Settings) -> Suite:
    """Return the suite that the settings name, with the user's models, text and runs."""
    if settings.suite is None:
        raise ConfigurationError("no suite: name one with --proofpack-suite=NAME")
    if settings.edit_label is not None:
        raise ConfigurationError("--proofpack-edit-label names the edit of --proofpack-subject: give one, or leave it.")
    suite = load_suite(settings.suite, tuned=Path(settings.tuned_edit_params) if settings.tuned_edit_params else None)
    require_known_gates(suite.scenarios, f"scenarios of suite {suite.name}")
    suite = replace(suite, runs={**suite.runs, **settings.runs})
    if settings.model:
        suite = with_models(suite, settings.model)
    suite = with_installed_models(suite)
    return replace(suite, text=text_of_file(settings.text, _TEXT_OPTION)) if settings.text else suite


def _byoe_suite(settings: Settings) -> Suite:
    """Return the suite of a baseline and its edited models."""
    if settings.suite is not None:
        raise ConfigurationError("--proofpack-suite and --proofpack-subject exclude each other: name one of them.")
    if settings.baseline is None or not settings.subject:
        raise ConfigurationError(
            "--proofpack-baseline and --proofpack-subject need each other: name the model before the edit, and after."
        )
    if settings.model:
        raise ConfigurationError("--proofpack-model replaces a suite's models: name yours by --proofpack-baseline.")
    text = text_of_file(settings.text, _TEXT_OPTION) if settings.text else default_text()
    return byoe_suite(settings.baseline, settings.subject, label=settings.edit_label, text=text, runs=settings.runs)


def _runs_of_mode(settings: Settings, runs: Mapping[str, int]) -> dict[str, int]:
    """Leave out what the mode leaves out; with presets there is nothing left to calibrate."""
    if settings.mode == "calibrate-only":
        if settings.preset_dir is not None:
            raise ConfigurationError(
                "--proofpack-mode=calibrate-only makes presets, --proofpack-preset-dir reuses them: give only one of "
                "the two."
            )
        if runs["calibration"] == 0:
            raise ConfigurationError(
                "--proofpack-mode=calibrate-only: the suite asks for no calibration run; give "
                "--proofpack-runs=calibration:5."
            )
        return {kind: number if kind == "calibration" else 0 for kind, number in runs.items()}
    if settings.mode == "run-only" and settings.preset_dir is None:
        raise ConfigurationError(
            "--proofpack-mode=run-only needs the presets of an earlier calibration: give "
            "--proofpack-preset-dir=DIR, or use --proofpack-mode=full."
        )
    return {**runs, "calibration": 0} if settings.preset_dir is not None else dict(runs)


def _read_presets(suite: Suite, directory: str | None) -> dict[str, Preset]:
    """Read the preset of every model; the directory may also be the preset file of the only one."""
    if directory is None:
        return {}
    path = Path(directory).expanduser()
    folders = suite.folders
    if path.is_file() and len(folders) == 1:
        return {model: read_preset(path) for model in folders}
    return {model: read_preset(path / preset_name(folder)) for model, folder in folders.items()}


def _default_out(suite: str) -> Path:
    return Path("proof_pack_runs") / f"{suite}_{datetime.now(UTC):%Y%m%d_%H%M%S}"
