"""What a process has at hand to make certificates: one loaded model, and the checked inputs of all.

Nothing heavy is imported before it is needed, so that a session that loads nothing starts fast.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import TYPE_CHECKING

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec
from pytest_proofpack.runs.directory import MARKER
from pytest_proofpack.runs.resume import LIBRARIES, Conditions

if TYPE_CHECKING:
    from pytest_proofpack.devices.memory_plan import MemoryPlan
    from pytest_proofpack.devices.placement import Holding, Placement, ProcessDevices
    from pytest_proofpack.engine.baseline import Baseline, Prepared
    from pytest_proofpack.engine.edited_checkpoint import Checkpoint, PreparedSubject
    from pytest_proofpack.runs.run import Run


class Workbench:
    """Keeps one baseline loaded, the one that the current item needs, one checkpoint, and the checked inputs of all.

    Attributes:
        run: the run.
        plans: the memory plan of every model whose inputs have been checked, by id.
        reused: what earlier sessions have made, without its evidence, by the id of its request.
        borrowed: devices of other workers that what is loaded next may use.
    """

    def __init__(self, run: Run, devices: ProcessDevices | None = None) -> None:
        self.run = run
        self.plans: dict[str, MemoryPlan] = {}
        self.reused: Mapping[str, JsonObject] = {}
        self._devices = devices
        self._holding: Holding | None = None
        self._prepared: dict[str, Prepared] = {}
        self._baseline: Baseline | None = None
        self._prepared_subjects: dict[str, PreparedSubject] = {}
        self._checkpoint: tuple[str, Checkpoint] | None = None
        self.borrowed: tuple[str, ...] = ()

    def prepare(self, model: ModelSpec) -> Prepared:
        """Return the checked inputs of a model: directory, tokenizer, text. Its memory is planned too.

        Raises:
            ConfigurationError: something about them cannot be used, or the model fits no device.
        """
        from pytest_proofpack.devices.model_shapes import plan_model
        from pytest_proofpack.engine.baseline import prepare_model

        if model.id not in self._prepared:
            prepared = prepare_model(self._located_run(), self._located(model))
            if self._devices is not None:
                self.plans[model.id] = plan_model(prepared.spec, prepared.plan, self._devices.devices)
            self._prepared[model.id] = prepared
        return self._prepared[model.id]

    def digest(self, model: ModelSpec) -> str:
        """Return the digest of a model's directory."""
        from pytest_proofpack.models.files import CheckpointFiles

        return CheckpointFiles.of(self.prepare(model).spec).digest

    def conditions(self, model: ModelSpec, *, elsewhere: bool) -> Conditions:
        """Return how certificates of a model are made in this session, whose subjects have all been prepared.

        Args:
            model: the model.
            elsewhere: whether workers of other hosts make some, on devices that are not known here.
        """
        prepared, plan = self.prepare(model), self.plans.get(model.id)
        return Conditions(
            plan=prepared.plan,
            text=prepared.text.facts,
            tokenizer_hash=prepared.tokenizer_hash,
            device=None if elsewhere or self._devices is None else self._devices.devices[0].kind,
            batch_windows=None if plan is None else plan.batch_windows,
            libraries={name: version(name) for name in LIBRARIES},
            weights=lambda: self.digest(model),
            subjects={scenario: subject.digest for scenario, subject in self._prepared_subjects.items()},
        )

    def baseline(self, request: CertificateRequest) -> Baseline:
        """Return the loaded baseline of a request's model, dropping the one before.

        Its weights may have been given up to make room for a subject's; they are loaded again if the request needs
        them.
        """
        from pytest_proofpack.engine.baseline import load_baseline

        held = self._baseline
        if held is not None and held.spec.id == request.model.id and (request.subject or not held.released):
            return held
        del held
        self.release()  # memory and devices, before the next model takes its own
        prepared = self.prepare(request.model)
        try:
            self._baseline = load_baseline(self.run, prepared, self._place(prepared))
        except BaseException:
            self.release()
            raise
        return self._baseline

    def prepare_subject(self, request: CertificateRequest) -> PreparedSubject:
        """Return the checked inputs of a request's edited checkpoint.

        Raises:
            ConfigurationError: something about them cannot be used.
        """
        from pytest_proofpack.engine.edited_checkpoint import prepare_subject

        scenario, spec = request.scenario.id, request.subject
        assert spec is not None
        if scenario not in self._prepared_subjects:
            self._prepared_subjects[scenario] = prepare_subject(self._located(spec), self.prepare(request.model))
        return self._prepared_subjects[scenario]

    def checkpoint(self, request: CertificateRequest, baseline: Baseline) -> Checkpoint:
        """Return the loaded checkpoint of a request, dropping the one before."""
        from pytest_proofpack.engine.edited_checkpoint import load_checkpoint

        scenario = request.scenario.id
        if self._checkpoint is None or self._checkpoint[0] != scenario:
            self._checkpoint = None
            self._checkpoint = scenario, load_checkpoint(self.run, baseline, self.prepare_subject(request))
        return self._checkpoint[1]

    def release(self) -> None:
        """Drop what is loaded and let other processes have its memory and devices; the checked inputs stay."""
        import torch

        self._baseline = self._checkpoint = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._holding is not None:
            self._holding.release()
            self._holding = None

    def borrow(self, devices: tuple[str, ...]) -> None:
        """Take note that what is loaded next may use these devices besides this worker's own."""
        self.borrowed = devices

    def _place(self, prepared: Prepared) -> Placement | None:
        """Lease the devices that a model needs, waiting for them, and say where it goes."""
        if self._devices is None:
            return None
        self._holding = self._devices.hold(self.plans[prepared.spec.id], self.borrowed)
        return self._holding.placement

    def _located(self, model: ModelSpec) -> ModelSpec:
        """Return a model with its directory on this machine: the controller knows it, a worker looks for its own."""
        from pytest_proofpack.sources.preflight import located_model

        return located_model(model, verify=not self._beside_the_controller())

    def _located_run(self) -> Run:
        """Return the run with the text's directory on this machine."""
        from pytest_proofpack.sources.preflight import located_text

        text = located_text(self.run.suite.text, verify=not self._beside_the_controller())
        self.run = replace(self.run, suite=replace(self.run.suite, text=text))
        return self.run

    def _beside_the_controller(self) -> bool:
        """Tell whether this worker's cache is the controller's, whose files have been compared with their commits."""
        return (self.run.out / MARKER).is_file()
