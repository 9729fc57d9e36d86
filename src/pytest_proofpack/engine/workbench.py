"""What a process has at hand to make certificates: one loaded model, and the checked inputs of all.

Nothing heavy is imported before it is needed, so that a session that loads nothing starts fast.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pytest_proofpack.common.heavy_imports import heavy_imports
from pytest_proofpack.common.stopwatch import tell
from pytest_proofpack.devices.driver import wake_driver
from pytest_proofpack.devices.inventory import CPU
from pytest_proofpack.engine.inputs import CheckedInputs
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.plan.records import CertificateRequest, ToolEdit

if TYPE_CHECKING:
    from pytest_proofpack.devices.placement import Holding, Placement, ProcessDevices
    from pytest_proofpack.engine.baseline import Baseline
    from pytest_proofpack.engine.edited_checkpoint import Checkpoint
    from pytest_proofpack.engine.prepared import Prepared
    from pytest_proofpack.engine.tool_products import ToolProduct
    from pytest_proofpack.runs.run import Run


class Workbench:
    """Keeps one baseline loaded, the one that the current item needs, and one checkpoint.

    Attributes:
        run: the run; the same one for as long as the process lives.
        inputs: its checked inputs.
        borrowed: devices of other workers that what is loaded next may use.
        on_placed: is told the seconds that a model waited for its devices, once it has them.
    """

    def __init__(self, run: Run, devices: ProcessDevices | None = None, inputs: CheckedInputs | None = None) -> None:
        """Load nothing yet.

        Args:
            run: the run.
            devices: those of this process; None for the settings' device, without a plan of its memory.
            inputs: those of the run that were checked already.
        """
        self.run = run
        self.inputs = inputs or CheckedInputs(run, devices)
        self._devices = devices
        self._holding: Holding | None = None
        self._baseline: Baseline | None = None
        self._checkpoint: tuple[tuple[str, str], Checkpoint] | None = None
        self._product: ToolProduct | None = None
        self._refused: dict[str, ConfigurationError] = {}
        self.borrowed: tuple[str, ...] = ()
        self.on_placed: Callable[[float], None] = lambda _: None

    def baseline(self, request: CertificateRequest) -> Baseline:
        """Return the loaded baseline of a request's model, dropping the one before.

        Its weights may have been given up to make room for a subject's; they are loaded again if the request needs
        them.

        Raises:
            ConfigurationError: it was refused, now or before: what is wrong with its files does not go away.
            EvaluationError: it cannot be loaded, or see :meth:`require_unchanged`.
        """
        held = self._baseline
        if held is not None and (held.misread or (held.released and not request.loads_its_own)):
            self._drop_changed()  # a changed file has failed an item already
        self.require_unchanged(request)
        held = self._baseline
        if held is not None and held.spec.id == request.model.id and (request.loads_its_own or not held.released):
            return held
        del held
        if (refusal := self._refused.get(request.model.id)) is not None:
            raise refusal
        self.release()  # memory and devices, before the next model takes its own
        tell("load")
        prepared = self.inputs.prepare(request.model)
        try:
            self._baseline = self._loaded(prepared)
        except BaseException as error:
            if isinstance(error, ConfigurationError) and not self.inputs.changed(request):
                self._refused[request.model.id] = error
            self._drop_changed()
            raise
        return self._baseline

    def _loaded(self, prepared: Prepared) -> Baseline:
        """Load a baseline; the first one waits for torch to be imported, and its device wakes up meanwhile."""
        placement = self._place(prepared)
        if placement is not None and placement.device != CPU:
            wake_driver()
        with heavy_imports():
            from pytest_proofpack.engine.baseline import load_baseline

        return load_baseline(self.run, prepared, placement)

    def require_unchanged(self, request: CertificateRequest) -> None:
        """Make sure that every file that was read for a request is still what it was; called before and after it.

        What is loaded does not change with its file, but a certificate names its files by a digest, and a user who
        writes to them should know. After a change everything is read and loaded anew.

        Raises:
            EvaluationError: one is not; names it.
        """
        from pytest_proofpack.models.files import changed_error

        if changed := self.inputs.changed(request):
            self._refused.pop(request.model.id, None)
            self._drop_changed()
            raise changed_error(changed)

    def checkpoint(self, request: CertificateRequest, baseline: Baseline) -> Checkpoint:
        """Return the loaded checkpoint of a request, dropping the one before; a tool makes it, if that is asked for."""
        key = request.model.id, request.scenario.id
        if self._checkpoint is None or self._checkpoint[0] != key:
            self._drop_checkpoint()
            try:
                self._checkpoint = key, self._loaded_checkpoint(request, baseline)
            except BaseException:
                self._drop_checkpoint()
                if self.inputs.changed(request):
                    self._drop_changed()
                raise
        return self._checkpoint[1]

    def _loaded_checkpoint(self, request: CertificateRequest, baseline: Baseline) -> Checkpoint:
        if isinstance(request.edit, ToolEdit):
            from pytest_proofpack.engine.tool_products import ToolProduct

            tell("edit")
            self._product = ToolProduct(self.run, baseline, request.edit)
            return self._product.load(self.run, baseline)
        from pytest_proofpack.engine.edited_checkpoint import load_checkpoint

        return load_checkpoint(self.run, baseline, self.inputs.prepare_subject(request))

    def _drop_checkpoint(self) -> None:
        """Drop the loaded checkpoint, and remove its files if a tool made them for it."""
        self._checkpoint = None
        if self._product is not None:
            self._product.remove()
            self._product = None

    def release(self) -> None:
        """Drop what is loaded and let other processes have its memory and devices; the checked inputs stay."""
        if self._baseline is None and self._checkpoint is None and self._holding is None:
            return  # looking for garbage takes time, and the first model of a process need not wait for that
        self._baseline = None
        self._drop_checkpoint()
        gc.collect()
        if "torch" in sys.modules and (cuda := sys.modules["torch"].cuda).is_available():
            cuda.empty_cache()
        if self._holding is not None:
            self._holding.release()
            self._holding = None

    def close(self) -> None:
        """Remove what was made for this process alone: it ends."""
        self._drop_checkpoint()

    def _drop_changed(self) -> None:
        """Drop what is loaded, and whatever was read from files that have changed."""
        self.release()
        self.inputs.forget_changed()

    def borrow(self, devices: tuple[str, ...]) -> None:
        """Take note that what is loaded next may use these devices besides this worker's own."""
        self.borrowed = devices

    def _place(self, prepared: Prepared) -> Placement | None:
        """Lease the devices that a model needs, waiting for them, and say where it goes."""
        if self._devices is None:
            return None
        begin = time.monotonic()
        self._holding = self._devices.hold(self.inputs.plans[prepared.spec.id], self.borrowed)
        self.on_placed(time.monotonic() - begin)
        return self._holding.placement
