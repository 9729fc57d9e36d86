"""Runs that certify checkpoints edited elsewhere against the embedded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pytest_proofpack.certificate.check import check_certificate
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.baseline import Baseline
from pytest_proofpack.engine.certify import certify, loaded_subject
from pytest_proofpack.engine.edited_checkpoint import load_checkpoint
from pytest_proofpack.engine.prepared import prepare_subject
from pytest_proofpack.runs.run import Run, resolve_run
from pytest_proofpack.text.synthetic import generate
from tests.support.default_settings import DEFAULTS
from tests.support.edited_checkpoints import EMBEDDED


def write_text(folder: Path) -> Path:
    """Write a text of the embedded model's language, long enough for a run, and return its path."""
    path = folder / "text.txt"
    path.write_text("\n\n".join(document.text for document in generate(1, 1200)))
    return path


def subject_run(folder: Path, subjects: str, device: str = DEFAULTS.device, baseline: Path = EMBEDDED) -> Run:
    """Return a run, in ``folder``, of the subject or the directory of subjects of that name in it."""
    subject = (str(folder / subjects),)
    settings = replace(DEFAULTS, baseline=str(baseline), subject=subject, no_pack=True, sign="off", device=device)
    return resolve_run(replace(settings, text=str(write_text(folder)), out=str(folder / "run")))


def certificate_of(run: Run, baseline: Baseline, directory: Path) -> JsonObject:
    """Return the certificate of another checkpoint in place of the run's last subject; it verifies."""
    planned = run.requests[-1]
    assert planned.subject is not None
    subject = replace(planned.subject, path=directory)
    checkpoint = load_checkpoint(run, baseline, prepare_subject(subject, baseline.prepared))
    certificate = certify(run, loaded_subject(run, baseline, replace(planned, subject=subject), checkpoint))
    assert check_certificate(certificate) == []
    return certificate
