"""The run directory: state of a run, its certificates as they arrive, and its verdict. Only the controller writes it.

The one exception is ``<model>/baseline``, where workers share the baseline's losses.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from pytest_proofpack import __version__
from pytest_proofpack.calibration import preset_document, preset_name
from pytest_proofpack.errors import FormatError
from pytest_proofpack.files import atomic_write, require_empty_directory
from pytest_proofpack.jsonio import JsonObject, parse_json, pretty_json, read_json
from pytest_proofpack.records import Category
from pytest_proofpack.report import verdict_text
from pytest_proofpack.revisions import Revisions, now
from pytest_proofpack.run import Run
from pytest_proofpack.schemas import schema_findings
from pytest_proofpack.verdict import Key, certificate_key, compute_verdict

STATE = Path("state")
MARKER = STATE / "run.json"
"""A worker shares the controller's run directory if it sees this file there; on another host it does not."""
SHARED = STATE / "workers"
"""Where several workers may measure the same baseline there is this file too, and they keep what they measured beside
the run; one process alone would write it for nobody."""
REPORTS = Path("reports")
CERTIFICATE = "evaluation.cert.json"


class RunDirectory:
    """Writes one run's directory; every file appears whole or not at all."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._document = run.plan.document(run.suite)
        self._expected: dict[Key, Path] = {
            (request.model.id, request.scenario.id, request.run): run.out / request.folder / CERTIFICATE
            for request in run.requests
        }

    def require_empty(self) -> None:
        """Make sure that nothing lies where run and pack will go.

        Raises:
            ConfigurationError: a directory is not empty or cannot be written.
        """
        require_empty_directory(self._run.out, "--proofpack-out")
        if self._run.pack_dir is not None:
            require_empty_directory(self._run.pack_dir, "--proofpack-pack-dir")
            self._run.pack_dir.rmdir()  # the pack appears there by renaming, whole or not at all

    def create(self, revisions: Revisions, *, workers: bool) -> None:
        """Write the run's state.

        Args:
            revisions: the commits that it reads.
            workers: whether other processes make certificates, and share what they measure on baselines.
        """
        run, settings = self._run, self._run.settings
        if workers:
            atomic_write(run.out / SHARED, b"")
        self._write_state("scenarios", self._document)
        self._write_state("tuned_edit_params", run.suite.tuned)
        self._write_state("model_revisions", revisions.document())
        # Last: a worker that sees this file knows that it shares the directory with the controller.
        self._write_state(
            MARKER.stem,
            {
                "started_at": now(),
                "suite": run.suite.name,
                "tier": settings.tier,
                "profile": settings.profile,
                "determinism": settings.determinism,
                "network_mode": network_mode(run),
                "policy_digest": run.policy.digest,
                "tool": {"name": "pytest-proofpack", "version": __version__},
            },
        )

    def store(self, text: str) -> None:
        """Write one certificate as it came from the worker that made it.

        Raises:
            FormatError: it is no valid certificate, or none that this run asked for.
        """
        certificate = parse_json(text.encode(), "certificate from a worker")
        findings = schema_findings("certificate", certificate)
        if findings:
            raise FormatError(f"a worker sent an invalid certificate: {'; '.join(findings)}")
        key = certificate_key(certificate)
        if key not in self._expected:
            raise FormatError(f"a worker sent a certificate that nobody asked for: {key}")
        atomic_write(self._expected[key], pretty_json(certificate))

    def certificates(self) -> Iterator[JsonObject]:
        """Read back every certificate that there is, in the order of the plan."""
        for path in self._expected.values():
            if path.is_file():
                yield read_json(path, str(path.relative_to(self._run.out)))

    def write_verdict(self) -> JsonObject:
        """Compute the verdict over what is there, write it as JSON and text, and return it."""
        verdict = compute_verdict(self._document, self.certificates())
        atomic_write(self._run.out / REPORTS / "final_verdict.json", pretty_json(verdict))
        atomic_write(self._run.out / REPORTS / "final_verdict.txt", verdict_text(verdict))
        return verdict

    def write_presets(self) -> None:
        """Write the preset of every model that was calibrated."""
        folders = self._run.suite.folders
        calibrated: dict[str, list[JsonObject]] = defaultdict(list)
        for certificate in self.certificates():
            if certificate["scenario"]["category"] == Category.CALIBRATION and certificate["rmt"]["null_log_ratios"]:
                calibrated[certificate["meta"]["model_id"]].append(certificate)
        for model, certificates in calibrated.items():
            path = self._run.out / "presets" / preset_name(folders[model])
            atomic_write(path, pretty_json(preset_document(certificates, self._run.policy)))

    def _write_state(self, name: str, document: JsonObject) -> None:
        atomic_write(self._run.out / STATE / f"{name}.json", pretty_json(document))


def network_mode(run: Run) -> str:
    """Return how the pack calls a run that was allowed to use the network, or not."""
    return "online" if run.settings.net else "offline"
