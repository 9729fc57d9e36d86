"""Where things lie in a run directory."""

from __future__ import annotations

from pathlib import Path

from pytest_proofpack.pack.layout import MANIFEST
from pytest_proofpack.plan.records import CertificateRequest

STATE = Path("state")
MARKER = STATE / "run.json"
"""A worker shares the controller's run directory if it sees this file there; on another host it does not."""
SCENARIOS = STATE / "scenarios.json"
TUNED = STATE / "tuned_edit_params.json"
TUNED_FILE = Path("tuned_edit_params.json")
"""What a run that tunes leaves at the top of its directory."""
TUNING_RESULT = "tuning.json"
"""What came of one edit of a model, in the folder of its request."""
TUNING = STATE / "tuning"
"""The directory of the tuning run that a run begins with if it is to find parameters first."""
REVISIONS = STATE / "model_revisions.json"
LOCK = ".session.lock"
"""Held by the session that writes the directory; the system lets go of it with the process, however that ends."""
PACK = "proof_pack"
SHARED = STATE / "workers"
"""Where several workers may measure the same baseline there is this file too, and they keep what they measured beside
the run; one process alone would write it for nobody."""
BASELINE = "baseline"
"""The folder of a model where they do."""
WINDOWS = "windows_{}.safetensors"
"""In it, by the seed of the draw: losses and distributions of the unedited model."""
NULL_RATIOS = "null_edge_ratios.json"
"""And its null statistics. Both say of which weights they are."""
TEXTS = STATE / "text"
"""While a session with workers is under way: the windows of text that its controller has cut, by a model's folder."""
PRODUCT_PREFIX, PRODUCT_SUFFIX = ".tool.", ".tmp"
"""Of the folders, directly in the run directory, in which tools make checkpoints; they go like other leftovers."""
LOGS = Path("logs")
"""What controller and workers note down, see :mod:`pytest_proofpack.runs.journal`. It is no part of a pack."""
REPORTS = Path("reports")
ANALYSIS = Path("analysis")
CERTIFICATE = "evaluation.cert.json"


def pack_within(directory: Path) -> Path | None:
    """Return the pack in the directory of a run; None if that is none, as where the directory is a pack itself."""
    pack = directory / PACK
    return pack if not (directory / MANIFEST).exists() and (pack / MANIFEST).is_file() else None


def certificate_path(out: Path, request: CertificateRequest) -> Path:
    """Return the file of a request's certificate in the run directory ``out``."""
    return out / request.folder / CERTIFICATE


def journal_path(out: Path, process: str) -> Path:
    """Return the file that a process (``controller``, or a worker's name) notes its events down in."""
    return out / LOGS / f"{process}.jsonl"


def errors_path(out: Path, worker: str) -> Path:
    """Return the file that is a worker's standard error."""
    return out / LOGS / f"{worker}.log"
