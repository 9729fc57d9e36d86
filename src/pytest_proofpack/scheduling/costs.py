"""What certificates and loads cost: first guesses from sizes, corrected by what is observed during the run.

Only ratios matter to whoever hands out the work, so the guesses need to be right between models and kinds of edits, not
in seconds; the time left that people are shown gets right as certificates come in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS, UNTOUCHED
from pytest_proofpack.plan.records import CertificateRequest, EditSpec, FaultSpec, RequestedEdit, ToolEdit

PRODUCT_PASSES = 3
"""How often a tool's edit moves a model's weights: read to be quantized, written, loaded again; guessed."""
_TOKEN_FLOPS = 2
"""Floating-point operations per parameter and token of a forward pass: one multiplication, one addition."""


@dataclass(frozen=True)
class Speed:
    """How fast a device is, roughly.

    Attributes:
        flops: floating-point operations per second of a forward pass.
        load: bytes per second from checkpoint to device, with hashing the files and measuring the weights.
        start: seconds that every load takes whatever the size: libraries, tokenizer, text.
    """

    flops: float
    load: float
    start: float


CPU = Speed(flops=6e10, load=0.5e9, start=3.0)
"""One thread of a server: 5e10 to 8e10 measured (docs/performance.md, two models of 1 and 6 M parameters)."""
GPU = Speed(flops=4.9e14, load=3e9, start=2.0)
"""490 TFLOP/s measured on an H100, and 2.3 to 3.4 s from files in memory to a 7B model that has been measured, on H200
(docs/performance.md). A disk may give 3 GB/s. Whoever guesses loads too dear leaves GPUs idle in small suites."""


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model and of what it is evaluated on.

    Attributes:
        active: parameters that one token passes through: fewer than all in a mixture of experts.
        weights: bytes to load.
        tokens: tokens of the windows of one certificate.
        devices: how many devices it takes together.
    """

    active: float
    weights: float
    tokens: int
    devices: int = 1


@dataclass(frozen=True)
class Load:
    """What has to be loaded before items of it can run: a model, or a model and an edited checkpoint.

    Attributes:
        id: its name.
        seconds: guess of what loading takes.
        devices: how many devices it takes together.
    """

    id: str
    seconds: float
    devices: int = 1


@dataclass(frozen=True)
class Job:
    """One item to run.

    Attributes:
        index: its number in the collection.
        load: id of the :class:`Load` that it needs.
        kind: items of one load and kind should take equally long.
        seconds: guess of what it takes once that is loaded.
        run: which window sample it is measured on. What the baseline reads on one is measured once, by whoever needs it
            first, and whoever needs it at the same time waits.
    """

    index: int
    load: str
    kind: str
    seconds: float
    run: int = 1


def load_of(request: CertificateRequest, size: ModelSize, speed: Speed, subject_weights: float = 0.0) -> Load:
    """Return what a request needs loaded; an edited checkpoint of its own is loaded beside the model.

    Args:
        request: the certificate to be made.
        size: of its model.
        speed: of the device.
        subject_weights: bytes that are read and written for its edited checkpoint, if it has one.
    """
    name = request.model.id if not request.loads_its_own else f"{request.model.id} and {request.scenario.id}"
    return Load(name, speed.start + (size.weights + subject_weights) / speed.load, size.devices)


def kind_of(request: CertificateRequest) -> str:
    """Return the kind of a request: edits of one type and scope, or faults of one type, take equally long."""
    match request.edit:
        case EditSpec(edit_type, scope):
            return f"{edit_type}:{scope}"
        case FaultSpec(fault):
            return fault
        case ToolEdit(tool, recipe):
            return f"{tool}:{recipe}"
    return "subject"


def certificate_seconds(request: CertificateRequest, size: ModelSize, speed: Speed) -> float:
    """Guess the seconds of one certificate: the forward pass over its windows, and the edit's share of it.

    Several devices that hold a model together compute one after the other, so they are as fast as one.
    """
    return _cost_of(request.edit) * forward_seconds(size, speed)


def forward_seconds(size: ModelSize, speed: Speed) -> float:
    """Guess the seconds of a forward pass over the windows of one certificate."""
    return _TOKEN_FLOPS * size.active * size.tokens / speed.flops


def _cost_of(edit: RequestedEdit) -> float:
    """Return a certificate's time over that of the bare forward pass: edits and faults say it themselves."""
    match edit:
        case EditSpec(edit_type, scope) if "@layer=" not in scope:
            return EDITS[edit_type].cost
        case FaultSpec(fault):
            return FAULTS[fault].cost
    return UNTOUCHED


class Costs:
    """Seconds of jobs and loads: guessed, then observed.

    What was observed of the same load and kind counts most; else the guess is scaled by how wrong the guesses for this
    load, or for any, have been so far.
    """

    def __init__(self, loads: Iterable[Load]) -> None:
        self._loads = {load.id: load for load in loads}
        self._kinds: dict[tuple[str, str], list[float]] = {}
        self._first: list[tuple[Job, float]] = []
        self._guessed: defaultdict[str | None, float] = defaultdict(float)
        self._taken: defaultdict[str | None, float] = defaultdict(float)

    @property
    def told(self) -> bool:
        """Whether a job was seen without a load, so that what jobs should take is more than a guess."""
        return self._guessed[None] > 0

    def devices(self, load: str) -> int:
        """Return how many devices something takes together."""
        return self._loads[load].devices

    def seconds(self, job: Job) -> float:
        """Return what a job should take once its model is loaded."""
        seen = self._kinds.get((job.load, job.kind))
        if seen:
            return sum(seen) / len(seen)
        known = job.load if self._guessed[job.load] > 0 else None
        return job.seconds * (self._taken[known] / self._guessed[known] if self._guessed[known] > 0 else 1.0)

    def load_seconds(self, load: str) -> float:
        """Return what loading something should take."""
        seen = [(job.load, self._load_part(job, seconds)) for job, seconds in self._first]
        same = [seconds for name, seconds in seen if name == load]
        if same:
            return sum(same) / len(same)
        guessed = sum(self._loads[name].seconds for name, _ in seen)
        scale = sum(seconds for _, seconds in seen) / guessed if guessed else 1.0
        return self._loads[load].seconds * scale

    def _load_part(self, job: Job, seconds: float) -> float:
        """Return how much of the time of a job that began with a load was the load."""
        if self._guessed[None] > 0:
            return max(0.0, seconds - self.seconds(job))
        guess = self._loads[job.load].seconds  # no job has been seen alone yet: in proportion to the guesses
        return seconds * guess / (guess + job.seconds) if guess else 0.0

    def observe(self, job: Job, seconds: float, *, loaded: bool) -> None:
        """Take note of how long a job took.

        Args:
            job: the job.
            seconds: how long it took.
            loaded: whether what it needs was loaded as part of it.
        """
        if loaded:
            self._first.append((job, seconds))
            return
        self._kinds.setdefault((job.load, job.kind), []).append(seconds)
        # What needs nothing loaded says nothing about certificates: neither other tests nor reused ones.
        for name in (job.load, None) if self._loads[job.load].seconds else (job.load,):
            self._guessed[name] += job.seconds
            self._taken[name] += seconds
